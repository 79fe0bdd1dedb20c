"""A budget: how it is written, what it allows, and that the best way within it is chosen."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ddkit
from ddkit.errors import OptionError, OtherRun
from ddkit.format.codecs.interface import centred
from ddkit.format.codecs.registry import find_codec
from ddkit.format.label_info import BudgetRow
from ddkit.labelling.budget import (
    BudgetGoal,
    BudgetSample,
    candidates,
    carried_instead,
    check_reachable,
    choose,
    expected_loss,
    is_reachable,
)
from ddkit.specs import Protocol

LOGITS = centred((np.random.default_rng(0).normal(size=(300, 30)) * np.linspace(3, 0.3, 30)).astype(np.float32))


def sample(views=60, rows=50):
    return BudgetSample(
        rows=rows, views=views, epochs=views, logits=LOGITS, view_layout=11, temperature=20.0, teacher_bytes=600_000,
        image_bytes={"png": 20000.0, "jpg": 5000.0},
    )  # fmt: skip


@pytest.mark.parametrize(
    "text, canonical", [("40x", "40x"), ("2.50x", "2.5x"), ("300MB", "300MB"), ("1.5 GB", "1.5GB"), ("900kB", "900kB")]
)
def test_budgets_have_one_spelling(text, canonical):
    assert BudgetGoal.parse(text).text == canonical == BudgetGoal.parse(canonical).text


@pytest.mark.parametrize("text", ["", "40", "x40", "0x", "0.5x", "0MB", "3TB", "300mb", "-3MB", "40x40"])
def test_anything_else_is_refused(text):
    with pytest.raises(OptionError, match="40x, or a size, as in 300MB"):
        BudgetGoal.parse(text)


@given(st.floats(1.5, 60))
@settings(deadline=None, max_examples=15)
def test_the_choice_fits_and_nothing_shown_that_fits_is_better(factor):
    goal = BudgetGoal.parse(f"{factor:.2f}x")
    table = choose(goal, sample())
    full = 50 * 60 * (11 + 2 * 30)
    assert all(way.label_bytes * goal.factor <= full for way in table)
    stored = [way for way in table if not find_codec(way.codec).FROM_PIXELS]
    assert table[0].loss == min(way.loss for way in stored) and len(table) <= 12
    assert all(way.image == "png" for way in table)


def test_a_smaller_budget_never_promises_more():
    losses = [choose(BudgetGoal.parse(f"{factor}x"), sample())[0].loss for factor in (1, 2, 4, 8, 16, 32)]
    assert losses == sorted(losses) and losses[0] < losses[-1]


def test_a_size_counts_images_and_may_take_jpeg():
    wide, tight = (choose(BudgetGoal.parse(text), sample())[0] for text in ("3MB", "500kB"))
    assert wide.image == "png" and wide.bytes <= 3_000_000
    assert tight.image == "jpg" and tight.bytes <= 500_000


def test_what_cannot_fit_says_what_is_smallest():
    with pytest.raises(OptionError, match=r"nothing fits; the smallest is .* views and jpg images"):
        choose(BudgetGoal.parse("10kB"), sample())


def test_what_cannot_fit_by_a_factor_names_the_smallest_labels():
    with pytest.raises(OptionError, match=r"nothing fits; the smallest is lowrank:2:i4 with 5 views"):
        choose(BudgetGoal.parse("400x"), sample())


@given(st.integers(1, 300), st.integers(1, 400), st.floats(1, 200))
@settings(deadline=None, max_examples=12)
def test_what_is_reachable_is_known_before_a_set_is_made(views, rows, factor):
    goal, given = BudgetGoal.parse(f"{factor:.2f}x"), {"views": views, "view_layout": 11, "classes": 30}
    try:
        choose(goal, sample(views, rows))
    except OptionError:
        assert not is_reachable(goal, rows=rows, **given)
    else:
        check_reachable(goal, **given)


def test_a_default_budget_is_one_that_can_be_kept():
    plan = {
        "dataset": "tinyimagenet",
        "method": "random",
        "ipc": 1,
        "device_speed": "4090",
        "teacher": "train:convnet3",
    }
    assert ddkit.plan(views=300, **plan).labels == "budget 40x" and ddkit.plan(views=5, **plan).labels == "fp16"
    with pytest.raises(OptionError, match="budget 40x: with 5 views and 200 classes the views without labels are"):
        ddkit.plan(views=5, budget="40x", **plan)


def test_every_candidate_suits_the_classes():
    for classes in (2, 5, 10, 100, 1000):
        for name in candidates(classes, 20.0):
            find_codec(name).check(classes)
            assert find_codec(name).temperatures((20.0,))


def test_expected_loss_grows_with_error_and_reuse():
    assert expected_loss(0, 100, 0, "png") == 0
    assert expected_loss(0.3, 9, 2, "png") > expected_loss(0.1, 9, 2, "png") > expected_loss(0.1, 9, 1, "png") > 0
    assert expected_loss(0, 100, 0, "jpg") > 0
    costs = [expected_loss(0.1, classes, 0, "png") for classes in (2, 100, 1000)]
    assert costs[0] == costs[1] == pytest.approx(10 * costs[2])


def test_fewer_views_cost_more_where_the_training_is_longer():
    goal = BudgetGoal.parse("4x")
    short, long = (choose(goal, replace(sample(), epochs=epochs)) for epochs in (60, 6000))
    assert long[0].views > short[0].views and long[0].loss > short[0].loss
    few = choose(goal, replace(sample(), epochs=1))
    assert few[0].loss == pytest.approx(80 * few[0].error ** 2, abs=1e-2)


@given(st.floats(0, 20), st.floats(0, 20))
def test_a_carried_teacher_is_named_where_it_loses_clearly_less(loss, exact):
    ways = [
        BudgetRow(image="png", views=300, codec=codec, bytes=1.0, label_bytes=1.0, error=0.1, loss=points)
        for codec, points in (("lowrank:8", loss), ("int8", 30.0), ("teacher", exact))
    ]
    assert (carried_instead(ways) is not None) == (loss - exact >= 1)
    assert carried_instead(ways[:2]) is None and carried_instead(ways[2:]) is None


OPTIONS = {"data": "digits", "method": "random", "views": 20, "protocol": "demo", "workers": 1}


def test_a_run_within_a_budget_is_repeated_grown_and_recorded(small_teacher, tmp_path):
    made = ddkit.distill(tmp_path / "set", **OPTIONS, teacher=small_teacher, ipc=2, budget="3x")
    budget = made.labels.budget
    assert budget.asked == "3x" and budget.views == 20
    chosen = budget.table[0]
    assert (chosen.codec, chosen.views, chosen.image) == (made.labels.codec, made.views.count, made.image.codec)
    epochs = Protocol.load("demo").train_spec(ipc=2, arch="convnet3", dataset="digits").epochs_for(20)
    for way in budget.table:
        reuse = max(epochs / way.views, 1) - max(epochs / 20, 1)
        assert way.loss == pytest.approx(expected_loss(way.error, 10, reuse, way.image), abs=0.02)
    assert ddkit.distill(tmp_path / "set").content == made.content
    assert "Budget" in (tmp_path / "set" / "README.md").read_text()
    grown = ddkit.distill(tmp_path / "set", ipc=3, budget="3x", views=20)
    assert grown.shards[0] == made.shards[0] and grown.labels.budget == budget
    whole = ddkit.distill(tmp_path / "whole", **OPTIONS, teacher=small_teacher, prefixes=(2, 3), ipc=3, budget="3x")
    assert whole.content == grown.content
    shutil.rmtree(tmp_path / "set.work")
    again = ddkit.distill(tmp_path / "set", data="digits", teacher=small_teacher, ipc=4, workers=1)
    assert again.shards[:2] == grown.shards and again.labels.budget == budget
    with pytest.raises(OtherRun, match="budget 3x, not 5x"):
        ddkit.distill(tmp_path / "set", budget="5x")


def test_a_set_within_a_size_is_not_larger(small_teacher, tmp_path):
    made = ddkit.distill(tmp_path / "set", **OPTIONS, teacher=small_teacher, ipc=5, budget="300kB")
    files = sum(path.stat().st_size for folder in ("data", "images") for path in (made.root / folder).glob("*.tar"))
    assert 100_000 < files <= 300_000
    assert made.labels.budget.table[0].bytes == pytest.approx(files, rel=0.15)


def test_a_budget_leaves_nothing_else_to_choose():
    for other in ({"codec": "int8"}, {"image_format": "png"}):
        with pytest.raises(OptionError, match="leave .* out"):
            ddkit.distill("nowhere", data="digits", budget="40x", **other)
