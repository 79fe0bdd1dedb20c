"""Notes and progress bars on stderr, and durations and sizes as text."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from ddkit.text import one_printable_line


class _Console:
    """Whether notes and progress are switched off. Both go to stderr; results never do."""

    quiet = False


def set_quiet(quiet: bool) -> None:
    """Switch notes and progress off (`quiet` true) or on."""
    _Console.quiet = quiet


@contextlib.contextmanager
def muted() -> Iterator[None]:
    """Switch notes and progress off while the block runs."""
    before, _Console.quiet = _Console.quiet, True
    try:
        yield
    finally:
        _Console.quiet = before


def note(message: str) -> None:
    """Write one line for the user to stderr.

    Does nothing where notes are switched off or stderr is closed; the first failed write switches them off.

    Args:
        message: The text; control characters are removed and line breaks become spaces.
    """
    if _Console.quiet or sys.stderr is None:
        return
    try:
        sys.stderr.write(one_printable_line(message) + "\n")
        sys.stderr.flush()
    except (OSError, ValueError):  # stderr is closed or its reader has exited; the work continues
        _Console.quiet = True


def _stderr() -> Any:
    from rich.console import Console

    return Console(stderr=True)


class Advance(Protocol):
    """Callback that reports finished items to a progress bar.

    Args:
        n: Number of items, or bytes, finished since the last call.
        earlier: Whether an earlier run finished them; they then do not count towards the rate.
    """

    def __call__(self, n: int, /, earlier: bool = False) -> None: ...


@contextlib.contextmanager
def progress(title: str, total: int, unit: str = "") -> Iterator[Advance]:
    """Show a progress bar with rate and estimated time left while the block runs.

    Without a terminal, prints a line at most every 30 seconds and one at the end. Shows nothing where progress is
    switched off or `total` is 0.

    Args:
        title: Name of the work.
        total: Number of items, or of bytes.
        unit: What is counted, as in "images"; "bytes" is shown in kB, MB or GB.

    Yields:
        The callback that reports finished items.
    """
    if _Console.quiet or total == 0:
        yield lambda n, earlier=False: None
        return
    started = time.monotonic()

    def of_total(done: float) -> str:
        return f"{size_words(done)} of {size_words(total)}" if unit == "bytes" else f"{done:.0f}/{total} {unit}"

    title = one_printable_line(title)
    if sys.stderr is None or not sys.stderr.isatty():
        state = {"done": 0, "earlier": 0, "reported": started}

        def advance_lines(n: int, earlier: bool = False) -> None:
            state["done"] += n
            state["earlier"] += n if earlier else 0
            now = time.monotonic()
            if state["done"] >= total or now - state["reported"] >= 30:
                state["reported"] = now
                left = (now - started) / max(state["done"] - state["earlier"], 1) * (total - state["done"])
                eta = f", about {duration(left)} left" if total > state["done"] >= total / 50 else ""
                note(f"{title}: {of_total(state['done'])} in {duration(now - started)}{eta}")

        yield advance_lines
        return
    from rich import progress as bars

    columns = (
        bars.TextColumn("{task.description:<28}", markup=False),
        bars.BarColumn(bar_width=30),
        bars.TextColumn("{task.fields[done]}"),
        bars.TimeElapsedColumn(),
        bars.TextColumn("{task.fields[rate]}"),
        bars.TextColumn("left {task.fields[left]}"),
    )
    with bars.Progress(*columns, console=_stderr()) as display:
        task = display.add_task(title, total=total, rate="", left="", done=of_total(0))
        done = before = 0

        def advance_bar(n: int, earlier: bool = False) -> None:
            nonlocal done, before
            done += n
            before += n if earlier else 0
            speed = (done - before) / max(time.monotonic() - started, 1e-6)
            rate = f"{size_words(speed)}/s" if unit == "bytes" else f"{speed:.3g}/s"
            left = duration((total - done) / speed) if speed else ""
            display.update(task, advance=n, rate=rate, left=left, done=of_total(done))

        yield advance_bar


@contextlib.contextmanager
def watched_progress(title: str, total: int, unit: str, done: Callable[[], int]) -> Iterator[None]:
    """Show a progress bar for work that other processes do while the block runs.

    Args:
        title: Name of the work.
        total: Number of items, or of bytes.
        unit: What is counted, as in `progress`.
        done: Returns how much is finished; called every second.
    """
    over = threading.Event()
    with progress(title, total, unit) as advance:
        first = done()
        advance(first, earlier=True)

        def watch() -> None:
            shown = first
            while True:
                finished = over.wait(1.0)
                now = done()
                if now > shown:
                    advance(now - shown)
                    shown = now
                if finished:
                    return

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def duration(seconds: float) -> str:
    """Format `seconds` as `45 s`, `3 min 20 s` or `2 h 5 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
    return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:.0f} min"


def size_words(size_bytes: float) -> str:
    """Format `size_bytes` as `512 B`, `3.4 MB` or `1.2 GB` (powers of ten)."""
    for unit in ("B", "kB", "MB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} GB"


def one_line(values: Mapping[str, object]) -> str:
    """Format settings, `values`, as `factor=1, crops=5`."""
    return ", ".join(f"{key}={value}" for key, value in values.items())
