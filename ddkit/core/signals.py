"""Signals during a training: it stops after its next step, with its state saved, instead of in the middle of one."""

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
    """What arrived and was not obeyed yet; the handlers that were there before; how many trainings are open."""

    arrived: int | None = None
    before: dict[int, Any] = {}  # noqa: RUF012 (one for the process)
    open = 0


def _arrive(number: int, frame: FrameType | None) -> None:
    if _Deferred.arrived == number and number in STOPPING:  # asked twice: at once
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
    """While open, SIGINT, SIGTERM and SIGUSR1 wait until `pending` is asked and `obey` called.

    Nothing changes outside the main thread or in worker processes (their parent ends them). What is ignored stays
    ignored: a shell ignores SIGINT for a command it starts with `&`.
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


def pending() -> bool:
    """Whether a signal waits: save, then `obey`."""
    return _Deferred.arrived is not None


def obey() -> None:
    """Do what the waiting signal asks for: SIGUSR1 goes on, the others end as they would have."""
    number, _Deferred.arrived = _Deferred.arrived, None
    if number in STOPPING:
        _hand_on(number, None)
