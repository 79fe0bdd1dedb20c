"""Devices, CPU threads, memory and library versions."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import platform
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING

from ddkit import __version__
from ddkit.core.worker_state import STATE
from ddkit.errors import OptionError

if TYPE_CHECKING:
    import torch


def pick_device(name: str = "auto") -> torch.device:
    """Return a torch device that is checked to be usable.

    Args:
        name: `auto` (CUDA, then MPS, then CPU) or a torch device name.

    Raises:
        OptionError: The device is unknown or cannot be used on this machine.
    """
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
    """Run the block with exactly `n` CPU threads.

    On a CPU the bytes of a result depend on the number of threads (docs/format.md).

    Args:
        n: Number of threads of torch.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def each_on_one_thread(work: Callable[[int], None], n: int, *, side_by_side: bool) -> None:
    """Call `work(0)` to `work(n - 1)`, each on one CPU thread.

    Small operations become very slow when several threads share one of them on a busy machine, so the cores are used
    for different items instead. The threads are started once per process. `work` must not call this function.

    Args:
        work: Called with the index of an item, for example an image.
        n: Number of items.
        side_by_side: Whether to run up to `torch.get_num_threads()` items at a time; else one after the other.
    """
    import torch

    waiting = iter(range(n))

    def take() -> None:
        for i in waiting:  # an iterator over a range hands each index to one thread
            work(i)

    lanes = min(torch.get_num_threads(), n) if side_by_side else min(n, 1)
    running = [_single_threads().submit(take) for _ in range(lanes)]
    try:
        for done in running:
            done.result()
    finally:
        for _ in waiting:  # after an error the remaining items are dropped
            pass
        wait(running)


_pool: ThreadPoolExecutor | None = None
_pool_lock = threading.Lock()


def _single_threads() -> ThreadPoolExecutor:
    """The threads of this process in which torch uses one thread for an operation."""
    global _pool
    with _pool_lock:
        if _pool is None:
            _pool = _start_single_threads(max(cores(), 2))
        return _pool


def _start_single_threads(n: int) -> ThreadPoolExecutor:
    import torch

    all_started = threading.Barrier(n)

    def start() -> None:
        torch.get_num_threads()  # a thread takes the process-wide number at its first use, and then keeps its own
        torch.set_num_threads(1)
        all_started.wait()

    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(n, thread_name_prefix="ddkit-image")
    try:
        wait([pool.submit(start) for _ in range(n)])
    except RuntimeError:  # the system refuses another thread
        all_started.abort()
        raise
    torch.set_num_threads(before)  # the call above also set the process-wide number
    return pool


def _forget_threads() -> None:
    """In a forked process: the threads of its parent do not exist here."""
    global _pool, _pool_lock
    _pool, _pool_lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)


ALLOCATOR_VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> None:
    """Have the C library keep freed memory for reuse by the next step.

    Without this, training steps on a CPU may return the memory of their tensors to the system and map it again, page by
    page, each time. Applies to glibc only, and not where one of ALLOCATOR_VARIABLES is set.
    """
    if sys.platform != "linux" or any(name in os.environ for name in ALLOCATOR_VARIABLES):
        return
    import ctypes

    trim_threshold, mmap_threshold = -1, -3  # option numbers of mallopt, from malloc.h
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(mmap_threshold, 32 * 2**20)  # the largest value that mallopt accepts
        mallopt(trim_threshold, 2**31 - 1)


