import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ddkit.core.seeds import nested_choice, permutation, rng, torch_seed


@given(st.integers(0, 2**62), st.lists(st.one_of(st.integers(-9, 9), st.text(max_size=5)), max_size=4))
def test_a_draw_depends_on_its_name_alone(seed, path):
    first = rng(seed, *path).random(8)
    rng(seed, "between").random(100)
    assert (rng(seed, *path).random(8) == first).all()
    assert (rng(seed, *path, "more").random(8) != first).any()


def test_names_do_not_run_together():
    names = [("a", "b"), ("ab",), ("a", 1), ("a", "1"), ("a1",), (1, 1), (11,)]
    draws = {rng(0, *name).random() for name in names}
    assert len(draws) == len(names)


def test_the_stream_is_pinned():
    # A change here changes every set that is made again.
    assert rng(0, "view", 7).integers(0, 1000, 4).tolist() == PINNED
    assert torch_seed(0, "x") == torch_seed(0, "x") != torch_seed(1, "x")


PINNED = [882, 323, 562, 341]


@given(st.integers(1, 50), st.integers(0, 5))
def test_choices_are_nested(n, seed):
    items = np.arange(100, 100 + n)
    order = nested_choice(seed, items, "c")
    assert sorted(order) == sorted(items)
    assert sorted(permutation(seed, n, "p")) == list(range(n))
