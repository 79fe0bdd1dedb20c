"""Locks on paths, which other processes respect that write the same set or checkpoint."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ddkit.core.console import note
from ddkit.core.files import disk_errors, host
from ddkit.errors import EnvironmentFailure, OtherRun

POLL_S = 0.5  # seconds between attempts to take a lock that another process holds
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # errors of a file system without locks


@contextlib.contextmanager
def locked(path: Path, what: str, run: Mapping[str, Any] | None = None, *, wait: bool = True) -> Iterator[None]:
    """Hold a lock on a path while the block runs.

    The lock is the file `.NAME.lock` beside `path`; it records host, process and `run`.

    Args:
        path: The file or folder to lock.
        what: What this process does, for messages of the processes that wait, as in "distilling".
        run: What determines the result. If the process that holds the lock differs in one of these values, OtherRun is
            raised; else this process waits for it.
        wait: Whether to wait at all; if false, OtherRun is raised while the lock is held.

    Raises:
        OtherRun: Another process holds the lock.
        DiskError: The lock cannot be written.
        EnvironmentFailure: The file system has no locks.
    """
    from filelock import FileLock, Timeout

    named = path if path.name not in ("", "..") else path.resolve()
    place = named.with_name(f".{named.name}.lock")
    with disk_errors(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(place, thread_local=False, fallback_to_soft=False)
        noted = False
        while True:
            try:
                lock.acquire(timeout=0 if not noted else POLL_S, poll_interval=0.05)
                break
            except Timeout:
                holder = _holder(place)
                who = f"process {holder.get('process', '?')} on {holder.get('host', '?')}"
                if not wait or differs(holder.get("run"), run):
                    raise OtherRun(
                        f"{path} is being written by {who} for another run; wait until it ends, or choose another name"
                    ) from None
                if not noted:
                    note(f"{path}: {who} is {what}; waiting for it")
                    noted = True
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
                raise EnvironmentFailure(
                    f"the file system of {place.parent} has no locks ({error.strerror}); mount it with locks, or "
                    "choose another place"
                ) from error
    try:
        with disk_errors(path):
            text = json.dumps({"host": host(), "process": os.getpid(), "run": run}, default=str)
            place.write_text(text, encoding="utf-8")
        yield
    finally:
        with contextlib.suppress(OSError):
            place.unlink()  # before the release: waiting processes see that the name is gone, and retry
        lock.release()


def _holder(place: Path) -> dict[str, Any]:
    """What the process that holds a lock wrote into it; {} if that is incomplete."""
    try:
        found = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def differs(theirs: Any, ours: Mapping[str, Any] | None) -> bool:
    """Return whether two runs have different values for the same key; None matches any value.

    Args:
        theirs: A JSON value; a run is a mapping.
        ours: The other run.
    """
    if not isinstance(theirs, dict) or ours is None:
        return False
    plain = json.loads(json.dumps(dict(ours), default=str))
    return any(key in theirs and theirs[key] is not None and value is not None and theirs[key] != value
               for key, value in plain.items())  # fmt: skip
