"""A store that holds the images, views and labels of all rows in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ddkit.errors import IntegrityError
from ddkit.format.codecs.registry import LabelDecoder
from ddkit.format.label_file import joined_decoder
from ddkit.format.manifest import Manifest
from ddkit.format.reading import read_set
from ddkit.format.view_pixels import view_pixels
from ddkit.format.views import UNMIXED, Views
from ddkit.replay.order import epoch_order
from ddkit.replay.stores.interface import RowBatch, StoredLabels
from ddkit.specs import ClassName

LABELS_PART = 1 / 8  # most of a GPU's free memory that labels take


@dataclass(frozen=True)
class MemoryStore:
    """All rows of a set or of a prefix in memory; implements RowStore.

    Attributes:
        images: uint8 [n,3,H,W].
        labels: Class indices, int64 [n].
        rows: Row numbers, int64 [n].
        shards: Rows of each shard.
        all_views: Views of all rows, partners as positions in these arrays (-1: none). None if only images were read.
        soft: The codec's tensors [n,V,...].
        decoder: Decoder of the labels.
        size: Side of a view in pixels.
        mean: Mean per channel of the teacher's normalisation.
        std: Standard deviation per channel of the teacher's normalisation.
        classes: The classes, in label order.
        placed: The codec's tensors on the device of the images, where views take them from there.
    """

    images: Tensor
    labels: np.ndarray
    rows: np.ndarray
    shards: Sequence[int]
    all_views: Views | None
    soft: dict[str, np.ndarray]
    decoder: LabelDecoder
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: Sequence[ClassName]
    placed: dict[str, Tensor] | None = None
    columns: None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def views(self) -> int:
        """Number of stored views per row."""
        return 0 if self.all_views is None else self.all_views.count

    def to(self, device: torch.device) -> MemoryStore:
        """Return the same store with its images on another device.

        A GPU gets the labels as well, if it can decode them and they are small beside its free memory.

        Args:
            device: Device for the images.
        """
        if device == self.images.device:
            return self
        moved = replace(self, images=self.images.to(device).contiguous(), placed=None)
        if device.type != "cuda" or not self.decoder.on_gpu:
            return moved
        fits = self.decoder.placed_bytes(self.soft) <= LABELS_PART * torch.cuda.mem_get_info(device)[0]
        return moved.with_labels_placed() if fits else moved

    def with_labels_placed(self) -> MemoryStore:
        """Return the same store with its labels, too, on the device of the images, for `decode_on_device`."""
        return replace(self, placed=self.decoder.placed(self.soft, self.images.device))

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """Return the positions of all rows in replay order, int64 [n].

        Args:
            seed: Seed of the order.
            epoch: Number of the epoch, from 0.
        """
        return epoch_order(self.shards, seed, epoch)

    def expect(self, rows: np.ndarray) -> None:
        """Do nothing: all rows are in memory. `rows`: as for RowStore."""

    def batch(self, rows: np.ndarray, view_indices: np.ndarray) -> RowBatch:
        """Return one view of each of some rows.

        Args:
            rows: Positions of the rows, int [B].
            view_indices: View index of each row, int [B].
        """
        assert self.all_views is not None
        return RowBatch(
            pixels=view_pixels(self.images, self.all_views, rows, view_indices, self.size),
            labels=self._labels_of_views(rows, view_indices),  # after the pixels, for which NumPy checks the positions
            classes=self.labels[rows],
            rows=self.rows[rows],
        )

    def _labels_of_views(self, rows: np.ndarray, view_indices: np.ndarray) -> StoredLabels:
        if self.placed is None:
            return {name: tensor[rows, view_indices] for name, tensor in self.soft.items()}
        at = torch.from_numpy(np.stack([rows, view_indices])).to(self.images.device)
        return {name: tensor[at[0], at[1]] for name, tensor in self.placed.items()}

    def stored(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the stored image of a row, uint8 [3,H,W], and the crop boxes of its views, [V,4].

        Args:
            row: Position of the row.
        """
        assert self.all_views is not None
        return np.ascontiguousarray(self.images[row].cpu().numpy()), self.all_views.box[row]

    def labels_of(self, rows: np.ndarray) -> np.ndarray:
        """Return the class indices of some rows, int64 [B].

        Args:
            rows: Positions of the rows, int [B].
        """
        found: np.ndarray = self.labels[rows]
        return found

    def partners_of(self, rows: np.ndarray) -> np.ndarray | None:
        """Return the positions of the rows mixed into all views of some rows: int64 [B,V], -1: none; or None.

        Args:
            rows: Positions of the rows, int [B].
        """
        if self.all_views is None or self.all_views.partner is None:
            return None
        return self.all_views.partners(rows[:, None], np.arange(self.views)[None])

    def logits(self, rows: np.ndarray, view_indices: np.ndarray, temperature: float = 20.0) -> np.ndarray:
        """Return the decoded labels of some views: float32 [B,C].

        Args:
            rows: Positions of the rows, int [B].
            view_indices: View index of each row, int [B].
            temperature: Temperature at which students learn.
        """
        found = {name: tensor[rows, view_indices] for name, tensor in self.soft.items()}
        return self.decoder.decode(found, temperature)


