"""JSON, YAML and TOML that came from anyone: a sane value, or ValueError."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddkit.core.front_matter import front_matter, load_yaml
from ddkit.core.serialization import Mismatch, canonical, load_toml, parse_settings, read_dataclass, strict_json
from ddkit.errors import OptionError
from ddkit.specs import ClassName
from ddkit.text import plain_name

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@given(VALUES)
def test_what_we_write_is_read(value):
    assert strict_json(canonical(value)) == value and strict_json(canonical(value).encode()) == value
    assert strict_json(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")) is not ...


@pytest.mark.parametrize(
    "text",
    ["NaN", "[Infinity]", "-Infinity", "1e400", '{"a": 1, "a": 2}',
     '{"a": 1, "\\u0061": 2}', '"\\ud800"', "[" * 61 + "]" * 61,
     "[" * 100_000, "", "1 2", b"\xff", b"\xef\xbb\xbf{}", b'"\xed\xa0\x80"', "{}".encode("utf-16"), "9" * 5000],
)  # fmt: skip
def test_what_no_json_of_ours_is(text):
    with pytest.raises(ValueError):
        strict_json(text)


@given(VALUES)
def test_yaml_of_ordinary_values_is_read(value):
    import yaml

    text = yaml.safe_dump({"a": value, "b": value}, allow_unicode=True)
    assert load_yaml(text) == yaml.safe_load(text)


def laughs(levels, width):
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * width)}]" for i in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        laughs(9, 9),
        laughs(30, 2),
        "a: &a [*a]",
        "a: *b",
        "[" * 50 + "]" * 50,
        "[" * 100_000,
        "a: [",
        "!!python/object:os.system x",
        "!!bool x",
        "!!int ''",
        "x: 1" + ":1" * 500_000,
        "x: 0x" + "f" * 5000,
        "x: !!float '" + "1:" * 500_000 + "1'",
    ],
)
def test_yaml_that_grows_or_is_deep_is_refused(text):
    with pytest.raises(ValueError):
        load_yaml(text)


def test_front_matter_ends_at_its_own_line():
    matter, body = front_matter("---\na: b ---\nc: '\n  ---\n  x'\n---\nbody\n---\n")
    assert matter["a"] == "b ---" and matter["c"] == " --- x" and body == "body\n---\n"
    assert front_matter("---\n---\nx") == ({}, "x") and front_matter("no") == ({}, "no")
    for text in ("---\n- a\n---\n", "---\n: :\n: x\n---\n"):
        with pytest.raises(ValueError):
            front_matter(text)


def test_a_key_of_many_that_is_there_twice_is_named():
    """In the time that reading them takes: comparing each with all others would take hours."""
    text = "{" + "".join(f'"{i}": 1, ' for i in range(200_000)) + '"199999": 1}'
    with pytest.raises(ValueError, match="'199999' appears twice"):
        strict_json(text)


@pytest.mark.parametrize("value", [None, 3, "text", [1], [["name", 1]]])
def test_a_value_that_is_no_table_is_no_dataclass(value):
    with pytest.raises(Mismatch, match="it must be a table"):
        read_dataclass(ClassName, value)


def test_toml_of_too_many_digits_is_one_line(tmp_path):
    (tmp_path / "long.toml").write_text("x = " + "9" * 10_000)
    with pytest.raises(OptionError, match="digits"):
        load_toml(str(tmp_path / "long.toml"), "protocols", "protocol")
    assert isinstance(parse_settings(["x=" + "9" * 10_000])["x"], str)


def test_deep_toml_is_one_line(tmp_path):
    deep = "x = " + "[" * 5000 + "]" * 5000
    (tmp_path / "deep.toml").write_text(deep)
    with pytest.raises(OptionError, match="nested too deeply|levels deep"):
        load_toml(str(tmp_path / "deep.toml"), "protocols", "protocol")
    (tmp_path / "deep.toml").write_text("x." * 500 + "y = 1")
    with pytest.raises(OptionError, match="deep"):
        load_toml(str(tmp_path / "deep.toml"), "protocols", "protocol")
    assert isinstance(parse_settings(["x=" + "[" * 5000])["x"], str)


@given(st.text())
def test_any_source_gives_a_name_that_a_set_can_have(source):
    from ddkit.format.fields import NAME

    name = plain_name(source.replace("/", "-").replace("\0", "-"))
    assert NAME.fullmatch(f"random-{name}-ipc10") and ".." not in name
