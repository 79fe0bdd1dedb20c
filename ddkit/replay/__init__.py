"""What a student sees: the order of rows, the loader that replays stored views, labelling by the teacher, students.

Pipeline, evaluation and users come in; nothing here knows how images are made.
"""

from ddkit.replay.loader import FreshLoader, ReplayLoader, decode_row
from ddkit.replay.order import epoch_order

__all__ = ["FreshLoader", "ReplayLoader", "decode_row", "epoch_order"]
