"""The replay loader: the stored views of a set, in the replay order."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from ddkit.core.device import pick_device
from ddkit.errors import OptionError, SetError
from ddkit.format.manifest import Manifest
from ddkit.format.views import apply, network_input
from ddkit.replay.order import check_batch, epoch_order, rank_slice
from ddkit.replay.stores.dataset import load_dataset_rows
from ddkit.replay.stores.memory import Resident, load_set
from ddkit.sets.opening import open_manifest, open_set

if TYPE_CHECKING:
    from datasets import Dataset


AHEAD = {"cpu": 0, "cuda": 2**22}  # pixels of views that are made at once, beyond one batch


class ReplayLoader:
    """Yields a student's batches: the stored views of a distilled set, pixel for pixel, with their soft labels.

    source: a directory, `ORG/NAME` on the Hub (revision: a branch, tag or commit there; only the shards of `ipc` are
    fetched), or a `datasets.Dataset` of a set. batch_size: rows of a global batch, over all ranks.
    device: where images live and batches appear. ipc: only this prefix. seed: of the order. temperature: where
    the codec needs one (default: the set's). manifest: of a Dataset, a directory or Hub id. rank, world_size: default
    from torchrun's environment.
    batch: "tuple" yields (images float32 [B,3,S,S] normalised, logits float32 [B,C], labels int64 [B]); "dict" yields
    {"pixel_values", "logits" as "soft_labels", "labels", "rows"} for transformers' Trainer.

    Each `iter(loader)` starts the next epoch by itself; epoch e replays view e mod V of every row. It shards itself by
    rank and uses no worker processes: do not wrap it in a DataLoader. Every byte is compared with the manifest before
    the first batch. Raises SetError, IntegrityError, FormatVersion, OptionError, HubAccess, HubError.
    """

    def __init__(
        self,
        source: str | Path | Dataset | Manifest,
        *,
        batch_size: int,
        device: str | torch.device = "cpu",
        ipc: int | None = None,
        seed: int = 0,
        temperature: float | None = None,
        manifest: str | Path | None = None,
        revision: str | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        batch: Literal["tuple", "dict"] = "tuple",
    ) -> None:
        if batch not in ("tuple", "dict"):
            raise OptionError(f"batch is {batch!r}; valid: tuple, dict")
        self._manifest, self._set = _open(source, manifest, ipc, revision)
        self.world_size = int(os.environ.get("WORLD_SIZE", 1)) if world_size is None else world_size
        if rank is None and self.world_size > 1 and "RANK" not in os.environ:
            raise OptionError(
                f"{self.world_size} processes, and RANK is not set; give rank=, as in rank=trainer.global_rank"
            )
        self.rank = int(os.environ.get("RANK", 0)) if rank is None else rank
        if not 0 <= self.rank < self.world_size:
            raise OptionError(f"rank {self.rank} is not one of {self.world_size}; ranks count from 0")
        check_batch(len(self._set), batch_size, self.world_size)
        self.batch_size, self.seed = batch_size, seed
        self.device = device if isinstance(device, torch.device) else pick_device(device)
        recorded = self._manifest.labels.temperature if self._manifest else None
        self.temperature = temperature or recorded or 20.0
        self._as_dict = batch == "dict"
        self._images = self._set.images.to(self.device)
        self._next = self._at = (0, 0)  # (epoch, step) of the next iter(), and of the next batch to come
        self._running: object = None

    # -------------------------------------------------------------- what the set says

    @property
    def classes(self) -> list[str]:
        return [c.name for c in self._set.classes]

    @property
    def class_ids(self) -> list[str | None]:
        return [c.id for c in self._set.classes]

    @property
    def num_classes(self) -> int:
        return len(self._set.classes)

    @property
    def image_size(self) -> int:
        """Side of the images a student sees, pixels."""
        return self._set.size

    @property
    def mean(self) -> tuple[float, ...]:
        return self._set.mean

    @property
    def std(self) -> tuple[float, ...]:
        return self._set.std

    @property
    def protocol(self) -> str | None:
        """The protocol the manifest recommends; None for a Dataset without manifest."""
        return self._manifest.recommended.protocol if self._manifest else None

    @property
    def manifest(self) -> Manifest | None:
        return self._manifest

    @property
    def views(self) -> int:
        """Views stored of each image."""
        assert self._set.views is not None
        return self._set.views.count

    @property
    def rows(self) -> int:
        """Images in the set."""
        return len(self._set)

    def stored(self, row: int) -> tuple[np.ndarray, np.ndarray, int]:
        """The stored image uint8 [3,H,W] of one row (by position), its boxes [V,4] and its class."""
        assert self._set.views is not None
        return self._set.images[row].numpy(), self._set.views.box[row], int(self._set.labels[row])

    def view(self, row: int, number: int) -> tuple[np.ndarray, np.ndarray]:
        """One view of one row: pixels uint8 [3,S,S] (CutMix included) and the teacher's logits float32 [C]."""
        assert self._set.views is not None
        rows, numbers = np.array([row]), np.array([number])
        pixels = apply(self._images, self._set.views, rows, numbers, self._set.size)
        return pixels[0].cpu().numpy(), self._set.logits(rows, numbers)[0].numpy()

    def __len__(self) -> int:
        """Steps of an epoch, the same for every rank."""
        return -(-len(self._set) // self.batch_size)

    # -------------------------------------------------------------- epochs

    def __iter__(self) -> Iterator[Any]:
        # the epoch is taken with the first batch: frameworks make an iterator just to see whether they can
        (epoch, first), running = self._next, object()
        self._next, self._at, self._running = (epoch + 1, 0), (epoch, first), running
        for step, batch in enumerate(self._batches(epoch, first), first):
            if self._running is running:  # an older iterator no longer says where the loader stands
                self._at = (epoch, step + 1) if step + 1 < len(self) else (epoch + 1, 0)
            yield batch

    def set_epoch(self, epoch: int) -> None:
        """Make the next `iter` start this epoch. Never needed: epochs advance by themselves."""
        self._next = self._at = (int(epoch), 0)

    def state_dict(self) -> dict[str, int]:
        """Where the loader stands, also in mid-epoch: the next batch to come."""
        return {"epoch": self._at[0], "step": self._at[1], "seed": self.seed, "batch_size": self.batch_size}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on where `state_dict` stood. Raises OptionError for the state of another seed or batch size."""
        for key in ("seed", "batch_size"):
            if state[key] != getattr(self, key):
                raise OptionError(
                    f"the state is of {key} {state[key]}, this loader has {getattr(self, key)}; make it alike"
                )
        self._next = self._at = (state["epoch"], state["step"])

    def peek(self) -> Any:
        """The first batch of the next epoch, without starting it."""
        return next(self._batches(*self._next))

    def _batches(self, epoch: int, first: int) -> Iterator[Any]:
        """The batches of an epoch from step `first` on. A GPU makes the views of many batches at once: its time goes
        into launching, not into pixels."""
        order = epoch_order(self._set.shards, self.seed, epoch)
        ahead = max(1, AHEAD.get(self.device.type, 0) // (self.batch_size * self._set.size**2))
        for start in range(first, len(self), ahead):
            steps = range(start, min(start + ahead, len(self)))
            parts = [self._rows(order, step) for step in steps]
            made = self._made(np.concatenate(parts), epoch)
            for batch in zip(*(tensor.split([len(part) for part in parts]) for tensor in made)):
                inputs, logits, labels, rows = batch
                if self._as_dict:
                    yield {"pixel_values": inputs, "soft_labels": logits, "labels": labels, "rows": rows}
                else:
                    yield inputs, logits, labels

    def _rows(self, order: np.ndarray, step: int) -> np.ndarray:
        """This rank's rows of a step."""
        rows = order[step * self.batch_size : (step + 1) * self.batch_size]
        return rows[rank_slice(len(rows), self.rank, self.world_size)]

    def _made(self, rows: np.ndarray, epoch: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Inputs, logits and labels on the device, and row numbers."""
        views = self._set.views
        assert views is not None
        numbers = np.full(len(rows), epoch % views.count)
        inputs = network_input(
            self._images, views, rows, numbers, size=self._set.size, mean=self._set.mean, std=self._set.std
        )
        logits = self._set.logits(rows, numbers).to(self.device)
        labels = torch.from_numpy(self._set.labels[rows]).to(self.device)
        return inputs, logits, labels, torch.from_numpy(self._set.rows[rows])


def _open(
    source: str | Path | Dataset | Manifest, manifest: str | Path | None, ipc: int | None, revision: str | None
) -> tuple[Manifest | None, Resident]:
    if isinstance(source, Manifest):
        return source, load_set(source, ipc)
    if isinstance(source, str | Path):
        found = open_set(source, ipc, revision=revision)
        return found, load_set(found, ipc)
    if not hasattr(source, "column_names"):
        raise SetError(f"source is a {type(source).__name__}; give a directory or a datasets.Dataset")
    known = open_manifest(manifest) if manifest is not None else None
    if ipc is not None:
        raise OptionError("ipc= needs a directory; of a Dataset load the config of that prefix, for example 'ipc5'")
    return known, load_dataset_rows(source, known)