WAITING_VARIABLES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def wait_briefly() -> None:
    """Have OpenMP threads that wait for one another give up their core after microseconds instead of milliseconds.

    Beside other busy processes, active waiting keeps the core from the thread that is waited for, and a step of two
    threads takes a multiple of its time (benchmarks/engines.py). This has an effect on GNU OpenMP (torch for
    Linux) before torch is imported; nothing is changed where one of WAITING_VARIABLES is set.
    """
    if not any(name in os.environ for name in WAITING_VARIABLES):
        os.environ["GOMP_SPINCOUNT"] = "1000"


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def device_class(device: torch.device) -> str:
    """Return the class of hardware within which equal seeds give equal bytes.

    Args:
        device: The device that computes.

    Returns:
        The vector instruction set and vendor of a CPU (its libraries choose other kernels by both), or the compute
        capability of a GPU.
    """
    import torch

    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return f"cuda sm_{major}{minor}"
    if device.type != "cpu":
        return f"{device.type} {platform.machine()}"
    amx = " amx" if getattr(torch.cpu, "_is_amx_tile_supported", bool)() else ""
    bfloat16 = " bf16" if has_bfloat16(device) else ""
    return f"cpu {torch.backends.cpu.get_cpu_capability()}{bfloat16}{amx} {_vendor()}"


def _vendor() -> str:
    """The vendor of the processor, else its architecture."""
    vendors = {"GenuineIntel": "Intel", "AuthenticAMD": "AMD"}

    def read() -> str:
        with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:  # Linux
            for line in file:
                if line.startswith("vendor_id"):
                    name = line.partition(":")[2].strip()
                    return vendors.get(name, name)
        return platform.machine()

    return STATE.constant("processor's vendor", read)


def has_bfloat16(device: torch.device) -> bool:
    """Return whether `device` computes in bfloat16 natively; otherwise it is slower than float32."""
    import torch

    if device.type == "cuda":
        found: bool = torch.cuda.is_bf16_supported(including_emulation=False)
        return found
    return device.type == "cpu" and bool(getattr(torch.cpu, "_is_avx512_bf16_supported", bool)())


def has_triton(device: torch.device) -> bool:
    """Return whether Triton kernels run on `device`: a CUDA GPU of compute capability 7 or above, with Triton."""
    import torch

    def found() -> bool:
        return importlib.util.find_spec("triton") is not None and torch.cuda.get_device_capability(device)[0] >= 7

    return device.type == "cuda" and STATE.keep("triton", str(device), found, most=8)


def hardware(device: torch.device) -> str:
    """Return a description of the machine for results: the GPU of `device`, else CPU model and number of cores."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    return f"{model}, {cores()} cores"


def versions() -> dict[str, str]:
    """Return the versions of Python, ddkit and the installed libraries that affect results, by name."""
    found = {"python": platform.python_version(), "ddkit": __version__}
    names = ("torch", "torchvision", "timm", "datasets", "huggingface_hub", "safetensors", "pillow", "numpy")
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def available_memory(root: Path = Path("/")) -> int:
    """Return the memory that this process can still use, in bytes: of the machine, or within its cgroups if less.

    Memory of cached files counts as available.

    Args:
        root: Where the file systems of the kernel are.
    """
    found = []
    with contextlib.suppress(OSError):
        lines = (root / "proc/meminfo").read_text(encoding="utf-8").splitlines()
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    if not found:
        found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, name = line.split(":", 2)
            if controllers in ("", "memory"):
                found += _cgroup_memory(root / "sys/fs/cgroup" / controllers, name.strip("/"), controllers == "")
    return max(0, min(found))


def _cgroup_memory(mount: Path, name: str, second_version: bool) -> list[int]:
    """What a cgroup and those above it leave, in bytes; nothing where there is no limit."""
    limit, usage, cached = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache"
    if second_version:
        limit, usage, cached = "memory.max", "memory.current", "file"
    found = []
    for part in (Path(name), *Path(name).parents):
        with contextlib.suppress(OSError, ValueError):  # ValueError: the limit is "max"
            most, used = (int((mount / part / file).read_text()) for file in (limit, usage))
            stat = dict(line.split() for line in (mount / part / "memory.stat").read_text().splitlines())
            found.append(most - used + int(stat.get(cached, 0)))
    return found


def peak_memory(device: torch.device) -> int:
    """Return the peak memory so far, in bytes: of `device` if it is a GPU, else of this process."""
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
