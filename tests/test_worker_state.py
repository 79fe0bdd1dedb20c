"""The cache of a process keeps the newest values of each kind, and no more."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

from hypothesis import given
from hypothesis import strategies as st

from ddkit.core.worker_state import WorkerState


@given(st.lists(st.integers(0, 5), max_size=40), st.integers(1, 4))
def test_the_most_recently_used_values_are_kept(keys, most):
    state, recent, made = WorkerState(), [], []
    for key in keys:
        assert state.keep("kind", key, lambda key=key: made.append(key) or key * 10, most=most) == key * 10
        expected_made = key not in recent
        recent = [k for k in recent if k != key] + [key]
        recent = recent[-most:]
        assert (bool(made) and made.pop() == key) if expected_made else not made


def test_kinds_do_not_replace_each_other_and_are_dropped_by_name():
    state = WorkerState()
    first = [state.keep(kind, 1, object) for kind in ("teacher", "source")]
    assert [state.keep(kind, 1, object) for kind in ("teacher", "source")] == first
    state.drop("teacher")
    assert state.keep("source", 1, object) is first[1] and state.keep("teacher", 1, object) is not first[0]
    state.drop()
    assert state.keep("source", 1, object) is not first[1]


def test_constants_are_made_once_and_not_dropped():
    state = WorkerState()
    first = [state.constant(name, object) for name in ("names", "images")]
    state.drop()
    state.keep("names", 1, object)
    state.drop("names")
    assert [state.constant(name, object) for name in ("names", "images")] == first and len({*first}) == 2
    together = threading.Barrier(4)  # all make a value before one is kept
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: state.constant("other", lambda: [together.wait(60)]), range(4)))
    assert len({id(value) for value in found}) == 1


def test_threads_get_the_values_of_their_keys_and_agree_on_them():
    state, switch = WorkerState(), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # threads take turns within `keep`

    def work(number):
        found = [state.keep("kind", key % 3, lambda key=key: [key % 3], most=2) for key in range(number, number + 3000)]
        assert [value for (value,) in found] == [key % 3 for key in range(number, number + 3000)]
        return state.keep("other", 1, lambda: [together.wait(60)])

    together = threading.Barrier(4)  # all make a value before one is kept
    try:
        with ThreadPoolExecutor(4) as threads:
            assert len({id(value) for value in list(threads.map(work, range(4)))}) == 1
    finally:
        sys.setswitchinterval(switch)


def test_a_value_that_cannot_be_made_is_not_kept():
    state = WorkerState()

    def fail():
        raise ValueError("no")

    for _ in range(2):
        try:
            state.keep("kind", 1, fail)
        except ValueError:
            continue
        raise AssertionError("no error")
    assert state.keep("kind", 1, lambda: 7) == 7
