"""Runs jobs on this machine: in this process, or in parallel worker processes (loky) with one thread each."""

from __future__ import annotations

import importlib.util
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from ddkit.engine.claims import Claims
from ddkit.engine.jobs import AnyJob, Executor, InProcess, prepare_worker, run_jobs
from ddkit.errors import EnvironmentFailure

LEAK = "LOKY_MAX_MEMORY_LEAK_SIZE"  # environment variable, in bytes
_pools: dict[tuple[int, str], Any] = {}  # (number of processes, GPU) -> loky executor


def _begin_worker(parent: int) -> None:
    """Initialise a worker that exits with its parent."""
    prepare_worker()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _pool(workers: int, gpu: str = "") -> Any:
    """Return worker processes, which are started once and kept, since importing torch takes seconds.

    loky rather than multiprocessing: its workers do not import the caller's script again, so a script without
    `if __name__ == "__main__"` works.

    Args:
        workers: Number of processes.
        gpu: The only GPU that they see; "": those that this process sees.
    """
    if (workers, gpu) not in _pools:
        from loky import ProcessPoolExecutor

        env = {LEAK: os.environ.get(LEAK, "1e12")}  # otherwise loky mistakes kept memory for a leak
        if gpu:
            env["CUDA_VISIBLE_DEVICES"] = gpu
        _pools[workers, gpu] = ProcessPoolExecutor(workers, initializer=_begin_worker, initargs=(os.getpid(),), env=env)
    return _pools[workers, gpu]


def stop(kill: bool = False) -> None:
    """Stop the worker processes.

    Args:
        kill: Stop them at once. Units are written atomically, so none is left damaged.
    """
    while _pools:
        _pools.popitem()[1].shutdown(wait=True, kill_workers=kill)


class OneProcessEach:
    """An executor with one worker process for each GPU; a job goes to the process that has the fewest.

    Args:
        gpus: The GPUs, as for CUDA_VISIBLE_DEVICES.
    """

    def __init__(self, gpus: tuple[str, ...]) -> None:
        self._pools = {gpu: _pool(1, gpu) for gpu in gpus}
        self._busy = Counter(dict.fromkeys(gpus, 0))

    def submit(self, function: Callable[..., Any], /, *args: Any) -> Future[Any]:
        """Run `function` with `args` in the least busy process."""
        gpu = min(self._busy, key=lambda name: self._busy[name])
        self._busy[gpu] += 1
        future: Future[Any] = self._pools[gpu].submit(function, *args)
        future.add_done_callback(lambda _: self._busy.subtract([gpu]))
        return future


@dataclass(frozen=True)
class Local:
    """The engine of one machine.

    Attributes:
        processes: Worker processes on the cores of a CPU; 1 runs the jobs in this process.
        gpus: GPUs with one process each, as for CUDA_VISIBLE_DEVICES; empty: jobs run on the cores or on one device.
    """

    processes: int = 1
    gpus: tuple[str, ...] = ()
    shared = False

    @property
    def workers(self) -> int:
        """Number of jobs that run at the same time."""
        return len(self.gpus) or self.processes

    def run(self, jobs: Iterable[AnyJob], cpu_threads: int = 1) -> Iterator[AnyJob]:
        """Run jobs and yield them in the order of finishing; see Engine.run."""
        return self.run_claimed(list(jobs), cpu_threads, None)

    def run_claimed(self, jobs: Sequence[AnyJob], cpu_threads: int, claims: Claims | None) -> Iterator[AnyJob]:
        """Run jobs, or those that this process claims, and yield them in the order of finishing.

        Args:
            jobs: The jobs.
            cpu_threads: CPU threads that each of them uses.
            claims: Entered claims of the processes that share the jobs, if several do.
        """
        from concurrent.futures.process import BrokenProcessPool

        side_by_side = len(self.gpus) or max(1, self.processes // cpu_threads)
        executor = self._executor(side_by_side) if len(jobs) > 1 else InProcess()
        in_process = isinstance(executor, InProcess)
        most = 1 if in_process else side_by_side if claims is not None else 2 * side_by_side
        ended = False
        try:
            yield from run_jobs(jobs, executor, most=most, claims=claims)
            ended = True
        except BrokenProcessPool as error:
            raise EnvironmentFailure(
                "a worker process died (out of memory?); run the same command again to continue, with fewer --workers"
            ) from error
        finally:
            if not (ended or in_process):
                stop(kill=True)

    def _executor(self, side_by_side: int) -> Executor:
        if len(self.gpus) > 1:
            return OneProcessEach(self.gpus)
        if side_by_side <= 1 or importlib.util.find_spec("loky") is None:  # loky may not be installed
            return InProcess()
        pool: Executor = _pool(side_by_side)
        return pool
