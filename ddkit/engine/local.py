"""Runs units on this machine: in this process, or in parallel worker processes (loky) with one thread each."""

from __future__ import annotations

import importlib.util
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any, Protocol, TypeVar

from ddkit.core.console import set_quiet
from ddkit.core.device import keep_freed_memory, threads
from ddkit.errors import EnvironmentFailure

Result_co = TypeVar("Result_co", covariant=True)

LEAK = "LOKY_MAX_MEMORY_LEAK_SIZE"  # environment variable, in bytes
_pools: dict[int, Any] = {}


class Job(Protocol[Result_co]):
    """A unit to run, as plain data that is pickled to a worker process; `run` returns its result.

    Attributes:
        id: Unique name of the job.
        needs: Ids of jobs that must finish first.
    """

    @property
    def id(self) -> str: ...

    @property
    def needs(self) -> frozenset[str]: ...

    def run(self) -> Result_co: ...


def _begin_worker(parent: int) -> None:
    """Initialise a worker: one CPU thread, no notes, SIGINT ignored (the parent ends it), exit with the parent."""
    import torch

    keep_freed_memory()
    torch.set_num_threads(1)
    set_quiet(True)
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _pool(workers: int) -> Any:
    """Return the worker processes, which are started once and kept, since importing torch takes seconds.

    loky rather than multiprocessing: its workers do not import the caller's script again, so a script without
    `if __name__ == "__main__"` works.
    """
    if workers not in _pools:
        from loky import ProcessPoolExecutor

        env = {LEAK: os.environ.get(LEAK, "1e12")}  # otherwise loky mistakes kept memory for a leak
        _pools[workers] = ProcessPoolExecutor(workers, initializer=_begin_worker, initargs=(os.getpid(),), env=env)
    return _pools[workers]


def _in_folder(folder: str, job: Job[Result_co]) -> Result_co:
    """Run `job` in the caller's working directory: its paths may be relative, and the caller may have changed it."""
    os.chdir(folder)
    return job.run()


def stop(kill: bool = False) -> None:
    """Stop the worker processes.

    Args:
        kill: Stop them at once. Units are written atomically, so none is left damaged.
    """
    while _pools:
        _pools.popitem()[1].shutdown(wait=True, kill_workers=kill)


AnyJob = TypeVar("AnyJob", bound=Job[Any])


def run(jobs: Iterable[AnyJob], *, workers: int) -> Iterator[tuple[AnyJob, Any]]:
    """Run jobs and yield (job, result) in the order of finishing.

    Args:
        jobs: Jobs to run; a job starts once those that it needs have finished.
        workers: Number of processes; 1 runs the jobs in this process. Each job has one CPU thread, so results do not
            depend on it.

    Raises:
        EnvironmentFailure: A worker process died.
        Exception: As raised by a job.
    """
    waiting = list(jobs)
    finished: set[str] = set()
    known = {job.id for job in waiting}

    def ready() -> list[AnyJob]:
        free = [job for job in waiting if not (job.needs & known) - finished]
        for job in free:
            waiting.remove(job)
        return free

    if workers <= 1 or len(waiting) <= 1 or importlib.util.find_spec("loky") is None:  # loky may not be installed
        keep_freed_memory()
        while batch := ready():
            for job in batch:
                with threads(1):
                    result = job.run()
                finished.add(job.id)
                yield job, result
        return

    from concurrent.futures.process import BrokenProcessPool

    pool, folder = _pool(workers), os.getcwd()
    running: dict[Future[Any], AnyJob] = {}
    try:
        while waiting or running:
            running |= {pool.submit(_in_folder, folder, job): job for job in ready()}
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                job = running.pop(future)
                result = future.result()
                finished.add(job.id)
                yield job, result
    except BrokenProcessPool as error:
        raise EnvironmentFailure(
            "a worker process died (out of memory?); run the same command again to continue, with fewer --workers"
        ) from error
    finally:
        if running:
            stop(kill=True)
