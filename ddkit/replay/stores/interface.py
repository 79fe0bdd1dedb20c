"""The interface of stores: given rows and view indices, a store returns pixels, labels and classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ddkit.format.codecs.registry import LabelDecoder
from ddkit.format.view_pixels import ViewPixels
from ddkit.specs import ClassName


@dataclass(frozen=True)
class RowBatch:
    """One view of each row of a batch.

    Attributes:
        pixels: The views before normalisation, with their mixing partners, on the store's device.
        labels: The codec's tensors [B,...].
        classes: Class indices, int64 [B].
        rows: Row numbers in the set, int64 [B].
    """

    pixels: ViewPixels
    labels: dict[str, np.ndarray]
    classes: np.ndarray
    rows: np.ndarray


class RowStore(Protocol):
    """Interface of a store of rows, which are addressed by position.

    Attributes:
        shards: Rows of each shard.
        views: Number of stored views per row.
        size: Side of a view in pixels.
        mean: Mean per channel of the teacher's normalisation.
        std: Standard deviation per channel of the teacher's normalisation.
        classes: The classes, in label order.
        decoder: Decoder of the labels.
    """

    shards: Sequence[int]
    views: int
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: Sequence[ClassName]
    decoder: LabelDecoder

    def __len__(self) -> int:
        """Return the number of rows."""
        ...

    def batch(self, rows: np.ndarray, view_indices: np.ndarray) -> RowBatch:
        """Return one view of each of some rows.

        Args:
            rows: Positions of the rows, int [B].
            view_indices: View index of each row, int [B].
        """
        ...

    def stored(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the stored image of a row, uint8 [3,H,W], and the crop boxes of its views, [V,4].

        Args:
            row: Position of the row.
        """
        ...
