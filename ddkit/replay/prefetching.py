"""Computes the next items of an iteration in another thread while the current one is used."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def made_ahead(make: Callable[[Item], Result], items: Iterable[Item], depth: int) -> Iterator[Result]:
    """Yield `make(item)` for each item, in order.

    One thread makes the items ahead. It ends with the iteration: after the last item, at an error, or when the iterator
    is closed or no longer referred to. An error of `make` is raised where its item is due.

    Args:
        make: Called with one item at a time.
        items: The items.
        depth: Number of items that are made ahead of the one that was yielded last; 0: none, and no thread is used.
    """
    if depth == 0:
        yield from map(make, items)
        return
    thread = ThreadPoolExecutor(1, thread_name_prefix="ddkit-prefetch")
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(thread.submit(make, item))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        if not sys.is_finalizing():  # at the end of the interpreter the thread is gone, and its queue is torn down
            thread.shutdown(wait=False, cancel_futures=True)
