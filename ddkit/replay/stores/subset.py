"""Some classes of a store, with their labels numbered in a given order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch

from ddkit.errors import OptionError, SetError, unknown
from ddkit.format.codecs.registry import LabelDecoder
from ddkit.replay.stores.interface import RowBatch, RowStore
from ddkit.specs import ClassName


class SubsetStore:
    """The rows of some classes of another store, in its replay order; implements RowStore.

    Args:
        store: The other store. All its shards are read for the labels and mixing partners.
        classes: Names or indices of classes; their order is that of the labels and of the logits.
        where: The set in messages.

    Raises:
        OptionError: A class is unknown or given twice, or none is given.
        SetError: A view of a row of these classes is mixed with a row of another class.
    """

    def __init__(self, store: RowStore, classes: Sequence[str | int], where: str) -> None:
        self._store = store
        self.columns = np.array(_indices(store.classes, classes), np.int64)
        labels = store.labels_of(np.arange(len(store)))
        number = np.full(len(store.classes), -1, np.int64)
        number[self.columns] = np.arange(len(self.columns))
        self._labels = number[labels]
        self._kept = np.flatnonzero(self._labels >= 0)
        self._position = np.full(len(store), -1, np.int64)
        self._position[self._kept] = np.arange(len(self._kept))
        partners = store.partners_of(self._kept)
        if partners is not None and ((partners >= 0) & (self._labels[partners] < 0)).any():
            raise SetError(
                f"{where}: views of these classes are mixed with images of other classes; make a set without that by "
                f"`ddkit relabel {where} OUT --mix-within FILE`, whose groups keep these classes together"
            )

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def views(self) -> int:
        """Number of stored views per row."""
        return self._store.views

    @property
    def size(self) -> int:
        """Side of a view in pixels."""
        return self._store.size

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean per channel of the teacher's normalisation."""
        return self._store.mean

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation per channel of the teacher's normalisation."""
        return self._store.std

    @property
    def classes(self) -> list[ClassName]:
        """The classes, in label order."""
        return [self._store.classes[int(i)] for i in self.columns]

    @property
    def decoder(self) -> LabelDecoder:
        """Decoder of the labels; `columns` of its logits belong to these classes."""
        return self._store.decoder

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """Return the positions of all rows in replay order, int64 [n].

        Args:
            seed: Seed of the order.
            epoch: Number of the epoch, from 0.
        """
        found = self._position[self._store.order(seed, epoch)]
        kept: np.ndarray = found[found >= 0]
        return kept

    def expect(self, rows: np.ndarray) -> None:
        """Announce which rows will be asked for. `rows`: as for RowStore."""
        self._store.expect(self._kept[rows])

    def batch(self, rows: np.ndarray, view_indices: np.ndarray) -> RowBatch:
        """Return one view of each of some rows.

        Args:
            rows: Positions of the rows, int [B].
            view_indices: View index of each row, int [B].
        """
        found = self._store.batch(self._kept[rows], view_indices)
        return RowBatch(found.pixels, found.labels, self.labels_of(rows), found.rows)

    def stored(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the stored image of a row, uint8 [3,H,W], and the crop boxes of its views, [V,4].

        Args:
            row: Position of the row.
        """
        return self._store.stored(int(self._kept[row]))

    def labels_of(self, rows: np.ndarray) -> np.ndarray:
        """Return the class indices of some rows, int64 [B].

        Args:
            rows: Positions of the rows, int [B].
        """
        found: np.ndarray = self._labels[self._kept[rows]]
        return found

    def partners_of(self, rows: np.ndarray) -> np.ndarray | None:
        """Return the positions of the rows mixed into all views of some rows: int64 [B,V], -1: none; or None.

        Args:
            rows: Positions of the rows, int [B].
        """
        found = self._store.partners_of(self._kept[rows])
        return None if found is None else np.where(found < 0, -1, self._position[found])

    def to(self, device: torch.device) -> SubsetStore:
        """Return the same store with views computed on another device.

        Args:
            device: The device.
        """
        self._store = self._store.to(device)
        return self


def _indices(known: Sequence[ClassName], wanted: Sequence[str | int]) -> list[int]:
    """Indices of classes given by name or index."""
    if isinstance(wanted, str) or not isinstance(wanted, Iterable):
        raise OptionError(f'classes is {wanted!r:.40}; give a list of names or indices, as in classes=["cat", 3]')
    names = {c.name: i for i, c in enumerate(known)}
    found = []
    for one in wanted:
        if isinstance(one, bool) or not isinstance(one, str | int | np.integer):
            raise OptionError(f"classes holds {one!r:.40}; give names or indices")
        index = names.get(one) if isinstance(one, str) else int(one)
        if index is None:
            raise unknown("class", str(one), list(names))
        if not 0 <= index < len(known):
            raise OptionError(f"class {index} is not one of the {len(known)} classes; they count from 0")
        found.append(index)
    if not found or len(set(found)) < len(found):
        raise OptionError("classes= is empty or names a class twice; give each class once")
    return found
