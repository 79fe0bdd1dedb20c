"""Deferred signals: a training that is interrupted finishes its current step and saves its state first."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

STOPPING = (signal.SIGINT, signal.SIGTERM)
SAVING = getattr(signal, "SIGUSR1", None)  # not on Windows


class _Deferred:
    """The pending signal, the handlers before `deferred`, and the number of open `deferred` blocks."""

    arrived: int | None = None
    before: dict[int, Any] = {}  # noqa: RUF012 (shared by the whole process)
    open = 0


def _arrive(number: int, frame: FrameType | None) -> None:
    if _Deferred.arrived == number and number in STOPPING:  # second request: stop at once
        _hand_on(number, frame)
    _Deferred.arrived = number


def _hand_on(number: int, frame: FrameType | None) -> None:
    handler = _Deferred.before.get(number)
    if callable(handler):
        handler(number, frame)
    else:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


@contextmanager
def deferred() -> Iterator[None]:
    """Defer SIGINT, SIGTERM and SIGUSR1 while the block runs; it polls `pending` and calls `obey`.

    Has no effect outside the main thread or in worker processes (their parent stops them). Ignored signals stay
    ignored: a shell ignores SIGINT for a command started with `&`. A second SIGINT or SIGTERM takes effect at once.
    """
    ours = threading.current_thread() is threading.main_thread() and multiprocessing.parent_process() is None
    if ours and _Deferred.open == 0:
        numbers = [number for number in (*STOPPING, SAVING) if number is not None]
        numbers = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
        _Deferred.before = {number: signal.signal(number, _arrive) for number in numbers}
    _Deferred.open += ours
    try:
        yield
    finally:
        _Deferred.open -= ours
        if ours and _Deferred.open == 0:
            for number, handler in _Deferred.before.items():
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)
            _Deferred.arrived = None


def pending() -> int:
    """Return the number of the pending signal, 0 if there is none; the caller then saves its state and calls `obey`."""
    return _Deferred.arrived or 0


def obey(number: int) -> None:
    """Perform a signal: SIGINT and SIGTERM run their previous handlers, SIGUSR1 does nothing more.

    Args:
        number: What `pending` returned, here or in another process of the same training; 0: nothing is done.
    """
    if _Deferred.arrived == number:
        _Deferred.arrived = None
    if number in STOPPING:
        _hand_on(number, None)
