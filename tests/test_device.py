"""Threads and small work on several cores."""

import multiprocessing
import os
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ddkit.core.device import (
    WAITING_VARIABLES,
    available_memory,
    cores,
    each_on_one_thread,
    has_bfloat16,
    pick_device,
    threads,
    wait_briefly,
)
from ddkit.errors import OptionError

pytestmark = pytest.mark.usefixtures("two_threads")


@given(st.integers(0, 40), st.booleans())
@settings(max_examples=30, deadline=None)
def test_each_is_worked_on_once_with_one_thread(n, side_by_side):
    seen = []
    before = torch.get_num_threads()
    each_on_one_thread(lambda i: seen.append((i, torch.get_num_threads())), n, side_by_side=side_by_side)
    assert sorted(seen) == [(i, 1) for i in range(n)] and torch.get_num_threads() == before


def test_large_work_is_spread_over_threads():
    seen = set()
    barrier = threading.Barrier(2, timeout=10)

    def work(i):
        seen.add(threading.get_ident())
        barrier.wait()  # passes only where two items are worked on at once

    with threads(2):
        each_on_one_thread(work, 8, side_by_side=True)
    assert len(seen) == 2


def test_an_error_of_one_item_is_raised():
    def work(i):
        if i == 3:
            raise ValueError("item 3")

    for side_by_side in (False, True):
        with pytest.raises(ValueError, match="item 3"):
            each_on_one_thread(work, 6, side_by_side=side_by_side)


def test_the_number_of_threads_is_put_back_after_an_error():
    before = torch.get_num_threads()
    with pytest.raises(ValueError, match="no"), threads(1):
        assert torch.get_num_threads() == 1
        raise ValueError("no")
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("given", [None, *WAITING_VARIABLES])
def test_waiting_is_as_the_user_has_set_it(monkeypatch, given):
    for name in WAITING_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    if given is not None:
        monkeypatch.setenv(given, "mine")
    wait_briefly()
    found = {name: os.environ[name] for name in WAITING_VARIABLES if name in os.environ}
    assert found == ({"GOMP_SPINCOUNT": "1000"} if given is None else {given: "mine"})


def test_a_device_that_is_not_here_is_named():
    assert pick_device("cpu") == torch.device("cpu") and isinstance(has_bfloat16(torch.device("cpu")), bool)
    for name in ("cuda:99", "quantum"):
        with pytest.raises(OptionError, match=f"device '{name}'.*try device cpu"):
            pick_device(name)


def test_the_threads_are_started_once_and_again_in_a_forked_process():
    seen = set()
    for _ in range(3):
        each_on_one_thread(lambda i: seen.add(threading.get_ident()), 50, side_by_side=True)
    assert len(seen) <= max(cores(), 2)
    own = torch.get_num_threads()
    other: list[int] = []
    thread = threading.Thread(target=lambda: other.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert other == [own]  # new threads of the user are not limited to one
    if hasattr(os, "fork"):
        process = multiprocessing.get_context("fork").Process(
            target=each_on_one_thread, args=(print_nothing, 4), kwargs={"side_by_side": True}
        )
        process.start()
        process.join(30)
        assert process.exitcode == 0


def print_nothing(i):
    """Work of a forked process."""


def kernel(root, available, limits=(), version=2):
    """File systems of a kernel: memory in bytes; (limit, usage, cached) of the cgroup and of those above it."""
    (root / "proc" / "self").mkdir(parents=True)
    (root / "proc" / "meminfo").write_text(f"MemTotal: 9999999 kB\nMemAvailable: {available // 1024} kB\n")
    names = ["a/b", "a", ""][: len(limits)] if limits else [""]
    controllers = "" if version == 2 else "memory"
    (root / "proc" / "self" / "cgroup").write_text(f"1:cpu:/x\n0:{controllers}:/{names[0]}\n")
    files = ("memory.max", "memory.current", "file")
    if version == 1:
        files = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache")
    for name, (limit, usage, cached) in zip(names, limits):
        place = root / "sys" / "fs" / "cgroup" / controllers / name
        place.mkdir(parents=True, exist_ok=True)
        (place / files[0]).write_text(f"{limit}\n")
        (place / files[1]).write_text(f"{usage}\n")
        (place / "memory.stat").write_text(f"anon 5\n{files[2]} {cached}\n")


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("limits", "want"),
    [
        ((), 2**30),
        ((("max", 5, 0),), 2**30),
        (((2**28, 2**20, 2**10),), 2**28 - 2**20 + 2**10),
        (((2**29, 0, 0), (2**25, 2**24, 0), ("max", 0, 0)), 2**24),
        (((2**20, 2**21, 0),), 0),
    ],
)
def test_available_memory_is_what_the_tightest_cgroup_leaves(tmp_path, version, limits, want):
    kernel(tmp_path, 2**30, limits, version)
    assert available_memory(tmp_path) == want


def test_available_memory_here_and_without_a_proc(tmp_path):
    assert available_memory() > 0 and available_memory(tmp_path) > 0
