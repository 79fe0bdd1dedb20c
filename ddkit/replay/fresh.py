"""New views every epoch, for hard labels and labels made online."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ddkit.core.seeds import rng
from ddkit.format.manifest import Manifest
from ddkit.format.view_pixels import network_input
from ddkit.format.views import Views, draw
from ddkit.replay.order import check_batch, epoch_order
from ddkit.replay.stores.memory import load_set
from ddkit.specs import ViewSpec

if TYPE_CHECKING:
    pass


class FreshLoader:
    """New views every epoch, drawn by an augmentation policy, for hard labels (`label` None, no mixing) or online ones.

    label: normalised float [B,3,S,S] -> logits [B,C]; yields as ReplayLoader does, logits None without `label`.
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
    ) -> None:
        self._set = load_set(manifest, ipc, with_labels=False)
        check_batch(len(self._set), batch_size, 1)
        self._policy, self._patches = policy, manifest.image.patches
        self._images, self.device, self._label = self._set.images.to(device), device, label
        self.batch_size, self.seed = batch_size, seed

    def __len__(self) -> int:
        return -(-len(self._set) // self.batch_size)

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor | None, Tensor]]:
        """The batches of one epoch; a function of (seed, epoch) alone."""
        views, side = self._draw(epoch), self._set.size
        order = epoch_order(self._set.shards, self.seed, epoch)
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            view_indices = np.zeros(len(rows), int)
            inputs = network_input(
                self._images, views, rows, view_indices, size=side, mean=self._set.mean, std=self._set.std
            )
            logits = None if self._label is None else self._label(inputs)
            yield inputs, logits, torch.from_numpy(self._set.labels[rows]).to(self.device)

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
