"""Errors: one printable line, exit codes, and options in the words of the caller."""

import inspect
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ddkit
from ddkit import errors
from ddkit.errors import DdkitError, OptionError, python_wording, unknown

CLASSES = [c for c in vars(errors).values() if inspect.isclass(c) and issubclass(c, DdkitError)]


@pytest.mark.parametrize("error", CLASSES, ids=lambda c: c.__name__)
def test_the_hierarchy_and_its_exit_codes(error):
    base = {2: errors.InputError, 3: errors.Refused, 4: errors.IntegrityError, 1: errors.EnvironmentFailure}
    assert error is DdkitError or (error.exit_code in base and issubclass(error, base[error.exit_code]))
    assert re.search(rf"\b{error.__name__}\b", errors.__doc__) and error.__doc__
    assert ddkit.DdkitError is DdkitError


@given(st.text(max_size=6000))
def test_every_message_is_one_printable_line(text):
    error = DdkitError(text)
    for line in (str(error), error.command_line):
        assert line.isprintable()
    assert len(error.command_line) <= DdkitError.LONGEST


@pytest.mark.parametrize(
    ("command", "python"),
    [
        ("--ipc is 0; it must be at least 1", "ipc is 0; it must be at least 1"),
        ("leave them out with --skip-bad", "leave them out with skip_bad=True"),
        ("try --device cpu", "try device cpu"),
        ("drop the term with --set bn.weight=0", "drop the term with settings bn.weight=0"),
        ("run `ddkit pull X DIR --ipc 5`, or give --val", "run `ddkit pull X DIR --ipc 5`, or give val"),
        ("a-b--c and x--y", "a-b--c and x--y"),
    ],
)
def test_python_users_read_keywords_and_commands_flags(command, python):
    assert python_wording(command) == python
    assert str(OptionError(command)) == python and OptionError(command).command_line == command


@given(st.lists(st.text("abcdef", min_size=1, max_size=8), min_size=1, max_size=8, unique=True), st.data())
def test_a_misspelt_name_is_answered_with_the_nearest(names, data):
    name = data.draw(st.sampled_from(names))
    message = str(unknown("thing", name + "x", names))
    assert repr(name + "x") in message and all(valid in message for valid in names)


def test_python_errors_name_no_flags(tmp_path):
    for call in (
        lambda: ddkit.distill(tmp_path / "a", data="digits", ipc=0),
        lambda: ddkit.distill(tmp_path / "a"),
        lambda: ddkit.distill(tmp_path / "a", data="digits", holdout=2.0),
        lambda: ddkit.evaluate("digits"),
        lambda: ddkit.teach(tmp_path / "t.safetensors", data="digits"),
        lambda: ddkit.push(tmp_path, "not a repo"),
    ):
        with pytest.raises(DdkitError) as caught:
            call()
        assert "--" not in re.sub(r"`[^`]*`", "", str(caught.value)), caught.value
