"""Rank correlations against counting pairs; the measure ranking with networks trained on the set and on the source."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddkit.errors import OptionError
from ddkit.evaluation.measures import find_measure
from ddkit.evaluation.measures.interface import Asked
from ddkit.evaluation.measures.ranking import Config, permutation_p, rank_correlations

values = st.lists(st.integers(0, 6), min_size=4, max_size=9)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_kendall_and_spearman_against_loops(data):
    ours = data.draw(values)
    full = data.draw(st.lists(st.integers(0, 6), min_size=len(ours), max_size=len(ours)))
    tau, rho = rank_correlations(ours, full)
    if len(set(ours)) < 2 or len(set(full)) < 2:
        assert (tau, rho) == (0.0, 0.0)
        return
    pairs = list(itertools.combinations(range(len(ours)), 2))
    signs = [((ours[i] > ours[j]) - (ours[i] < ours[j]), (full[i] > full[j]) - (full[i] < full[j])) for i, j in pairs]
    untied = [sum(s[k] != 0 for s in signs) for k in (0, 1)]
    assert tau == pytest.approx(sum(a * b for a, b in signs) / (untied[0] * untied[1]) ** 0.5)

    def ranks(numbers):
        return [sum(a < b for a in numbers) + (sum(a == b for a in numbers) + 1) / 2 for b in numbers]

    assert rho == pytest.approx(float(np.corrcoef(ranks(ours), ranks(full))[0, 1]))


def test_the_p_value_of_a_perfect_ranking_of_five_is_that_of_one_order_in_120():
    found = permutation_p([1, 2, 3, 4, 5], [10, 20, 30, 40, 50], np.random.default_rng(0))
    assert found == pytest.approx(1 / 120, rel=0.3)


def test_requests(random_set):
    ranking = find_measure("ranking")
    asked = ranking.students(Asked(config=Config(), manifest=random_set, arch="convnet3"))
    assert len({request.arch for request in asked}) == 12 and sum(request.full for request in asked) == 12
    with pytest.raises(OptionError, match="at least 3"):
        ranking.students(Asked(config=Config(archs=("convnet3",)), manifest=random_set, arch="convnet3"))
