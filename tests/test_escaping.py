"""Words of others show as they are on cards, in pictures and on terminals."""

import json
import re
import shutil

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ddkit.core.console import note
from ddkit.core.front_matter import front_matter
from ddkit.format.manifest_file import manifest_of, read_manifest, write_manifest
from ddkit.publishing.escaping import code, fenced, markdown, web_address
from ddkit.publishing.rendering import publish_files
from ddkit.text import one_printable_line, printable

NASTY = [
    "$x^2$ and $y", "a\n---\nb", "---", "<script>alert(1)</script>", "[click](http://evil.example)", "{{ 7*7 }}{% x %}",
    "\x1b[31mred\x1b[0m", "user\u202egnp.exe", "line\nbreak", "`code` and ``more``",
]  # fmt: skip


@given(st.text())
def test_a_terminal_shows_no_control_and_no_turned_text(text):
    shown = printable(text)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", shown)
    shown.encode()
    assert "\n" not in one_printable_line(text)


@given(st.text())
def test_markdown_holds_no_markup(text):
    shown = markdown(text)
    assert not re.search(r"[<>`*\[\]|$\\]|://|~~", re.sub(r"&#\d+;", "", shown)) and "\n" not in shown


@given(st.text())
def test_a_code_span_ends_where_it_should(text):
    shown = code(text)
    fence = re.match("`+", shown)[0]
    inside = shown[len(fence) : -len(fence)]
    assert shown.endswith(fence) and fence not in re.findall("`+", inside) and "\n" not in shown


def test_ordinary_names_stay_as_they_are():
    for name in ("tench, Tinca tinca", "photos_2024", "uoft-cs/cifar10", "Müller's cat (small)", "C# and A+"):
        assert markdown(name) == name
    assert code("cudd") == "`cudd`" and code("a|b", table=True) == "`a\\|b`"
    assert web_address("https://a.example/b?c=1") and not web_address("javascript:alert(1)")
    assert not web_address("https://a.example/) [x](y") and fenced("a\n```\nb") == "a ` ` ` b"


@pytest.fixture
def nasty(random_set, tmp_path):
    """A set whose classes and other words try everything."""
    root = shutil.copytree(random_set.root, tmp_path / "set")
    data = json.loads((root / "ddkit.json").read_text())
    for entry, name in zip(data["classes"], NASTY):
        entry["name"] = name
    data["source"]["id"], data["recipe"]["paper"] = "](x) <b> $y$ `z`\n# heading", "| a | b |\n\n# heading"
    data["teachers"][0]["arch"], data["cost"]["device"] = "<img src=x>", "a | b"
    data["recipe"]["config"] = {"key\n```": "value\n```\n# heading"}
    return write_manifest(root, manifest_of(data))


def test_a_card_of_nasty_words_is_a_card(nasty):
    publish_files(nasty)
    text = (nasty.root / "README.md").read_text()
    matter, body = front_matter(text)
    assert matter == yaml.safe_load(text.split("\n---\n")[0].removeprefix("---\n"))
    names = matter["dataset_info"][0]["features"][1]["dtype"]["class_label"]["names"]
    assert [names[str(i)] for i in range(10)] == NASTY
    outside = re.sub(r"^```.*?^```$", "", body, flags=re.DOTALL | re.MULTILINE)
    outside = re.sub(r"(?<!`)(`+)(?!`).*?(?<!`)\1(?!`)", "", outside)
    assert not re.search(r"<(script|b|img)\b|\x1b|\u202e|\]\(x\)|\]\(http://evil", outside)
    headings = [line for line in outside.splitlines() if line.startswith("#")]
    assert not [line for line in headings if "heading" in line[:12]]
    assert "[" not in body[body.index("<details><summary>The 10 classes") :].split("</details>")[0]
    publish_files(read_manifest(nasty.root))  # what it rendered can be taken apart again
    assert (nasty.root / "README.md").read_text() == text


def test_stock_datasets_opens_it(nasty):
    from datasets import load_dataset

    publish_files(nasty)
    rows = load_dataset(str(nasty.root), split="train")
    assert rows.features["cls"].names == NASTY and len(rows) == 20


def test_pictures_of_nasty_words_are_drawn(nasty, tmp_path):
    from ddkit.publishing.pictures import curves, preview_grid, view_strip

    assert preview_grid(nasty)[:4] == b"\x89PNG"
    view_strip(nasty, tmp_path / "views.png")
    curves({"$\\frac{1": [{"epoch": 1, "loss": 1.0}]}, tmp_path / "curves.png")
    assert (tmp_path / "views.png").is_file() and (tmp_path / "curves.png").is_file()


def test_notes_are_one_line(capsys):
    note("a\n\x1b[2Jb\u202ec")
    assert capsys.readouterr().err == "a [2Jbc\n"
