"""Units on this machine: in this process, or side by side in worker processes (loky), one thread each."""

from __future__ import annotations

import importlib.util
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any, TypeVar

from ddkit.core.console import be_quiet
from ddkit.core.device import keep_memory, threads
from ddkit.errors import WorldError

Item = TypeVar("Item")
Result = TypeVar("Result")

LEAK = "LOKY_MAX_MEMORY_LEAK_SIZE"  # bytes
_pools: dict[int, Any] = {}


def _begin_worker(parent: int) -> None:
    """One CPU thread; Ctrl-C is the parent's business; nobody works on for a parent that was killed."""
    import torch

    keep_memory()
    torch.set_num_threads(1)
    be_quiet(True)  # the parent tells how far things are
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _pool(workers: int) -> Any:
    """The worker processes, started once and kept: importing torch costs seconds.

    loky rather than multiprocessing: its workers do not import the caller's script again, so a script without
    `if __name__ == "__main__"` works.
    """
    if workers not in _pools:
        from loky import ProcessPoolExecutor

        env = {LEAK: os.environ.get(LEAK, "1e12")}  # kept memory is no leak: loky would restart its workers
        _pools[workers] = ProcessPoolExecutor(workers, initializer=_begin_worker, initargs=(os.getpid(),), env=env)
    return _pools[workers]


def _in_folder(folder: str, work: Callable[[Item], Result], item: Item) -> Result:
    """work(item) in the caller's folder: paths in an item may be relative, and a worker outlives a chdir."""
    os.chdir(folder)
    return work(item)


def stop(kill: bool = False) -> None:
    """End the worker processes; kill: at once. Units are files or nothing, so no work is damaged."""
    while _pools:
        _pools.popitem()[1].shutdown(wait=True, kill_workers=kill)


def run(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    workers: int,
    needs: Callable[[Item], set[str]] | None = None,
) -> Iterator[tuple[Item, Result]]:
    """Yield (item, work(item)) in the order of finishing.

    work: a module-level function; it and the items travel to other processes when workers > 1. Each call has one CPU
    thread, so results do not depend on `workers`. needs: ids (`item.id`) that must be finished before an item starts.
    Raises what `work` raises; WorldError when a worker process dies.
    """
    waiting = list(items)
    finished: set[str] = set()
    known = {getattr(item, "id", "") for item in waiting}

    def ready() -> list[Item]:
        free = [item for item in waiting if needs is None or not (needs(item) & known) - finished]
        for item in free:
            waiting.remove(item)
        return free

    if workers <= 1 or len(waiting) <= 1 or importlib.util.find_spec("loky") is None:  # a bare GPU machine has no loky
        keep_memory()
        while batch := ready():
            for item in batch:
                with threads(1):
                    result = work(item)
                finished.add(getattr(item, "id", ""))
                yield item, result
        return

    from concurrent.futures.process import BrokenProcessPool

    pool, folder = _pool(workers), os.getcwd()
    running: dict[Future[Result], Item] = {}
    try:
        while waiting or running:
            running |= {pool.submit(_in_folder, folder, work, item): item for item in ready()}
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                item = running.pop(future)
                result = future.result()
                finished.add(getattr(item, "id", ""))
                yield item, result
    except BrokenProcessPool as error:
        raise WorldError(
            "a worker process died (out of memory?); run the same command again, it continues; --workers 1 needs less"
        ) from error
    finally:
        if running:
            stop(kill=True)