def load_set(manifest: Manifest, ipc: int | None = None, *, with_labels: bool = True) -> MemoryStore:
    """Read a set or a prefix into memory and compare every byte that is read with the manifest.

    Args:
        manifest: The set to read.
        ipc: The prefix to read; default: the whole set.
        with_labels: False skips views and soft labels.

    Raises:
        SetError: `ipc` is not a prefix of the set.
        IntegrityError: A file is missing or damaged; the message names shard, row and member.
    """
    return load_sets([manifest], ipc, with_labels=with_labels)


def load_sets(manifests: Sequence[Manifest], ipc: int | None = None, *, with_labels: bool = True) -> MemoryStore:
    """Read sets, or the same prefix of each, into one store; rows of several sets are numbered by their position.

    Args:
        manifests: Sets with equal classes, sizes and view policies.
        ipc, with_labels: As for `load_set`, which also says what is raised.
    """
    first = manifests[0]
    decoder = joined_decoder(manifests, ipc)
    n, side = sum(manifest.rows(ipc) for manifest in manifests), first.image.size
    for manifest in manifests:  # before arrays of the manifests' sizes are allocated
        for shard in manifest.shards_of(ipc):
            kept = shard if with_labels or not shard.images else shard.images
            if not (manifest.root / kept.path).is_file():
                raise IntegrityError(f"{manifest.where}: {kept.path} is missing; fetch or create the set again")
    images, labels = np.empty((n, side, side, 3), np.uint8), np.empty(n, np.int64)
    rows, firsts = np.empty(n, np.int64), np.empty(n, np.int64)
    soft: dict[str, np.ndarray] = {}
    views: list[Views] = []
    at = 0
    for part in (part for manifest in manifests for _, part in read_set(manifest, ipc, labels=with_labels)):
        end = at + len(part.rows)
        labels[at:end], rows[at:end], firsts[at:end] = part.labels, part.rows, at - part.start
        for i, pixels in enumerate(part.pixels, start=at):
            images[i] = pixels.transpose(1, 2, 0)
        for name, tensor in part.soft.items():
            if name not in soft:
                soft[name] = np.empty((n, *tensor.shape[1:]), tensor.dtype)
            soft[name][at:end] = tensor
        views += [part.views] if part.views is not None else []
        at = end
    seen = first.normalisation
    return MemoryStore(
        images=torch.from_numpy(images).permute(0, 3, 1, 2), labels=labels,
        rows=rows if len(manifests) == 1 else np.arange(n),
        shards=[shard.rows for manifest in manifests for shard in manifest.shards_of(ipc)],
        all_views=_global_partners(Views.stack(views), firsts) if views else None, soft=soft, decoder=decoder,
        size=first.views.size, mean=seen.mean, std=seen.std, classes=first.classes,
    )  # fmt: skip


def _global_partners(views: Views, firsts: np.ndarray) -> Views:
    """Partners as positions in the joined arrays. firsts: position of the first row of each row's shard."""
    tensors = views.tensors()
    if views.partner is not None:
        partner = views.partner.astype(np.int64)
        tensors["partner"] = np.where(partner == UNMIXED, -1, partner + firsts[:, None])
    return Views(**tensors)
