"""The position of a loader: which epoch and step come next, also for the worker processes of a DataLoader."""

from __future__ import annotations

import contextlib
import os
import time
from typing import Any

import numpy as np
import torch
from torch.utils.data import get_worker_info
from torch.utils.data._utils.worker import WorkerInfo

from ddkit.core.files import process_runs
from ddkit.errors import EnvironmentFailure, OptionError

MOST_WORKERS = 256  # worker processes of a DataLoader that wraps a loader
KEPT = 8  # iterations that are remembered; few: torch copies 32 kB with threads, which hang in a forked process
PATIENCE_S, PAUSE_S = 300.0, 0.001  # of workers that wait for the first one
EPOCH, STEP, BEGUN, HEADER = 0, 1, 2, 3  # places in the shared numbers
KEY, WIDTH = 3, 6  # of an iteration: base seed, number of workers, their parent; then first worker, epoch and step


class Position:
    """Epoch and step of the next iteration, in memory that worker processes share.

    The workers of one iteration of a DataLoader have the same base seed and parent, and live as long as the iteration.
    The first of them begins the epoch and writes down its number; each of the others looks it up there, once. So all
    take the same epoch, whenever they start.
    """

    def __init__(self) -> None:
        self._memory = _shared(np.zeros(HEADER + (WIDTH + MOST_WORKERS) * KEPT, np.int64))
        self._process = os.getpid()

    @property
    def _numbers(self) -> np.ndarray:
        """The shared numbers. NumPy has no threads, which a forked process would wait for in vain."""
        numbers: np.ndarray = self._memory.numpy()
        return numbers

    @property
    def next(self) -> tuple[int, int]:
        """Epoch and step with which the next iteration begins."""
        epoch, step = self._numbers[:BEGUN].tolist()
        return epoch, step

    @next.setter
    def next(self, position: tuple[int, int]) -> None:
        self._detach()
        self._numbers[:BEGUN] = position

    def begin(self) -> tuple[int, int]:
        """Begin the next iteration and return its epoch and first step."""
        self._detach()
        epoch, step = self.next
        self.next = (epoch + 1, 0)
        return epoch, step

    def begin_in_worker(self, worker: WorkerInfo) -> tuple[int, int]:
        """Begin the next iteration in a worker process, and return its epoch and first step.

        Args:
            worker: What torch tells about the process.

        Raises:
            OptionError: The DataLoader has more than MOST_WORKERS workers.
            EnvironmentFailure: The first worker did not begin.
        """
        if worker.num_workers > MOST_WORKERS:
            raise OptionError(f"num_workers is {worker.num_workers}; a ReplayLoader takes up to {MOST_WORKERS}")
        key = (worker.seed - worker.id, worker.num_workers, os.getppid())
        numbers, entries = self._numbers, self._numbers[HEADER:].reshape(KEPT, WIDTH + MOST_WORKERS)
        if worker.id == 0:
            position = self.begin()
            entry = entries[numbers[BEGUN] % KEPT]
            entry[WIDTH:] = 0
            entry[:WIDTH] = (*key, os.getpid(), *position)
            numbers[BEGUN] += 1
            return position
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            for i in np.flatnonzero((entries[:, :KEY] == key).all(1) & (entries[:, WIDTH + worker.id] == 0)):
                first, epoch, step = entries[i, KEY:WIDTH].tolist()
                if process_runs(first):  # else an iteration that was broken off
                    entries[i, WIDTH + worker.id] = 1
                    return epoch, step
            time.sleep(PAUSE_S)
        raise EnvironmentFailure("the first worker process of the DataLoader did not begin; iterate over it again")

    def _detach(self) -> None:
        """Keep the position of another process that trains, such as a forked one, apart from its parent's."""
        if os.getpid() != self._process and get_worker_info() is None:
            self._memory, self._process = _shared(self._numbers.copy()), os.getpid()

    def __deepcopy__(self, memo: dict[int, Any]) -> Position:
        copied = Position()
        copied.next = self.next
        return copied

    def __setstate__(self, state: dict[str, Any]) -> None:
        there, self._process = state["_memory"], state["_process"]
        self._memory = there if there.is_shared() else _shared(there.numpy())


def _shared(numbers: np.ndarray) -> torch.Tensor:
    """Copy numbers to memory that processes share, unless the system has no more of it."""
    found = torch.from_numpy(numbers.copy())
    with contextlib.suppress(RuntimeError):
        found.share_memory_()
    return found
