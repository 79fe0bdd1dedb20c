"""Notes and progress on stderr for the person who waits, and numbers in words."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from ddkit.text import one_printable_line

if TYPE_CHECKING:
    pass


class _Console:
    """Progress and notes go to stderr; results never do."""

    quiet = False


def be_quiet(quiet: bool) -> None:
    """Switch notes and progress off or on."""
    _Console.quiet = quiet


def note(message: str) -> None:
    """One line for the person who waits, on stderr. Where nobody can read it, it is not told."""
    if _Console.quiet or sys.stderr is None:
        return
    try:
        sys.stderr.write(one_printable_line(message) + "\n")
        sys.stderr.flush()
    except (OSError, ValueError):  # closed, or its reader went away: the work goes on
        _Console.quiet = True


def _stderr() -> Any:
    from rich.console import Console

    return Console(stderr=True)


class Advance(Protocol):
    """Says that n more are done."""

    def __call__(self, n: int, /, earlier: bool = False) -> None: ...


@contextlib.contextmanager
def progress(title: str, total: int, unit: str = "") -> Iterator[Advance]:
    """A bar with rate and ETA. Yields `advance(n)`. Without a terminal: a line every 30 seconds, and one at the end.

    advance(n, earlier=True): an earlier run did them, so they say nothing of this one's speed.
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
    """A bar over work that other processes do: `done()`, how much of it is there, is asked every second."""
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
    """`45 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
    return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:.0f} min"


def size_words(size_bytes: float) -> str:
    """`512 B`, `3.4 MB`, `1.2 GB` (powers of ten)."""
    for unit in ("B", "kB", "MB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} GB"


def one_line(values: Mapping[str, object]) -> str:
    """`factor=1, crops=5`: settings as people read them."""
    return ", ".join(f"{key}={value}" for key, value in values.items())
