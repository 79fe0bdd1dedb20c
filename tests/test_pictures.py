"""Pictures: every name is drawn or replaced and told, and the view strip says what a view is made of."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
from PIL import ImageFont

from ddkit import ReplayLoader
from ddkit.core.worker_state import STATE
from ddkit.publishing import pictures

DRAWN = ["Éclair à la crème", "γάτα", "кошка", "Übergröße", "çğış", "Cafe\u0301"]
MISSING = ["猫", "cat ねこ", "고양이", "बिल्ली"]


@pytest.fixture
def world_set(rded_set):
    """A set with class names in many scripts, of a source named in Chinese."""
    classes = tuple(replace(entry, name=name) for entry, name in zip(rded_set.classes, DRAWN + MISSING))
    return rded_set.changed(classes=classes, source=replace(rded_set.source, id="写真"))


def test_the_font_has_accents_greek_and_cyrillic():
    font = ImageFont.truetype(pictures.font_file(), 20)
    box = bytes(font.getmask("\U0010fffd"))  # what is drawn for a character that no font has
    for c in "éñčßΩγжя":
        assert bytes(font.getmask(c)) != box and pictures.drawable(c) == c
    assert pictures.drawable("a 猫\nb") == "a ?\nb"


def test_classes_that_cannot_be_drawn_are_shown_by_number(capsys):
    STATE.drop("undrawable names")
    assert pictures.class_labels(DRAWN + MISSING) == [*DRAWN[:-1], "Café", "class 6", "class 7", "class 8", "class 9"]
    assert pictures.class_labels(DRAWN + MISSING, 8)[:2] == ["Éclair …", "γάτα"]
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "4 class names have" in told
    assert "class 6 (猫)" in told and "class 7 (cat ねこ)" in told
    assert pictures.class_labels(["cat", "n02123045 猫, tabby"]) == ["cat", "class 1"]
    assert "1 class name has" in capsys.readouterr().err
    pictures.class_labels(DRAWN)
    assert capsys.readouterr().err == ""


def test_no_warning_of_a_missing_character_reaches_anybody(world_set, tmp_path, capsys):
    STATE.drop("undrawable names")
    history = [{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.0, "accuracy": 50.0}]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pictures.preview_grid(world_set)
        pictures.view_strip(world_set, tmp_path / "strip.png", rows=3)
        pictures.curves({"猫": history, "кошка": history}, tmp_path / "curves.png")
        pictures.demo_picture(world_set, {"猫": history}, [["method"], ["random"]], tmp_path / "demo.png")
    assert capsys.readouterr().err.count("\n") == 1


def test_the_view_strip_tells_classes_from_probabilities_and_names_what_is_mixed_in(rded_set, tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(pictures, "save_figure", lambda figure, path: figures.append(figure))
    pictures.view_strip(rded_set, tmp_path / "strip.png", rows=4, views=5)
    figure, loader = figures[0], ReplayLoader(rded_set, batch_size=1)
    rows = np.unique(np.linspace(0, loader.rows - 1, 4).astype(int))
    mixed = 0
    for row, line in zip(rows, np.reshape(figure.axes, (4, 6))):
        for view, axis in enumerate(line[1:]):
            logits = loader.view(int(row), view)[1]
            p = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
            first = axis.get_title().replace("\u200e", "").splitlines()[0]
            assert first == f"{loader.classes[p.argmax()]}: {100 * p.max():.0f} %"
            partner = loader.partner(int(row), view)
            expected = "" if partner is None else f"+ {loader.classes[partner]}"
            assert axis.get_xlabel().replace("\u200e", "") == expected
            mixed += partner is not None
    assert mixed
    heading = figure.get_suptitle()
    assert (
        "stored image with crop boxes" in heading and "the teacher's most likely" in heading and "T = 1" not in heading
    )


def test_where_nothing_is_mixed_in_no_class_is_named(random_set, tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(pictures, "save_figure", lambda figure, path: figures.append(figure))
    monkeypatch.setattr(ReplayLoader, "partner", lambda self, row, index: None)
    pictures.view_strip(random_set, tmp_path / "strip.png", rows=2, views=2)
    assert "CutMix" not in figures[0].get_suptitle() and not any(axis.get_xlabel() for axis in figures[0].axes)
