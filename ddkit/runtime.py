"""Where we run: device, threads, notes, progress. Knows nothing of datasets."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import os
import platform
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ddkit import __version__
from ddkit.errors import OptionError
from ddkit.text import one_printable_line

if TYPE_CHECKING:
    import torch

# ------------------------------------------------------------------ device and threads


def pick_device(name: str = "auto") -> torch.device:
    """`auto` (CUDA, then MPS, then CPU) or a torch device name. Raises OptionError for one that is not here."""
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise OptionError(f"device {name!r} cannot be used ({reason}); try --device cpu") from error
    return device


@contextlib.contextmanager
def threads(n: int) -> Iterator[None]:
    """Run with exactly `n` CPU threads: on CPU the bytes of a result depend on their number (format.md)."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


ALLOCATOR_VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


@functools.cache
def keep_memory() -> None:
    """Have the C library keep freed memory for the next step: else steps on a CPU may give their tensors back to the
    system and get them anew, page by page, each time. glibc only; its own variables go first."""
    if sys.platform != "linux" or any(name in os.environ for name in ALLOCATOR_VARIABLES):
        return
    import ctypes

    trim_threshold, mmap_threshold = -1, -3  # malloc.h
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(mmap_threshold, 32 * 2**20)  # the most it takes
        mallopt(trim_threshold, 2**31 - 1)


def cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def device_class(device: torch.device) -> str:
    """What equal bytes need besides the seed: the vector instructions of the CPU, or the architecture of the GPU."""
    import torch

    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return f"cuda sm_{major}{minor}"
    bfloat16 = " bf16" if has_bfloat16(device) else ""
    return f"{device.type} {torch.backends.cpu.get_cpu_capability()}{bfloat16}"


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 itself; elsewhere it is slower than float32."""
    import torch

    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and bool(getattr(torch.cpu, "_is_avx512_bf16_supported", bool)())


def hardware(device: torch.device) -> str:
    """The machine in words, for results."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    return f"{model}, {cores()} cores"


def versions() -> dict[str, str]:
    """Versions of ddkit and of what its results rest on; libraries that are not installed are left out."""
    found = {"python": platform.python_version(), "ddkit": __version__}
    names = ("torch", "torchvision", "timm", "datasets", "huggingface_hub", "safetensors", "pillow", "numpy")
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


# ------------------------------------------------------------------ telling the user


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


@functools.cache
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
        state = {"done": 0, "earlier": 0, "told": started}

        def advance_lines(n: int, earlier: bool = False) -> None:
            state["done"] += n
            state["earlier"] += n if earlier else 0
            now = time.monotonic()
            if state["done"] >= total or now - state["told"] >= 30:
                state["told"] = now
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


def peak_memory(device: torch.device) -> int:
    """The most memory so far, bytes: of the device where it is a GPU, else of this process."""
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


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
