import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddkit.core.distributed import rank_slice
from ddkit.core.seeds import permutation
from ddkit.errors import OptionError
from ddkit.replay.order import check_batch, epoch_order

shards = st.lists(st.integers(1, 9), min_size=1, max_size=25)


@given(shards, st.integers(0, 9), st.integers(0, 9))
def test_every_row_once_and_groups_of_eight(sizes, seed, epoch):
    order = epoch_order(sizes, seed, epoch)
    assert sorted(order) == list(range(sum(sizes)))
    owner = np.repeat(np.arange(len(sizes)), sizes)[order]
    at = 0
    for group in range(0, len(sizes), 8):
        members = permutation(seed, len(sizes), "shards", epoch)[group : group + 8]
        n = sum(sizes[s] for s in members)
        assert set(owner[at : at + n]) == set(members)
        at += n


def test_the_order_is_pinned():
    assert epoch_order([3, 2], 0, 0).tolist() == PINNED_SMALL
    assert epoch_order([1] * 10, 5, 2).tolist() == PINNED_TEN
    assert epoch_order([50], 0, 0).tolist() != epoch_order([50], 0, 1).tolist() != epoch_order([50], 1, 0).tolist()


PINNED_SMALL = [1, 0, 2, 4, 3]
PINNED_TEN = [2, 3, 4, 5, 1, 6, 0, 8, 7, 9]


@given(st.integers(1, 200), st.integers(1, 8))
def test_ranks_cover_a_batch(n, world):
    rows = [i for rank in range(world) for i in range(n)[rank_slice(n, rank, world)]]
    assert rows == list(range(n))


@given(st.integers(1, 300), st.integers(1, 64), st.integers(1, 8))
@settings(max_examples=200)
def test_a_last_batch_smaller_than_the_ranks_is_refused_with_sizes_that_work(rows, batch, world):
    last = rows % batch or min(batch, rows)
    if last >= world:
        check_batch(rows, batch, world)
        return
    with pytest.raises(OptionError) as error:
        check_batch(rows, batch, world)
    words = str(error.value)
    if "sizes that work" in words:
        for size in words.split("work: ")[1].split(", "):
            check_batch(rows, int(size), world)
    else:
        assert rows < world
