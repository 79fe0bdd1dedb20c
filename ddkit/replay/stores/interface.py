"""The interface of stores: given rows and view indices, a store returns pixels, labels and classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from ddkit.format.codecs.registry import LabelDecoder
from ddkit.format.view_pixels import ViewPixels
from ddkit.specs import ClassName

StoredLabels = Mapping[str, np.ndarray | torch.Tensor]  # a codec's tensors; on a GPU those of `LabelDecoder.placed`


@dataclass(frozen=True)
class RowBatch:
    """One view of each row of a batch.

    Attributes:
        pixels: The views before normalisation, with their mixing partners, on the store's device.
        labels: The codec's tensors [B,...]; on a GPU where the store keeps them there.
        classes: Class indices, int64 [B].
        rows: Row numbers in the set, int64 [B].
    """

    pixels: ViewPixels
    labels: StoredLabels
    classes: np.ndarray
    rows: np.ndarray


class RowStore(Protocol):
    """Interface of a store of rows, which are addressed by position."""

    @property
    def views(self) -> int:
        """Number of stored views per row."""

    @property
    def size(self) -> int:
        """Side of a view in pixels."""

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean per channel of the teacher's normalisation."""

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation per channel of the teacher's normalisation."""

    @property
    def classes(self) -> Sequence[ClassName]:
        """The classes, in label order."""

    @property
    def decoder(self) -> LabelDecoder:
        """Decoder of the labels."""

    @property
    def columns(self) -> np.ndarray | None:
        """The columns of decoded logits that belong to `classes`, int [C]; None: all, in this order."""

    def __len__(self) -> int:
        """Return the number of rows."""
        ...

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """Return the positions of all rows in replay order, int64 [n].

        Args:
            seed: Seed of the order.
            epoch: Number of the epoch, from 0.
        """
        ...

    def expect(self, rows: np.ndarray) -> None:
        """Announce which rows will be asked for, so that a store can prepare them ahead.

        Args:
            rows: Positions of the rows in the order of their use; none cancels what has not begun.
        """
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

    def labels_of(self, rows: np.ndarray) -> np.ndarray:
        """Return the class indices of some rows, int64 [B].

        Args:
            rows: Positions of the rows, int [B].
        """
        ...

    def partners_of(self, rows: np.ndarray) -> np.ndarray | None:
        """Return the positions of the rows mixed into all views of some rows: int64 [B,V], -1: none.

        None if no view of the set is mixed.

        Args:
            rows: Positions of the rows, int [B].
        """
        ...

    def to(self, device: torch.device) -> RowStore:
        """Return the same store with views computed on another device.

        Args:
            device: The device.
        """
        ...
