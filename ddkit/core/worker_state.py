"""What a process keeps open between calls: opened sources, networks, decoded shards. The only cache in memory.

Worker processes run many units of the same run; what several units need is opened once and kept here, under a key that
stands for all that decides it, and dropped when newer things of its kind come.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

T = TypeVar("T")


class WorkerState:
    """Values by kind and key; of each kind the most recently used ones are kept."""

    def __init__(self) -> None:
        self._kept: dict[str, OrderedDict[Hashable, Any]] = {}

    def keep(self, kind: str, key: Hashable, make: Callable[[], T], most: int = 1) -> T:
        """The value that was kept under `key`, else `make()`, which is kept from now on.

        kind: what it is, as in "teacher"; most: values of this kind that are kept.
        """
        values = self._kept.setdefault(kind, OrderedDict())
        if key not in values:
            made = make()
            values[key] = made
        values.move_to_end(key)
        while len(values) > most:
            values.popitem(last=False)
        found: T = values[key]
        return found

    def drop(self, *kinds: str) -> None:
        """Forget everything of some kinds; of all kinds where none is named."""
        for kind in kinds or tuple(self._kept):
            self._kept.pop(kind, None)


STATE = WorkerState()  # of this process
