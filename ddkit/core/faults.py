"""Fault points: named steps of the mechanisms at which a test can end this process or find the disk full.

`DDKIT_FAULT=POINT:N` ends the process with SIGKILL when it reaches POINT for the N-th time. `DDKIT_FAULT=POINT:N:full`
raises "no space left on device" there instead. Worker processes inherit the variable, and each counts for itself.
"""

from __future__ import annotations

import errno
import os
import signal
from collections import Counter
from dataclasses import dataclass

from ddkit.errors import OptionError, unknown

VARIABLE = "DDKIT_FAULT"
POINTS = {
    "write": "a file is about to be written under its temporary name",
    "written": "it is written, but not yet on the disk (fsync)",
    "synced": "it is on the disk, still under its temporary name",
    "renamed": "it has its final name, but its folder is not yet on the disk",
    "published": "the file and its name are on the disk",
    "request": "the Hub is about to be asked: to list, create, upload, commit, tag or fetch",
    "answer": "the Hub has answered",
}


@dataclass(frozen=True)
class Fault:
    """What happens where.

    Attributes:
        point: One of POINTS.
        number: The fault is at the N-th time that this process reaches the point.
        full: Raise ENOSPC instead of ending the process.
    """

    point: str
    number: int
    full: bool = False

    @classmethod
    def parse(cls, text: str) -> Fault:
        """Return the fault that `text` names.

        Args:
            text: As in the environment variable: POINT:N or POINT:N:full.

        Raises:
            OptionError: `text` is not of this form, or there is no such point.
        """
        point, _, rest = text.partition(":")
        number, _, what = rest.partition(":")
        if point not in POINTS:
            raise unknown(f"point in {VARIABLE}", point, POINTS)
        if not (number.isascii() and number.isdigit() and int(number) > 0) or what not in ("", "full"):
            raise OptionError(f"{VARIABLE} is {text!r}; write POINT:N or POINT:N:full, with N from 1")
        return cls(point, int(number), what == "full")


class _Armed:
    """The fault of this process, if any, and how often each point was reached since it was set."""

    text: str | None = os.environ.get(VARIABLE)
    reached: Counter[str] = Counter()


def reach(point: str) -> None:
    """Pass a fault point; does nothing unless a fault is set.

    Args:
        point: One of POINTS.

    Raises:
        OptionError: DDKIT_FAULT is not valid.
        OSError: The fault set here is a full disk (ENOSPC).
    """
    if _Armed.text is None:
        return
    fault = Fault.parse(_Armed.text)
    _Armed.reached[point] += 1
    if point != fault.point or _Armed.reached[point] != fault.number:
        return
    if fault.full:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))  # on Windows, either ends it at once


def arm(text: str | None) -> None:
    """Set the fault of this process, as DDKIT_FAULT does before it starts, and count from zero.

    Args:
        text: POINT:N or POINT:N:full; None: no fault.
    """
    _Armed.text = text
    _Armed.reached.clear()


def reached() -> dict[str, int]:
    """Return how often this process has reached each point since its fault was set."""
    return dict(_Armed.reached)
