"""Coreset selectors by their definitions, and nested."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddkit.synthesis.coresets import herding, k_center, k_means

sizes = st.tuples(st.integers(0, 500), st.integers(6, 30), st.integers(1, 5))


def points(seed, n):
    return np.random.default_rng(seed).normal(size=(n, 4)).astype(np.float32)


def rng():
    return np.random.default_rng(7)


@pytest.mark.parametrize("select", [herding, k_center, k_means])
@settings(max_examples=15, deadline=None)
@given(sizes)
def test_no_image_twice_and_as_many_as_asked(select, size):
    seed, n, count = size
    chosen = select(points(seed, n), points(0, 0), count, rng())
    assert len(set(chosen)) == count == len(chosen)


@pytest.mark.parametrize("select", [herding, k_center])
@settings(max_examples=15, deadline=None)
@given(sizes, st.integers(1, 5))
def test_growing_is_one_run(select, size, more):
    seed, n, count = size
    x = points(seed, n + 6)
    whole = select(x, x[:0], count + more, rng())
    first = select(x, x[:0], count, rng())
    assert whole[:count] == first
    free = np.setdiff1d(np.arange(len(x)), first)
    grown = select(x[free], x[first], more, rng())
    assert [int(free[i]) for i in grown] == whole[count:]


@settings(max_examples=20, deadline=None)
@given(sizes)
def test_herding_is_the_greedy_minimum(size):
    seed, n, count = size
    x = points(seed, n).astype(np.float64)
    chosen: list[int] = []
    for k in range(1, count + 1):
        left = [i for i in range(n) if i not in chosen]
        chosen.append(min(left, key=lambda i: np.linalg.norm(k * x.mean(0) - (x[chosen].sum(0) + x[i]))))
    assert herding(x.astype(np.float32), x[:0], count, rng()) == chosen


@settings(max_examples=20, deadline=None)
@given(sizes)
def test_k_center_takes_the_farthest(size):
    seed, n, count = size
    x = points(seed, n)
    chosen = k_center(x, x[:0], count, rng())
    for k in range(1, count):
        distance = np.linalg.norm(x[:, None] - x[chosen[:k]][None], axis=-1).min(1)
        assert distance[chosen[k]] == pytest.approx(distance.max())


def test_k_means_finds_the_clusters():
    centres = np.array([[0, 0], [10, 0], [0, 10]])
    x = np.concatenate([c + np.random.default_rng(0).normal(size=(9, 2)) * 0.1 for c in centres]).astype(np.float32)
    chosen = k_means(x, x[:0], 3, rng())
    assert sorted(i // 9 for i in chosen) == [0, 1, 2]
