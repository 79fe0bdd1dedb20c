"""Shares jobs among processes that a launcher starts: torchrun, srun, or the tasks of a SLURM or PBS array.

Each process runs the same command on a shared folder. It takes the next ready unit that has no result, starting at its
own part of the list, and claims it, so that work is rarely done twice; nobody waits for a dead process. No process
group is opened.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ddkit.core.console import note
from ddkit.engine.claims import Claims
from ddkit.engine.jobs import AnyJob
from ddkit.engine.local import Local
from ddkit.errors import OptionError


@dataclass(frozen=True)
class Place:
    """The place of a process among those of a launcher.

    Attributes:
        rank: Its number, from 0.
        world_size: Number of processes.
        local_rank: Its number on its machine.
        launcher: What started it, for messages.
    """

    rank: int
    world_size: int
    local_rank: int
    launcher: str

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Place | None:
        """Read the place from the variables that launchers set; None if no launcher started this process.

        The tasks of an array may start several processes each with srun; these are numbered one after the other.

        Args:
            environment: The environment.

        Raises:
            OptionError: The variables contradict each other.
        """
        place = cls._read(environment)
        if place is not None and not 0 <= place.rank < place.world_size:
            raise OptionError(
                f"{place.launcher}: process {place.rank} of {place.world_size} cannot be; correct its variables "
                "(RANK, WORLD_SIZE, SLURM_*), or unset them"
            )
        return place

    @classmethod
    def _read(cls, environment: Mapping[str, str]) -> Place | None:
        def number(name: str, default: int = 0) -> int:
            text = environment.get(name, "")
            return int(text) if text.isdigit() else default

        if {"RANK", "WORLD_SIZE"} <= environment.keys():
            return cls(number("RANK"), number("WORLD_SIZE", 1), number("LOCAL_RANK"), "torchrun")
        task, tasks, launcher = 0, 1, ""
        if "SLURM_ARRAY_TASK_ID" in environment:
            step = max(number("SLURM_ARRAY_TASK_STEP", 1), 1)
            task = (number("SLURM_ARRAY_TASK_ID") - number("SLURM_ARRAY_TASK_MIN")) // step
            tasks = max(number("SLURM_ARRAY_TASK_COUNT", 1), task + 1)  # of --array=3,7 only two
            launcher = "SLURM array"
        elif "PBS_ARRAY_INDEX" in environment:
            task, launcher = number("PBS_ARRAY_INDEX"), "PBS array"
            tasks = task + 1  # PBS does not tell how many there are
        if "SLURM_STEP_NUM_TASKS" in environment and "SLURM_PROCID" in environment:  # started by srun
            mine, each = number("SLURM_PROCID"), number("SLURM_STEP_NUM_TASKS", 1)
            return cls(task * each + mine, tasks * each, number("SLURM_LOCALID"), launcher or "srun")
        return cls(task, tasks, 0, launcher) if launcher else None

    @property
    def is_alone(self) -> bool:
        """Whether no other process was started with it; tasks of an array may be submitted later."""
        return self.world_size == 1 and self.launcher in ("torchrun", "srun")


@dataclass(frozen=True)
class Ranks:
    """The engine of a process that shares its jobs with others.

    Attributes:
        place: Place of this process among them.
        folder: The folder of claims, which all of them see.
        local: Runs the jobs that this process claims.
    """

    place: Place
    folder: Path
    local: Local
    shared = True

    @property
    def workers(self) -> int:
        """Number of jobs that run at the same time, in all processes."""
        return self.place.world_size * self.local.workers

    def run(self, jobs: Iterable[AnyJob], cpu_threads: int = 1) -> Iterator[AnyJob]:
        """Run the jobs that no other process runs, and yield all jobs as they finish; see Engine.run."""
        listed = list(jobs)
        if not listed:
            return
        first = self.place.rank % self.place.world_size * len(listed) // self.place.world_size
        with Claims(self.folder) as claims:
            yield from self.local.run_claimed([*listed[first:], *listed[:first]], cpu_threads, claims)
        if claims.taken:
            here = f"{self.place.launcher} {self.place.rank}/{self.place.world_size}"
            note(f"{here}: ran {claims.taken} of {len(listed)} units")
