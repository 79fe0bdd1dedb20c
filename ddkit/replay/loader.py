"""The replay loader: yields the stored views of a set with their soft labels, in the replay order."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info
from torch.utils.data._utils.collate import default_collate_fn_map

from ddkit.core.device import pick_device
from ddkit.core.distributed import rank_slice
from ddkit.errors import OptionError
from ddkit.format.manifest import Manifest
from ddkit.replay.buffers import BatchBuffers
from ddkit.replay.opening import Request, Source, open_store
from ddkit.replay.order import check_batch
from ddkit.replay.positions import Position
from ddkit.replay.prefetching import made_ahead
from ddkit.replay.soft_labels import SoftLabels
from ddkit.replay.stores.interface import RowBatch

AHEAD = {"cpu": 0, "cuda": 2**25}  # pixels of views, and logits, computed together where labels are stored


class ReplayBatch(tuple[Tensor, ...]):
    """One batch as a tuple: (images, logits, labels)."""


class ReplayDict(dict[str, Tensor]):
    """One batch as a dict."""


def _refuse_collation(batch: list[Any], *, collate_fn_map: Any = None) -> Any:
    raise OptionError(
        "a ReplayLoader yields whole batches; use it alone, or as DataLoader(loader, batch_size=None, num_workers=k)"
    )


default_collate_fn_map.update({ReplayBatch: _refuse_collation, ReplayDict: _refuse_collation})


class ReplayLoader(IterableDataset[Any]):
    """Yields training batches: the stored views of a set, reproduced pixel for pixel, with their soft labels.

    Each `iter(loader)` starts the next epoch; epoch e replays view index e mod V of every row. The loader splits each
    batch among ranks and needs no worker processes; `DataLoader(loader, batch_size=None, num_workers=k)` computes the
    batches in other processes, in the same order. Every byte is compared with the manifest before it is used.

    Args:
        source: A directory, "ORG/NAME" on the Hub, or a `datasets.Dataset` of a set. A list of directories and Hub ids
            is joined: sets of the same classes, teacher and kind of views follow one another, and rows are numbered by
            position.
        batch_size: Rows per batch, over all ranks.
        device: Device that holds the images, on a GPU also labels that are small beside its memory, and the batches.
            Default: a GPU if there is one.
        ipc: Replay only this prefix; of a set on the Hub only its shards are fetched.
        seed: Seed of the order of rows.
        temperature: Passed to the codec. Default: the set's.
        manifest: For a Dataset: the directory or Hub id of its set.
        revision: A branch, tag or commit on the Hub.
        rank: Rank of this process. Default: from torchrun's environment.
        world_size: Number of processes that train together. Default: from torchrun's environment.
        allow_empty: Accept a last batch with fewer rows than ranks, of which some ranks get a batch of no rows.
        batch: "tuple" yields (images float32 [B,3,S,S] normalised, teacher logits float32 [B,C], labels int64 [B]);
            "dict" yields {"pixel_values", "teacher_logits", "labels", "rows"} for transformers' Trainer.
        drop_last: Drop a last batch with fewer rows. BatchNorm cannot train on a batch of one row.
        prefetch: On a CPU, number of batches that a background thread computes ahead of the one in use; order and bytes
            do not depend on it. The memory of batches that nothing refers to any more is used again; up to
            `prefetch` + 2 batches are kept for that. 0: no thread.
        store: Where the rows are during training; order and bytes do not depend on it.
            "memory": all in memory, checked before the first batch.
            "mapped": files are mapped and only the view that is needed is read, so a set may be larger than the memory.
            Shards are checked and their images decoded, to `pixels/` in $DDKIT_CACHE, at their first use.
            "streaming": "mapped", where each shard of a set on the Hub is fetched when the first epoch comes to it.
            "auto": "memory" if the set takes less than a quarter of the available memory; else "mapped", or "streaming"
            for a set on the Hub.
        classes: Names or indices of classes to replay, which give the order of the labels and logits. Rows of other
            classes are left out. Default: all.

    Raises:
        SetError, IntegrityError, FormatVersion, OptionError, HubAccess, HubError.
    """

    def __init__(
        self,
        source: Source | Sequence[Source],
        *,
        batch_size: int,
        device: str | torch.device = "auto",
        ipc: int | None = None,
        seed: int = 0,
        temperature: float | None = None,
        manifest: str | Path | None = None,
        revision: str | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        allow_empty: bool = False,
        batch: Literal["tuple", "dict"] = "tuple",
        drop_last: bool = False,
        prefetch: int = 2,
        store: str = "auto",
        classes: Sequence[str | int] | None = None,
    ) -> None:
        if batch not in ("tuple", "dict"):
            raise OptionError(f"batch is {batch!r}; valid: tuple, dict")
        given = {"batch_size": batch_size, "seed": seed, "prefetch": prefetch}
        given |= {name: n for name, n in (("rank", rank), ("world_size", world_size)) if n is not None}
        for name, value in given.items():
            if not isinstance(value, int | np.integer) or isinstance(value, bool):
                raise OptionError(f"{name} is {value!r:.40}; give an integer")
        if prefetch < 0:
            raise OptionError(f"prefetch is {prefetch}; give a number of batches, 0 for none")
        asked = Request(manifest=manifest, ipc=ipc, revision=revision, store=store, classes=classes)
        self._manifest, opened = open_store(source, asked)
        self.rank, self.world_size = _place(rank, world_size)
        check_batch(len(opened), batch_size, 1 if allow_empty else self.world_size)
        if drop_last and batch_size > len(opened):
            raise OptionError(
                f"batch_size is {batch_size}, above the {len(opened)} rows; with drop_last nothing is left"
            )
        self.batch_size, self.seed, self.drop_last = batch_size, seed, drop_last
        self.device = pick_device(str(device))
        recorded = self._manifest.labels.temperature if self._manifest else None
        if temperature is None:
            temperature = opened.decoder.codec.usual_temperature(recorded or 20.0)
        self.temperature = temperature
        self._as_dict, self.prefetch = batch == "dict", prefetch
        self._store, self._buffers = opened.to(self.device), BatchBuffers(prefetch + 2)
        self._labels = SoftLabels(
            self._store.decoder, self._manifest, self.temperature, self.device, self._store.columns
        )
        if self._store.decoder.codec.FROM_PIXELS:
            rows = np.arange(min(batch_size, len(self._store)))
            self._labels.report_cost(self._inputs(self._store.batch(rows, np.zeros_like(rows))))
        self._position = Position()  # of the next iter()
        self._at: tuple[int, int] | None = None  # (epoch, step) of the next batch of the running iteration
        self._running: object = None

    # -------------------------------------------------------------- properties of the set

    @property
    def classes(self) -> list[str]:
        """Class names, in label order."""
        return [c.name for c in self._store.classes]

    @property
    def class_ids(self) -> list[str | None]:
        """WordNet ids of the classes, in label order; None for a class without one."""
        return [c.id for c in self._store.classes]

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self._store.classes)

    @property
    def image_size(self) -> int:
        """Side of a view in pixels."""
        return self._store.size

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean per channel that images are normalised with, for pixels in [0, 1]."""
        return self._store.mean

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation per channel that images are normalised with, for pixels in [0, 1]."""
        return self._store.std

    @property
    def protocol(self) -> str | None:
        """Name of the protocol that the manifest recommends; None for a Dataset without a manifest."""
        return self._manifest.recommended.protocol if self._manifest else None

    @property
    def manifest(self) -> Manifest | None:
        """The manifest of the set, of joined sets that of the first; None for a Dataset without one."""
        return self._manifest

    @property
    def views(self) -> int:
        """Number of stored views per row."""
        return self._store.views

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self._store)

    def stored(self, row: int) -> tuple[np.ndarray, np.ndarray, int]:
        """Return a stored image uint8 [3,H,W], the crop boxes of its views [V,4], and its class index.

        Args:
            row: Position of the row.
        """
        image, boxes = self._store.stored(row)
        return image, boxes, int(self._store.labels_of(np.array([row]))[0])

    def view(self, row: int, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the pixels of a view, uint8 [3,S,S] with CutMix applied, and the teacher's logits for it, float32 [C].

        Args:
            row: Position of the row.
            index: View index.
        """
        found = self._store.batch(np.array([row]), np.array([index]))
        logits = self._labels.logits(found.labels, self._inputs(found), found.rows)
        return found.pixels.pixels()[0].cpu().numpy(), logits.cpu().numpy()[0]

    def partner(self, row: int, index: int) -> int | None:
        """Return the class index of the row that is mixed into a view; None if there is none.

        Args:
            row: Position of the row.
            index: View index.
        """
        partners = self._store.partners_of(np.array([row]))
        if partners is None or partners[0, index] < 0:
            return None
        return int(self._store.labels_of(partners[:, index])[0])

    def __len__(self) -> int:
        """Return the number of batches per epoch, which is the same for every rank."""
        whole, rest = divmod(len(self._store), self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    # -------------------------------------------------------------- epochs

    def __iter__(self) -> Iterator[Any]:
        # the epoch advances with the first batch: some frameworks create an iterator only to test for support
        if (worker := get_worker_info()) is not None:
            if self.device.type != "cpu":
                raise OptionError("in the worker processes of a DataLoader a ReplayLoader needs device='cpu'")
            epoch, first = self._position.begin_in_worker(worker)
            yield from self._batches(epoch, range(first + worker.id, len(self), worker.num_workers))
            return
        (epoch, first), running = self._position.begin(), object()
        self._at, self._running = (epoch, first), running
        for step, batch in enumerate(self._batches(epoch, range(first, len(self))), first):
            if self._running is running:  # an older iterator must not change the position of the loader
                self._at = (epoch, step + 1) if step + 1 < len(self) else None
            yield batch

    def set_epoch(self, epoch: int) -> None:
        """Make the next `iter` start this epoch. Optional: epochs advance automatically.

        Args:
            epoch: Number of the epoch, from 0.

        Raises:
            OptionError: It is not such a number.
        """
        self._move(epoch, 0)

    def _move(self, epoch: int, step: int) -> None:
        """Set the position; a running iteration no longer changes it."""
        for name, value in {"epoch": epoch, "step": step}.items():
            if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 0:
                raise OptionError(f"{name} is {value!r:.40}; give an integer from 0")
        if step >= len(self):
            raise OptionError(f"step is {step}, but an epoch has {len(self)} steps; the state is of another loader")
        self._position.next, self._at, self._running = (int(epoch), int(step)), None, None

    def state_dict(self) -> dict[str, int]:
        """Return the position of the next batch, for `load_state_dict`; valid also within an epoch.

        Where the worker processes of a DataLoader iterate, it is the next epoch: batches are made ahead there, so what
        has been used of the running epoch is not known here.
        """
        epoch, step = self._position.next
        if self._at is not None and (epoch, step) == (self._at[0] + 1, 0):  # nothing has begun an epoch since
            epoch, step = self._at
        return {"epoch": epoch, "step": step, "seed": self.seed, "batch_size": self.batch_size}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continue from the position that `state_dict` returned.

        Args:
            state: The return value of `state_dict`.

        Raises:
            OptionError: The state is incomplete, has another seed or batch size, or a step that no epoch has.
        """
        if missing := [key for key in ("epoch", "step", "seed", "batch_size") if key not in state]:
            raise OptionError(f"the state has no {missing[0]}; give what state_dict() returned")
        for key in ("seed", "batch_size"):
            if state[key] != getattr(self, key):
                raise OptionError(
                    f"the state is of {key} {state[key]}, this loader has {getattr(self, key)}; use the same"
                )
        self._move(state["epoch"], state["step"])

    def peek(self) -> Any:
        """Return the batch that the next `iter` begins with, without starting an epoch."""
        epoch, step = self._position.next
        return next(self._batches(epoch, range(step, step + 1), prefetch=0))

    def _batches(self, epoch: int, steps: range, prefetch: int | None = None) -> Iterator[Any]:
        """Yield the batches of some steps of an epoch.

        On a CPU the next batches are computed in another thread. On a GPU the views of several batches are computed
        together instead, because kernel launches dominate the run time.
        """
        depth = self.prefetch if prefetch is None else prefetch
        order = self._store.order(self.seed, epoch)
        pixels = 0 if self._store.decoder.codec.FROM_PIXELS else AHEAD.get(self.device.type, 0)
        ahead = max(1, pixels // (self.batch_size * max(self._store.size**2, self._store.decoder.classes)))

        def make(start: int) -> list[ReplayBatch | ReplayDict]:
            parts = [self._rows(order, step) for step in steps[start : start + ahead]]
            made = self._made(np.concatenate(parts), epoch)
            sizes = [len(part) for part in parts]
            return [self._batch(*tensors) for tensors in zip(*(torch.split(tensor, sizes) for tensor in made))]

        starts = range(0, len(steps), ahead)
        self._store.expect(order[steps.start * self.batch_size :] if depth else order[:0])
        try:
            for batches in made_ahead(make, starts, depth if self.device.type == "cpu" else 0):
                while batches:
                    yield batches.pop(0)  # not kept here, so that its memory can be used again
        finally:
            self._store.expect(order[:0])

    def _batch(self, inputs: Tensor, logits: Tensor, labels: Tensor, rows: Tensor) -> ReplayBatch | ReplayDict:
        if self._as_dict:
            return ReplayDict(pixel_values=inputs, teacher_logits=logits, labels=labels, rows=rows)
        return ReplayBatch((inputs, logits, labels))

    def _rows(self, order: np.ndarray, step: int) -> np.ndarray:
        """Positions of the rows of one step that belong to this rank."""
        rows = order[step * self.batch_size : (step + 1) * self.batch_size]
        return rows[rank_slice(len(rows), self.rank, self.world_size)]

    def _made(self, rows: np.ndarray, epoch: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Inputs, logits and labels on the loader's device, and row numbers."""
        found = self._store.batch(rows, np.full(len(rows), epoch % self.views))
        inputs = self._inputs(found)
        logits = self._labels.logits(found.labels, inputs, found.rows)
        return inputs, logits, torch.from_numpy(found.classes).to(self.device), torch.from_numpy(found.rows)

    def _inputs(self, found: RowBatch) -> Tensor:
        size = self._store.size
        buffer = self._buffers.take((len(found.rows), 3, size, size)) if self.device.type == "cpu" else None
        return found.pixels.network_input(self.mean, self.std, buffer)


def _place(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """(rank, world_size), by default from torchrun's environment. Raises OptionError if they are not valid."""
    size = int(os.environ.get("WORLD_SIZE", 1)) if world_size is None else world_size
    if rank is None and size > 1 and "RANK" not in os.environ:
        raise OptionError(f"{size} processes, and RANK is not set; give rank=, as in rank=trainer.global_rank")
    mine = int(os.environ.get("RANK", 0)) if rank is None else rank
    if not 0 <= mine < size:
        raise OptionError(f"rank {mine} is not one of {size}; ranks count from 0")
    return mine, size
