"""Training from a set: the replay order, stores that hold the rows, and loaders that yield batches of views."""

from ddkit.replay.dataset_rows import decode_row
from ddkit.replay.fresh import FreshLoader
from ddkit.replay.loader import ReplayLoader
from ddkit.replay.order import epoch_order

__all__ = ["FreshLoader", "ReplayLoader", "decode_row", "epoch_order"]
