"""Where code runs: device, CPU threads, memory, versions."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from ddkit import __version__
from ddkit.errors import OptionError

if TYPE_CHECKING:
    import torch


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
    """Run with exactly `n` CPU threads: on CPU the bytes of a result depend on their number (docs/format.md)."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def each_on_one_thread(work: Callable[[int], None], n: int, *, large: bool) -> None:
    """work(0) … work(n-1), each on one CPU thread; where it is much, several of them side by side.

    Small operations that share threads inside one image collapse on a busy machine, so cores are filled across images.
    large: whether it is worth as many threads as torch may use here.
    """
    import torch

    side_by_side = min(torch.get_num_threads(), n) if large else 1
    with threads(1):
        if side_by_side <= 1:
            for i in range(n):
                work(i)
            return
        with ThreadPoolExecutor(side_by_side, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for _ in pool.map(work, range(n)):
                pass


ALLOCATOR_VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


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
        found: bool = torch.cuda.is_bf16_supported(including_emulation=False)
        return found
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


def peak_memory(device: torch.device) -> int:
    """The most memory so far, bytes: of the device where it is a GPU, else of this process."""
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
