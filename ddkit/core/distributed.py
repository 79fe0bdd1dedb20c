"""Training one network in several processes, as torchrun starts them: who takes part, and what they tell each other."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from ddkit.core.console import muted
from ddkit.core.device import pick_device
from ddkit.core.worker_state import STATE
from ddkit.errors import OptionError, RankLost

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # torchrun sets them


@dataclass(frozen=True)
class Launch:
    """What torchrun tells a process.

    Attributes:
        rank: Number of this process, from 0.
        world_size: Number of processes.
        local_rank: Number of this process on its machine, from 0.
    """

    rank: int
    world_size: int
    local_rank: int


def launch() -> Launch | None:
    """Return what torchrun tells this process; None for a process that trains alone.

    Raises:
        OptionError: A variable of torchrun is not a number, or RANK is not below WORLD_SIZE.
    """
    if any(name not in os.environ for name in VARIABLES):
        return None
    values = {name: os.environ[name] for name in VARIABLES[:3]}
    for name, value in values.items():
        if not value.isdecimal():
            raise OptionError(f"the environment variable {name} is {value!r}, not a number; start with torchrun")
    found = Launch(*(int(value) for value in values.values()))
    if found.world_size > 1 and found.rank >= found.world_size:
        raise OptionError(f"RANK is {found.rank}, WORLD_SIZE {found.world_size}; ranks count from 0")
    return found if found.world_size > 1 else None


def leads() -> bool:
    """Return whether this process reports for a training: the first of those that torchrun started, or the only one."""
    found = launch()
    return found is None or found.rank == 0


def rank_slice(n: int, rank: int, world_size: int) -> slice:
    """Return the slice n*r//R to n*(r+1)//R of a global batch that rank r of R processes.

    Args:
        n: Rows of the global batch.
        rank: r, from 0.
        world_size: R, the number of ranks.
    """
    return slice(n * rank // world_size, n * (rank + 1) // world_size)


@dataclass(frozen=True)
class Group:
    """The processes that train one network together. The methods are collective: every rank calls them, in one order.

    In a group of one they return at once. They raise RankLost if another rank failed.

    Attributes:
        rank: Number of this process, from 0.
        world_size: Number of processes.
    """

    rank: int = 0
    world_size: int = 1

    @property
    def alone(self) -> bool:
        """Whether this process is the only one."""
        return self.world_size == 1

    @property
    def leads(self) -> bool:
        """Whether this process writes the files: rank 0."""
        return self.rank == 0

    def part(self, n: int) -> slice:
        """Return the part of `n` rows that this rank processes. Not collective."""
        return rank_slice(n, self.rank, self.world_size)

    def sum(self, tensor: Tensor) -> Tensor:
        """Replace a tensor by its sum over the ranks, which has the same bits on all of them; return it."""
        with self._talking():
            if not self.alone:
                dist.all_reduce(tensor)
        return tensor

    def gather(self, tensor: Tensor) -> Tensor:
        """Return the tensors of all ranks, stacked in the order of the ranks: [R, ...]."""
        if self.alone:
            return tensor[None]
        parts = [torch.empty_like(tensor) for _ in range(self.world_size)]
        with self._talking():
            dist.all_gather(parts, tensor)
        return torch.stack(parts)

    def highest(self, number: int) -> int:
        """Return the largest of the numbers of all ranks."""
        return number if self.alone else int(self.gather(torch.tensor(number)).max())

    def of_leader(self, number: float) -> float:
        """Return the number of rank 0."""
        return number if self.alone else float(self.gather(torch.tensor(number, dtype=torch.float64))[0])

    def same(self, text: str) -> bool:
        """Return whether all ranks have the same text."""
        digest = torch.frombuffer(bytearray(hashlib.sha256(text.encode()).digest()), dtype=torch.uint8)
        found = self.gather(digest)
        return bool((found == found[0]).all())

    def wait(self) -> None:
        """Return when all ranks have called this."""
        self.highest(0)

    @contextlib.contextmanager
    def _talking(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # of torch.distributed: a closed connection, a timeout
            raise RankLost(
                f"rank {self.rank} of {self.world_size} lost the connection to another rank, which failed or was "
                f"stopped ({str(error).splitlines()[0]}); its message says why; run the same command again to continue"
            ) from error


ALONE = Group()


def rank_device(name: str = "auto") -> torch.device:
    """Return the device of this process, as `pick_device` does; of a torchrun process on GPUs, the one of its number.

    Args:
        name: `auto` or a torch device name.

    Raises:
        OptionError: The device cannot be used, or not by several ranks, or there are more ranks than GPUs.
    """
    found, device = launch(), pick_device(name)
    if found is None or device.type == "cpu":
        return device
    if device.type != "cuda" or device.index not in (None, found.local_rank):
        raise OptionError(
            f"device {str(device)!r} cannot serve {found.world_size} ranks; give --device cuda, one GPU a rank, or cpu"
        )
    gpus = torch.cuda.device_count()
    if found.local_rank >= gpus:
        raise OptionError(f"rank {found.rank} finds no GPU for itself, there are {gpus}; use --nproc-per-node {gpus}")
    return torch.device("cuda", found.local_rank)


@contextlib.contextmanager
def open_group(device: torch.device) -> Iterator[Group]:
    """Connect the processes that torchrun started while the block runs: with NCCL on GPUs, else with Gloo.

    Only rank 0 prints notes and progress. A rank leaves a block that succeeded only when all ranks have reached its
    end, so the files that rank 0 writes are complete for all of them.

    Args:
        device: Device of this rank, from `rank_device`.

    Yields:
        The group; a group of one where torchrun did not start this process.

    Raises:
        OptionError: The calling program has opened a process group.
        RankLost: The other ranks cannot be reached, or one failed.
    """
    found = launch()
    if found is None:
        yield ALONE
        return
    if dist.is_initialized():
        raise OptionError("this program has opened a process group; close it first, ddkit opens its own under torchrun")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    group = Group(found.rank, found.world_size)
    with group._talking():
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            store=_store(found), rank=found.rank, world_size=found.world_size,
        )  # fmt: skip
    try:
        with contextlib.nullcontext() if group.leads else muted():
            yield group
            group.wait()
    finally:
        dist.destroy_process_group()


def _store(found: Launch) -> dist.Store:
    """The store through which the ranks find each other; every group of a process has keys of its own in it."""

    def connect() -> tuple[dist.Store, Iterator[int]]:
        store, _, _ = next(rendezvous("env://", found.rank, found.world_size))
        return store, itertools.count()

    place = tuple(os.environ[name] for name in VARIABLES)
    store, numbers = STATE.keep("store of the ranks", place, connect)
    return dist.PrefixStore(f"ddkit-{next(numbers)}", store)
