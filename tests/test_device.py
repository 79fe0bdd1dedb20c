"""Threads and small work on several cores."""

import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ddkit.core.device import each_on_one_thread, has_bfloat16, pick_device, threads
from ddkit.errors import OptionError


@given(st.integers(0, 40), st.booleans())
@settings(max_examples=30, deadline=None)
def test_each_is_worked_on_once_with_one_thread(n, large):
    seen = []
    before = torch.get_num_threads()
    each_on_one_thread(lambda i: seen.append((i, torch.get_num_threads())), n, large=large)
    assert sorted(seen) == [(i, 1) for i in range(n)] and torch.get_num_threads() == before


def test_large_work_is_spread_over_threads():
    seen = set()
    barrier = threading.Barrier(2, timeout=10)

    def work(i):
        seen.add(threading.get_ident())
        barrier.wait()  # passes only where two items are worked on at once

    with threads(2):
        each_on_one_thread(work, 8, large=True)
    assert len(seen) == 2


def test_an_error_of_one_item_is_raised():
    def work(i):
        if i == 3:
            raise ValueError("item 3")

    for large in (False, True):
        with pytest.raises(ValueError, match="item 3"):
            each_on_one_thread(work, 6, large=large)


def test_the_number_of_threads_is_put_back_after_an_error():
    before = torch.get_num_threads()
    with pytest.raises(ValueError, match="no"), threads(1):
        assert torch.get_num_threads() == 1
        raise ValueError("no")
    assert torch.get_num_threads() == before


def test_a_device_that_is_not_here_is_named():
    assert pick_device("cpu") == torch.device("cpu") and isinstance(has_bfloat16(torch.device("cpu")), bool)
    for name in ("cuda:99", "quantum"):
        with pytest.raises(OptionError, match=f"device '{name}'.*try device cpu"):
            pick_device(name)
