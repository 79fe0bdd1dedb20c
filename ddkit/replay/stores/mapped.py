"""A store that maps the files of a set: of each row only the view that a batch needs is read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ddkit.format.codecs.interface import Layout
from ddkit.format.codecs.registry import LabelDecoder
from ddkit.format.label_file import joined_decoder
from ddkit.format.manifest import Manifest
from ddkit.format.row_format import RowFormat
from ddkit.format.view_pixels import CPU, view_pixels
from ddkit.format.views import UNMIXED, Views
from ddkit.replay.order import epoch_order
from ddkit.replay.stores.interface import RowBatch
from ddkit.replay.stores.shard_files import Fetch, Opened, ShardFiles
from ddkit.specs import ClassName

UNMIXED_VIEW = ("box", "flip", "patches")  # tensors that determine a view without mixing


class MappedStore:
    """Rows of sets that need not fit into memory; implements RowStore.

    A shard is prepared at its first use in a process: every byte of it is compared with the manifest, every integer and
    label of all its views is checked as for a store in memory, and its images are decoded to a file in the cache
    (`PixelFile`), unless that exists. From then on rows are read from the mapped files, so memory holds only pages
    that the system may drop. A shard whose file was changed in the meantime is verified again when it is next opened; a
    file must not be cut off while it is mapped, since the system then ends the process.

    Args:
        manifests: Sets that are joined; they have equal classes, sizes, view policies and codecs.
        ipc: The prefix of each set; None: all of it.
        fetch: Called with a manifest and a shard before the shard's files are opened for the first time.
    """

    columns = None

    def __init__(self, manifests: Sequence[Manifest], ipc: int | None = None, fetch: Fetch | None = None) -> None:
        self._files = ShardFiles(manifests, ipc, fetch)
        self._starts = self._files.starts
        self._form, self._manifest, self._device = RowFormat.of(manifests[0]), manifests[0], CPU
        self._decoder = joined_decoder(manifests, ipc)

    def __len__(self) -> int:
        return self._files.rows

    @property
    def shards(self) -> list[int]:
        """Rows of each shard."""
        return [place.shard.rows for place in self._files.places]

    @property
    def views(self) -> int:
        """Number of stored views per row."""
        return self._manifest.views.count

    @property
    def size(self) -> int:
        """Side of a view in pixels."""
        return self._form.size

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean per channel of the teacher's normalisation."""
        return self._manifest.normalisation.mean

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation per channel of the teacher's normalisation."""
        return self._manifest.normalisation.std

    @property
    def classes(self) -> Sequence[ClassName]:
        """The classes, in label order."""
        return self._manifest.classes

    @property
    def decoder(self) -> LabelDecoder:
        """Decoder of the labels."""
        return self._decoder

    def to(self, device: torch.device) -> MappedStore:
        """Compute views on another device from now on, and return the store.

        Args:
            device: The device.
        """
        self._device = device
        return self

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """Return the positions of all rows in replay order, int64 [n].

        Args:
            seed: Seed of the order.
            epoch: Number of the epoch, from 0.
        """
        return epoch_order(self.shards, seed, epoch)

    # -------------------------------------------------------------- rows

    def batch(self, rows: np.ndarray, view_indices: np.ndarray) -> RowBatch:
        """Return one view of each of some rows.

        Args:
            rows: Positions of the rows, int [B].
            view_indices: View index of each row, int [B].
        """
        form, count = self._form, len(rows)
        own = self._gather(rows, view_indices, form.shapes | form.soft)
        views = {name: own[name] for name in form.shapes}
        everyone = rows
        if "partner" in views:
            mixed = np.flatnonzero(views["partner"] != UNMIXED)
            partners = self._starts[self._shards_of(rows[mixed])] + views["partner"][mixed].astype(np.int64)
            everyone = np.concatenate([rows, partners])
            needed = {name: form.shapes[name] for name in UNMIXED_VIEW if name in form.shapes}
            other = self._gather(partners, view_indices[mixed], needed)
            position = np.full(len(everyone), -1, np.int64)
            position[mixed] = count + np.arange(len(mixed))
            padding = {name: np.zeros((len(mixed), *views[name].shape[1:]), views[name].dtype) for name in views}
            views = {name: np.concatenate([views[name], (padding | other)[name]]) for name in views}
            views["partner"] = position
        pixels = view_pixels(
            self._images(everyone), Views(**{name: array[:, None] for name, array in views.items()}),
            np.arange(count), np.zeros(count, int), form.size, self._device,
        )  # fmt: skip
        labels = {name: own[name] for name in form.soft}
        return RowBatch(pixels, labels, self.labels_of(rows), rows)

    def stored(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the stored image of a row, uint8 [3,H,W], and the crop boxes of its views, [V,4].

        Args:
            row: Position of the row.
        """
        image = self._images(np.array([row]))[0].transpose(2, 0, 1)
        return np.ascontiguousarray(image), self._all_views(np.array([row]), "box")[0]

    def labels_of(self, rows: np.ndarray) -> np.ndarray:
        """Return the class indices of some rows, int64 [B].

        Args:
            rows: Positions of the rows, int [B].
        """
        numbers = self._shards_of(rows)
        found = np.empty(len(rows), np.int64)
        for number in np.unique(numbers):
            here = numbers == number
            found[here] = self._files.prepare(int(number)).labels[rows[here] - self._starts[number]]
        return found

    def partners_of(self, rows: np.ndarray) -> np.ndarray | None:
        """Return the positions of the rows mixed into all views of some rows: int64 [B,V], -1: none; or None.

        Args:
            rows: Positions of the rows, int [B].
        """
        if "partner" not in self._form.shapes:
            return None
        partner = self._all_views(rows, "partner").astype(np.int64)
        return np.where(partner == UNMIXED, -1, partner + self._starts[self._shards_of(rows)][:, None])

    def _shards_of(self, rows: np.ndarray) -> np.ndarray:
        found: np.ndarray = np.searchsorted(self._starts, rows, side="right") - 1
        return found

    def _located(self, rows: np.ndarray) -> list[tuple[Opened, int]]:
        """The opened shard and the position in it of each row."""
        numbers = self._shards_of(rows)
        opened = {number: self._files.open(number) for number in dict.fromkeys(numbers.tolist())}
        return [(opened[number], at) for number, at in zip(numbers.tolist(), (rows - self._starts[numbers]).tolist())]

    def _images(self, rows: np.ndarray) -> list[np.ndarray]:
        """The images of some rows: uint8 [H,W,3] each."""
        return [shard.pixels[at] for shard, at in self._located(rows)]

    def _gather(self, rows: np.ndarray, view_indices: np.ndarray, shapes: Layout) -> dict[str, np.ndarray]:
        """Read one view of each row: [B,...] by name of the tensor. shapes: dtype and shape [V,...] of the tensors."""
        located, found = self._located(rows), dict[str, np.ndarray]()
        for name, (dtype, (_, *shape)) in shapes.items():
            array = np.empty((len(rows), *shape), dtype)
            values = int(np.prod(shape))
            for i, (shard, at) in enumerate(located):
                offset = int(shard.known.starts[name][at]) + int(view_indices[i]) * values * dtype.itemsize
                array[i] = np.frombuffer(shard.tar, dtype, values, offset).reshape(shape)
            found[name] = array
        return found

    def _all_views(self, rows: np.ndarray, name: str) -> np.ndarray:
        """Read a tensor of all views of some rows: [B,V,...]."""
        dtype, shape = self._form.shapes[name]
        values = int(np.prod(shape))
        found = [
            np.frombuffer(shard.tar, dtype, values, int(shard.known.starts[name][at])).reshape(shape)
            for shard, at in self._located(rows)
        ]
        return np.stack(found) if found else np.empty((0, *shape), dtype)

    def expect(self, rows: np.ndarray) -> None:
        """Prepare the shards of some rows in a background thread.

        Args:
            rows: Positions of the rows in the order of their use; none cancels what has not begun.
        """
        self._files.expect(list(dict.fromkeys(self._shards_of(rows).tolist())))
