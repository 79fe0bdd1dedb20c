"""What holds the rows of a set while a student trains: asked for the views of some rows, gives pixels and labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ddkit.format.codecs import Codec
from ddkit.format.view_pixels import ViewPixels
from ddkit.specs import ClassName


@dataclass(frozen=True)
class RowBatch:
    """One view of each of some rows.

    pixels: on the store's device, partners included; labels: the codec's tensors [B,...]; classes: int64 [B]; rows:
    int64 [B], row numbers in the set.
    """

    pixels: ViewPixels
    labels: dict[str, np.ndarray]
    classes: np.ndarray
    rows: np.ndarray


class RowStore(Protocol):
    """The rows of a set, by position.

    shards: rows of each shard; views: stored of each image; size: output side of a view, pixels; mean, std: of the
    teacher, per channel; classes: in label order; codec: of the labels.
    """

    shards: Sequence[int]
    views: int
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: Sequence[ClassName]
    codec: Codec

    def __len__(self) -> int:
        """How many rows there are."""
        ...

    def batch(self, rows: np.ndarray, view_indices: np.ndarray) -> RowBatch:
        """One view of each of some rows. rows: int [B], positions; view_indices: int [B]."""
        ...

    def stored(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """The stored image of a row, uint8 [3,H,W], and the crop boxes of its views, [V,4]."""
        ...
