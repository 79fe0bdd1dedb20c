"""Batches made ahead: the same ones in the same order, errors where they are due, no thread that stays."""

import gc
import itertools
import threading
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ddkit import ReplayLoader
from ddkit.errors import OptionError
from ddkit.replay.prefetching import made_ahead


def threads_end() -> bool:
    for _ in range(500):
        if not any(thread.name.startswith("ddkit-prefetch") for thread in threading.enumerate()):
            return True
        time.sleep(0.01)
    return False


@given(st.integers(0, 12), st.integers(0, 4), st.integers(0, 12))
@settings(max_examples=40, deadline=None)
def test_items_come_in_order_and_no_more_than_the_depth_ahead(n, depth, stop):
    made = []

    def make(i):
        made.append(i)
        return i * i

    iterator = made_ahead(make, range(n), depth)
    seen = list(itertools.islice(iterator, stop))
    assert seen == [i * i for i in range(min(n, stop))]
    iterator.close()
    assert threads_end() and made == list(range(len(made))) and len(made) <= len(seen) + depth


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_an_error_is_raised_where_its_item_is_due(depth):
    def make(i):
        if i == 2:
            raise ValueError("item 2")
        return i

    iterator = made_ahead(make, range(5), depth)
    assert [next(iterator), next(iterator)] == [0, 1]
    with pytest.raises(ValueError, match="item 2"):
        next(iterator)
    assert threads_end()


def test_an_iterator_that_is_dropped_ends_its_thread(rded_set):
    loader = ReplayLoader(rded_set.root, batch_size=4, device="cpu")
    for _ in range(3):
        next(iter(loader))
    gc.collect()
    assert threads_end()


@pytest.mark.parametrize("world", [1, 3])
def test_prefetch_changes_neither_order_nor_bytes_nor_state(rded_set, world):
    loaders = [
        ReplayLoader(rded_set.root, batch_size=8, batch="dict", rank=world - 1, world_size=world, prefetch=depth)
        for depth in (0, 1, 2, 9)
    ]
    for _ in range(2):
        for batches in zip(*loaders, strict=True):
            for batch, loader in zip(batches[1:], loaders[1:]):
                assert all(torch.equal(batch[key], batches[0][key]) for key in batch)
                assert loader.state_dict() == loaders[0].state_dict()
                assert all(torch.equal(loader.peek()[key], loaders[0].peek()[key]) for key in batch)
    with pytest.raises(OptionError, match="prefetch is -1"):
        ReplayLoader(rded_set.root, batch_size=7, prefetch=-1)


def test_loaders_take_turns_in_one_process(random_set, rded_set):
    alone = [[batch[0].clone() for batch in ReplayLoader(s.root, batch_size=5)] for s in (random_set, rded_set)]
    together = zip(ReplayLoader(random_set.root, batch_size=5), ReplayLoader(rded_set.root, batch_size=5))
    for step, pair in enumerate(together):
        assert all(torch.equal(batch[0], alone[i][step]) for i, batch in enumerate(pair))
