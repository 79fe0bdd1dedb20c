"""Every reader of untrusted bytes: valid inputs, inputs that once failed, and mutations of them."""

import random
import warnings

import pytest
from fuzz import seeds
from fuzz.targets import TARGETS, Finding, Target
from hypothesis import given, settings
from hypothesis import strategies as st

SLOW = ("checkpoint", "rendered-card", "parquet", "webdataset")
BASES = {name: target.inputs() for name, target in TARGETS.items()}


@pytest.fixture(autouse=True)
def quiet():
    """Libraries warn of odd input, which no test asks for here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_valid_is_accepted(name):
    assert [TARGETS[name].check(data) for data in BASES[name]].count(True) >= max(1, len(BASES[name]) - 1)


@pytest.mark.parametrize("name", TARGETS)
def test_what_was_found_is_read_or_refused(name):
    for data in seeds.of(name):
        TARGETS[name].check(data)


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_changed_is_read_or_refused(name):
    target = TARGETS[name]

    @given(st.integers(0, 2**32), st.sampled_from(range(len(BASES[name]))))
    @settings(max_examples=3 if name in SLOW else 20, deadline=None, derandomize=True, database=None)
    def changed(seed, base):
        target.check(target.mutate(BASES[name][base], random.Random(seed)))

    changed()


def test_a_target_tells_what_a_reader_should_not_do():
    def read(data):
        if data == b"refused":
            raise ValueError("in one line")
        if data == b"crash":
            raise KeyError("crash")
        if data == b"wrong":
            raise Finding("wrong")

    target = Target(read, (ValueError,), lambda: [b"fine"], lambda data, rng: data)
    assert target.check(b"fine") and not target.check(b"refused")
    with pytest.raises(KeyError):
        target.check(b"crash")
    with pytest.raises(Finding):
        target.check(b"wrong")


def test_seeds_are_those_of_a_target():
    assert {path.name for path in seeds.FOLDER.iterdir()} <= set(TARGETS)
