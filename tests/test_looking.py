"""The functions with which people look: `inspect`, `preview`, `card`, `list`."""

import shutil

import pytest

import ddkit
from ddkit.errors import OptionError, SetError
from ddkit.listing import KINDS


def test_inspect_gives_the_manifest(rded_set, tmp_path):
    assert ddkit.inspect(rded_set.root) == rded_set
    with pytest.raises(SetError, match="nothing"):
        ddkit.inspect(tmp_path / "nothing")


def test_preview_draws_and_names_its_pictures(rded_set, tmp_path):
    made = ddkit.preview(rded_set.root, tmp_path / "p.png")
    assert made == {"images": tmp_path / "p.png", "views": tmp_path / "p-views.png"}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in made.values())
    assert ddkit.preview(rded_set.root, tmp_path / "q.png")["images"].read_bytes() == made["images"].read_bytes()


def test_card_renders_again_and_keeps_what_the_user_wrote(rded_set, tmp_path):
    root = shutil.copytree(rded_set.root, tmp_path / "set")
    path = ddkit.card(root)
    path.write_text(path.read_text() + "\nMine.\n")
    first = ddkit.card(root).read_text()
    assert first.rstrip().endswith("\nMine.")
    assert ddkit.card(root).read_text() == first


@pytest.mark.parametrize("what", KINDS)
def test_list_names_what_there_is(what):
    found = ddkit.list(what)
    known = {
        "methods": "cudd",
        "recipes": "rded-cifar10",
        "protocols": "rded",
        "networks": "convnet3",
        "codecs": "fp16",
        "measures": "calibration",
    }
    assert known[what] in found and all(isinstance(line, str) and line for line in found.values())


def test_list_of_something_else_says_what_there_is():
    with pytest.raises(OptionError, match="methods.*recipes"):
        ddkit.list("teachers")
