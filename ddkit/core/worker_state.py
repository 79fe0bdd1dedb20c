"""Per-process cache of opened sources, networks and decoded shards. The only in-memory cache.

A worker process runs many units of the same run. Objects that several units need are opened once and kept under a key
of everything that determines them, until newer objects of the same kind replace them. What depends on nothing but the
machine and the installed packages is made once per process.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")
MISSING: Any = object()


class WorkerState:
    """Cached values by kind and key; each kind keeps its most recently used values."""

    def __init__(self) -> None:
        self._kept: dict[str, OrderedDict[Hashable, Any]] = {}
        self._constants: dict[str, Any] = {}

    def keep(self, kind: str, key: Hashable, make: Callable[[], T], most: int = 1) -> T:
        """Return the cached value, or create and cache it. Threads may call it at the same time: each that finds no
        value makes one, and all get the one that was there first.

        Args:
            kind: Kind of value, as in "teacher".
            key: Everything that determines the value.
            make: Creates the value.
            most: Number of values of this kind that are kept.
        """
        values = self._kept.setdefault(kind, OrderedDict())
        found: T = values.get(key, MISSING)
        if found is MISSING:
            found = values.setdefault(key, make())
        with suppress(KeyError):  # of a value that another thread has replaced meanwhile
            values.move_to_end(key)
            while len(values) > most:
                values.popitem(last=False)
        return found

    def constant(self, name: str, make: Callable[[], T]) -> T:
        """Return a value that depends only on the machine and the installed packages, made at its first use.

        Neither newer values nor `drop` remove it, so it must not be changed.

        Args:
            name: Name of the value, as in "ImageNet descriptions".
            make: Creates the value.
        """
        found: T = self._constants.get(name, MISSING)
        return self._constants.setdefault(name, make()) if found is MISSING else found

    def drop(self, *kinds: str) -> None:
        """Remove all kept values of the given `kinds`; without arguments, of all kinds."""
        for kind in kinds or tuple(self._kept):
            self._kept.pop(kind, None)


STATE = WorkerState()  # the cache of this process
