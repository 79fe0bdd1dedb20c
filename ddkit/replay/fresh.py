"""A loader that draws new views every epoch, for training with hard labels or with labels computed online."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from ddkit.core.distributed import ALONE, Group
from ddkit.core.seeds import rng
from ddkit.format.manifest import Manifest
from ddkit.format.view_pixels import network_input
from ddkit.format.views import Views, draw
from ddkit.replay.buffers import BatchBuffers
from ddkit.replay.order import check_batch, epoch_order
from ddkit.replay.stores.memory import load_set
from ddkit.specs import ViewSpec


class FreshLoader:
    """Yields batches of views that are drawn again every epoch from an augmentation policy.

    Batches are (images, logits, labels) as in ReplayLoader; logits are None without `label`. The images are always held
    in memory, without stored views and labels, which are the larger part of a set.

    Args:
        manifest: The set whose images are used.
        policy: Augmentation policy. Hard labels need a policy without mixing.
        batch_size: Rows per batch, over all ranks.
        device: Device that holds the images and the batches.
        ipc: Use only this prefix; None: the whole set.
        seed: Seed of the views and of the order of rows.
        label: Computes soft labels online, from normalised images float32 [B,3,S,S] to logits [B,C]. None: hard labels.
        group: The ranks that each batch is split among; a last batch may leave a rank without rows.
        classes: Label indices of the classes whose images are used, which give the order of the labels; None: all. The
            policy must not mix images.

    Raises:
        OptionError: `batch_size` is below 1.
        SetError: `ipc` is not a prefix of the set.
        IntegrityError: A file differs from the manifest.
    """

    def __init__(
        self,
        manifest: Manifest,
        policy: ViewSpec,
        *,
        batch_size: int,
        device: torch.device,
        ipc: int | None,
        seed: int,
        label: Callable[[Tensor], Tensor] | None = None,
        group: Group = ALONE,
        classes: Sequence[int] | None = None,
    ) -> None:
        self._set = load_set(manifest, ipc, with_labels=False).to(device)
        self._labels = self._set.labels  # -1: not used
        if classes is not None:
            number = np.full(len(manifest.classes), -1, np.int64)
            number[list(classes)] = np.arange(len(classes))
            self._labels = number[self._set.labels]
        self._rows = int((self._labels >= 0).sum())
        check_batch(self._rows, batch_size, 1)
        self._policy, self._patches = policy, manifest.image.patches
        self.device, self._label, self._buffers = device, label, BatchBuffers(2)
        self.batch_size, self.seed, self._group = batch_size, seed, group

    def __len__(self) -> int:
        return -(-self._rows // self.batch_size)

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor | None, Tensor]]:
        """Yield the batches of one epoch, which depend only on the seed and the epoch.

        Args:
            epoch: Number of the epoch, from 0.
        """
        views, side = self._draw(epoch), self._set.size
        order = epoch_order(self._set.shards, self.seed, epoch)
        order = order[self._labels[order] >= 0]
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            rows = rows[self._group.part(len(rows))]
            view_indices = np.zeros(len(rows), int)
            inputs = network_input(
                self._set.images, views, rows, view_indices, size=side, mean=self._set.mean, std=self._set.std,
                out=self._buffers.take((len(rows), 3, side, side)) if self.device.type == "cpu" else None,
            )  # fmt: skip
            logits = None if self._label is None else self._label(inputs)
            yield inputs, logits, torch.from_numpy(self._labels[rows]).to(self.device)

    def _draw(self, epoch: int) -> Views:
        key = int(rng(self.seed, "fresh", epoch).integers(2**62))
        height, width = self._set.images.shape[-2:]
        parts, first = [], 0
        for n in self._set.shards:
            part = draw(
                self._policy, seed=key, first=first, rows=n, height=height, width=width,
                size=self._set.size, patches=self._patches,
            )  # fmt: skip
            tensors = part.tensors()
            if part.partner is not None:
                everyone = np.arange(n)[:, None], np.zeros((n, 1), int)
                partner = part.partners(*everyone)
                tensors["partner"] = np.where(partner >= 0, partner + first, -1)
            parts.append(Views(**tensors))
            first += n
        return Views.stack(parts)
