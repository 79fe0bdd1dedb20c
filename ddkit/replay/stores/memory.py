"""A set in memory: decoded images, integers and labels of all its rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ddkit.errors import IntegrityError
from ddkit.format.codecs import Codec, find_codec
from ddkit.format.manifest import Manifest
from ddkit.format.reading import read_set
from ddkit.format.views import UNMIXED, Views
from ddkit.specs import ClassName

if TYPE_CHECKING:
    pass


@dataclass
class Resident:
    """images: uint8 [n,3,H,W]; labels: int64 [n]; rows: int64 [n], row numbers; shards: rows of each shard.

    views: of all rows, partners as positions in these arrays (-1 = none), None where only images are wanted;
    soft: the codec's tensors [n,V,...].
    """

    images: Tensor
    labels: np.ndarray
    rows: np.ndarray
    shards: list[int]
    views: Views | None
    soft: dict[str, np.ndarray]
    codec: Codec
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: list[ClassName]

    def __len__(self) -> int:
        return len(self.labels)

    def logits(self, rows: np.ndarray, numbers: np.ndarray) -> Tensor:
        """The teacher's logits on some views: float32 [B,C], centred."""
        return torch.from_numpy(self.codec.decode({name: array[rows, numbers] for name, array in self.soft.items()}))


def load_set(manifest: Manifest, ipc: int | None = None, *, with_labels: bool = True) -> Resident:
    """Read the shards of a prefix, after every byte of each was compared with the manifest.

    with_labels: False leaves views and soft labels unread. Raises IntegrityError naming shard, row and member.
    """
    codec = find_codec(manifest.labels.codec, stored=True)
    shards, n, side = manifest.shards_of(ipc), manifest.rows(ipc), manifest.image.size
    for shard in shards:  # before memory is taken for what the manifest says
        kept = shard if with_labels or not shard.images else shard.images
        if not (manifest.root / kept.path).is_file():
            raise IntegrityError(f"{manifest.where}: {kept.path} is missing; fetch or make the set again")
    images, labels = np.empty((n, 3, side, side), np.uint8), np.empty(n, np.int64)
    rows, firsts = np.empty(n, np.int64), np.empty(n, np.int64)
    soft: dict[str, np.ndarray] = {}
    views: list[Views] = []
    at = 0
    for _, part in read_set(manifest, ipc, labels=with_labels):
        end = at + len(part.rows)
        labels[at:end], rows[at:end], firsts[at:end] = part.labels, part.rows, at - part.start
        for i, pixels in enumerate(part.pixels, start=at):
            images[i] = pixels
        for name, tensor in part.soft.items():
            if name not in soft:
                soft[name] = np.empty((n, *tensor.shape[1:]), tensor.dtype)
            soft[name][at:end] = tensor
        views += [part.views] if part.views is not None else []
        at = end
    return Resident(
        images=torch.from_numpy(images), labels=labels, rows=rows, shards=[shard.rows for shard in shards],
        views=_global_partners(Views.stack(views), firsts) if views else None, soft=soft, codec=codec,
        size=manifest.views.size, mean=manifest.normalisation.mean, std=manifest.normalisation.std,
        classes=list(manifest.classes),
    )  # fmt: skip


def _global_partners(views: Views, firsts: np.ndarray) -> Views:
    """Partners as positions in the joined arrays. firsts: position of the first row of each row's shard."""
    tensors = views.tensors()
    if views.partner is not None:
        partner = views.partner.astype(np.int64)
        tensors["partner"] = np.where(partner == UNMIXED, -1, partner + firsts[:, None])
    return Views(**tensors)
