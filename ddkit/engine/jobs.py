"""Runs jobs in the order of their needs, on any executor, alone or beside other processes that run the same jobs."""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path
from typing import Any, Protocol, TypeVar

from ddkit.core.console import set_quiet
from ddkit.core.device import keep_freed_memory, threads
from ddkit.core.signals import SAVING
from ddkit.engine.claims import Claims
from ddkit.engine.units import UnitFile
from ddkit.errors import OptionError

SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 1.0  # between looks at units that other processes run


class Job(Protocol):
    """A unit to run, as plain data that is pickled to a worker process. Its result is its files.

    Attributes:
        id: Unique name of the job.
        needs: Ids of jobs that must finish first.
        files: The files that its result consists of.
        gpu_share: Part of a GPU that it needs, for engines that place several jobs on one.
    """

    @property
    def id(self) -> str: ...

    @property
    def needs(self) -> frozenset[str]: ...

    @property
    def files(self) -> tuple[UnitFile, ...]: ...

    @property
    def gpu_share(self) -> float: ...

    def run(self) -> object: ...


class PortableJob(Job, Protocol):
    """A job that can run where the folder of the set is not seen, from copies of files.

    Attributes:
        inputs: The files that it may read, also such as do not exist. Read before it starts.
        outputs: The files that it wrote, in the order in which they are to be published. Read after it ran.
    """

    @property
    def inputs(self) -> tuple[Path, ...]: ...

    @property
    def outputs(self) -> tuple[Path, ...]: ...

    def below(self, root: Path) -> PortableJob:
        """Return the same job on a copy of the file system.

        Args:
            root: Directory of the copy; see core.files.below.
        """
        ...


AnyJob = TypeVar("AnyJob", bound=Job)


class Engine(Protocol):
    """Where jobs run.

    Attributes:
        workers: Number of jobs that run at the same time, in all processes.
        shared: Whether other processes run the same command and share its jobs.
    """

    @property
    def workers(self) -> int: ...

    @property
    def shared(self) -> bool: ...

    def run(self, jobs: Iterable[AnyJob], cpu_threads: int = 1) -> Iterator[AnyJob]:
        """Run jobs and yield them in the order of finishing.

        Args:
            jobs: Jobs to run; a job starts once those that it needs have finished.
            cpu_threads: CPU threads that each job uses.

        Raises:
            EnvironmentFailure: A worker process died.
            Exception: As raised by a job.
        """
        ...


class Executor(Protocol):
    """Runs functions in processes; see concurrent.futures.Executor."""

    def submit(self, function: Callable[..., Any], /, *args: Any) -> Future[Any]: ...


class InProcess:
    """An executor that runs a function at once, in this process, with one CPU thread."""

    def submit(self, function: Callable[..., Any], /, *args: Any) -> Future[Any]:
        """Run `function` with `args` and return its result or exception as a finished future."""
        future: Future[Any] = Future()
        keep_freed_memory()
        try:
            with threads(1):
                future.set_result(function(*args))
        except Exception as error:
            future.set_exception(error)
        return future


def prepare_worker() -> None:
    """Prepare a worker process: one CPU thread, no notes; SIGINT and SIGUSR1 are for its parent."""
    import torch

    keep_freed_memory()
    torch.set_num_threads(1)
    set_quiet(True)
    for number in (signal.SIGINT, SAVING):
        if number is not None:
            signal.signal(number, signal.SIG_IGN)


def _in_folder(folder: str, job: Job) -> None:
    """Run `job` in the caller's working directory: its paths may be relative, and the caller may have changed it."""
    if os.getcwd() != folder:
        os.chdir(folder)
    job.run()


def run_jobs(
    jobs: Iterable[AnyJob], executor: Executor, *, most: int, claims: Claims | None = None
) -> Iterator[AnyJob]:
    """Run jobs and yield them in the order of finishing.

    Args:
        jobs: Jobs to run, in the order in which they start if they need nothing.
        executor: Runs them.
        most: Number of jobs that are submitted at the same time.
        claims: Entered claims of the processes that share the jobs; None: this process runs all of them.

    Raises:
        OptionError: Jobs need each other.
        Exception: As raised by a job.
    """
    waiting, folder, pause = deque(jobs), os.getcwd(), SHORTEST_PAUSE_S
    missing = {job.id for job in waiting}  # ids of jobs that have not finished
    running: dict[Future[Any], AnyJob] = {}
    while waiting or running:
        finished = []
        for _ in range(len(waiting) if len(running) < most else 0):
            job = waiting.popleft()
            if not job.needs.isdisjoint(missing):
                waiting.append(job)
            elif claims is not None and is_done(job):
                finished.append(job)  # by another process
            elif claims is None or claims.take(job):
                running[executor.submit(_in_folder, folder, job)] = job
                if len(running) >= most:
                    break
            else:
                waiting.append(job)
        if not finished and running:
            wait(running, timeout=pause if claims is not None and waiting else None, return_when=FIRST_COMPLETED)
        for future in [future for future in running if future.done()]:
            job = running.pop(future)
            if claims is not None:
                claims.release(job)
            future.result()
            finished.append(job)
        if not finished and not running:
            if claims is None:
                raise OptionError(f"unit {waiting[0].id} needs a unit that needs it; fix the distiller's units()")
            time.sleep(pause)
        pause = SHORTEST_PAUSE_S if finished else min(2 * pause, LONGEST_PAUSE_S)
        for job in finished:
            missing.discard(job.id)
            yield job


def is_done(job: Job) -> bool:
    """Return whether the files of a job exist; their content is not verified."""
    return all(file.exists() for file in job.files)


def unfinished(jobs: Iterable[AnyJob]) -> list[AnyJob]:
    """Return the jobs whose results are missing; damaged files are deleted, so that no process takes them for results.

    Args:
        jobs: Jobs to check; their files are read.
    """
    listed = list(jobs)
    for job in listed:
        for file in job.files:
            file.discard_if_damaged()
    return [job for job in listed if not is_done(job)]
