"""The options of `distill`, typed once: what is unknown or impossible is refused before anything is opened."""

import dataclasses

import pytest

from ddkit.errors import OptionError
from ddkit.pipeline.options import HOW, DistillOptions, check_counts

FIELDS = [f.name for f in dataclasses.fields(DistillOptions)]


def test_nothing_given_decides_nothing():
    assert DistillOptions.of({}).decisive() == {}
    assert DistillOptions.of(dict.fromkeys(FIELDS)) == DistillOptions()


@pytest.mark.parametrize("name", HOW)
def test_options_of_how_a_run_is_done_do_not_decide_the_set(name):
    assert name in FIELDS
    value = {"workers": 2, "device": "cpu"}.get(name, True)
    assert DistillOptions.of({name: value}).decisive() == {}


def test_what_is_given_decides_and_is_plain_json():
    asked = DistillOptions.of(
        {"data": "digits", "ipc": 2, "prefixes": [1, 2], "settings": {"crops": 3}, "skip_bad": False}
    )
    assert asked.decisive() == {"data": "digits", "ipc": 2, "prefixes": [1, 2], "settings": {"crops": 3}}
    assert DistillOptions.of({"skip_bad": True}).decisive() == {"skip_bad": True}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ipcs": 3}, "ipc"),
        ({"method": "redd"}, "rded"),
        ({"protocol": "nothing"}, "nothing"),
        ({"codec": "fp8"}, "fp16"),
        ({"image_format": "bmp"}, "png"),
        ({"ipc": 2.0}, "whole number"),
        ({"ipc": True}, "whole number"),
        ({"views": 0}, "at least 1"),
        ({"holdout": 1.0}, "between 0 and 1"),
        ({"prefixes": (5, 5)}, "increasing"),
        ({"prefixes": (5, 10), "ipc": 7}, "above ipc 7"),
    ],
)
def test_what_cannot_be_is_named(options, message):
    with pytest.raises(OptionError, match=message):
        DistillOptions.of(options)


def test_counts_of_other_commands_are_checked_by_the_same_rule():
    check_counts(runs=1, seed=-3, ipc=None)
    for wrong in ({"runs": 0}, {"seed": "x"}, {"size": -1}):
        with pytest.raises(OptionError):
            check_counts(**wrong)
