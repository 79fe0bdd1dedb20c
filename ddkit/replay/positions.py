"""The position of a loader: which epoch and step come next, also for the worker processes of a DataLoader."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch.utils.data._utils.worker import WorkerInfo

from ddkit.errors import EnvironmentFailure, OptionError

MOST_WORKERS = 256  # worker processes of a DataLoader that wraps a loader
KEPT = 64  # iterations that are remembered for workers that begin later
PATIENCE_S, PAUSE_S = 300.0, 0.001
EPOCH, STEP, BEGUN, HEADER = 0, 1, 2, 3  # places in the shared numbers


class Position:
    """Epoch and step of the next iteration, in memory that worker processes share.

    The workers of one iteration of a DataLoader have the same base seed. The first of them begins the epoch and writes
    down its number; the others look it up there. So all take the same epoch, whenever they start.
    """

    def __init__(self) -> None:
        self._numbers = _shared(torch.zeros(HEADER + 3 * KEPT + MOST_WORKERS, dtype=torch.int64))

    @property
    def next(self) -> tuple[int, int]:
        """Epoch and step with which the next iteration begins."""
        epoch, step = self._numbers[:BEGUN].tolist()
        return epoch, step

    @next.setter
    def next(self, position: tuple[int, int]) -> None:
        self._numbers[:BEGUN] = torch.tensor(position)

    def begin(self) -> tuple[int, int]:
        """Begin the next iteration and return its epoch and first step."""
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
        seed = worker.seed - worker.id
        begun, entries = self._numbers[BEGUN], self._numbers[HEADER : HEADER + 3 * KEPT].view(KEPT, 3)
        if worker.id == 0:
            position = self.begin()
            entries[int(begun) % KEPT] = torch.tensor((seed, *position))
            begun += 1
            return position
        seen, deadline = self._numbers[HEADER + 3 * KEPT :][worker.id], time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            for number in range(max(int(seen), int(begun) - KEPT), int(begun)):
                theirs, epoch, step = entries[number % KEPT].tolist()
                if theirs == seed:
                    seen.fill_(number + 1)
                    return epoch, step
            time.sleep(PAUSE_S)
        raise EnvironmentFailure("the first worker process of the DataLoader did not begin; iterate over it again")

    def __deepcopy__(self, memo: dict[int, Any]) -> Position:
        copied = Position()
        copied.next = self.next
        return copied

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._numbers = _shared(state["_numbers"])


def _shared(numbers: torch.Tensor) -> torch.Tensor:
    """Move a tensor to memory that processes share, unless it is there."""
    return numbers if numbers.is_shared() else numbers.share_memory_()
