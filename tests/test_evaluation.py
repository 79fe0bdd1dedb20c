"""Students and tables: by protocol, resumable, with honest intervals; and the demo."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

import ddkit
from ddkit.errors import ClassesError, OptionError, SetError
from ddkit.evaluation.cells import group_sets
from ddkit.evaluation.demonstration import run_demo
from ddkit.evaluation.statistics import mean_std, paired_difference
from ddkit.evaluation.students import train
from ddkit.evaluation.tables import evaluate
from ddkit.format.manifest_file import read_manifest, write_manifest
from ddkit.networks.checkpoints import load_checkpoint


def test_statistics():
    assert mean_std([1.0, 3.0]) == (2.0, pytest.approx(2**0.5)) and mean_std([5.0]) == (5.0, 0.0)
    ours, theirs = [[3.0, 5.0, 4.0]], [[1.0, 2.0, 3.0]]
    found = paired_difference(ours, theirs)
    low, high = stats.t.interval(0.95, 2, loc=2.0, scale=stats.sem([2, 3, 1]))
    assert found.mean == 2 and found.low == round(low, 2) and found.high == round(high, 2) and found.pairs == 3
    assert paired_difference([[1.0]], [[2.0]]) is None
    assert paired_difference([[1.0, 2.0]] * 3, [[0.0, 1.0]] * 3).pairs == 3


def test_interval_where_sets_and_students_vary():
    """The standard error is that of a bootstrap over sets and students, widened for few sets."""
    rng = np.random.default_rng(0)
    ours = [[float(v) for v in rng.normal(60 + shift, 1, 3)] for shift in (0, 2, 5, 1)]
    theirs = [[float(v) for v in rng.normal(58, 1, 3)] for _ in ours]
    found = paired_difference(ours, theirs, digits=None)
    pairs = np.array(ours) - np.array(theirs)
    resampled = []
    for _ in range(4000):
        sets = rng.integers(4, size=4)
        resampled.append(np.mean([rng.choice(pairs[i], 3).mean() for i in sets]))
    half = stats.t.ppf(0.975, 3) * np.std(resampled) * (4 / 3) ** 0.5
    assert found.mean == pytest.approx(pairs.mean()) and found.pairs == 4
    assert found.high - found.mean == pytest.approx(half, rel=0.05)
    assert found.mean - found.low == pytest.approx(half, rel=0.05)
    two = paired_difference(ours[:2], theirs[:2], digits=None)
    assert two.pairs == 2 and two.high - two.low > found.high - found.low


def test_soft_label_loss_is_kl_without_t_squared():
    z, t = torch.randn(4, 7), torch.randn(4, 7)
    p = torch.softmax(t / 20, 1)
    want = (p * (p.log() - torch.log_softmax(z / 20, 1))).sum() / 4
    assert ddkit.soft_label_loss(z, t, temperature=20).item() == pytest.approx(want.item(), rel=1e-4)


def test_train_from_the_directory_alone(random_set, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    job, result = train(random_set.root, epochs=2)
    assert result.accuracy is None and result.epochs == 2 and job.arch == "convnet3-w32"
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "random-digits-ipc2-convnet3-w32.jsonl", "random-digits-ipc2-convnet3-w32.png",
        "random-digits-ipc2-convnet3-w32.safetensors",
    ]  # fmt: skip
    network, spec = load_checkpoint(job.checkpoint)
    assert spec.mean == random_set.normalisation.mean and spec.classes == tuple(random_set.class_names)
    assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    assert [json.loads(line)["epoch"] for line in job.log.read_text().splitlines()] == [1, 2]


@pytest.mark.parametrize("labels", ["stored", "hard", "online"])
def test_labels(random_set, teacher, tmp_path, labels):
    _, result = train(
        random_set.root, epochs=1, labels=labels, teacher=teacher, val="digits", out=tmp_path / "s.safetensors"
    )
    assert 0 <= result.accuracy <= 100


def test_train_refusals(random_set, rded_set, tmp_path, photographs):
    with pytest.raises(SetError, match=r"scale.*ddkit relabel .* --protocol common --teacher T"):
        train(rded_set.root, protocol="common", out=tmp_path / "s.safetensors")
    with pytest.raises(OptionError, match="stored, hard, online"):
        train(random_set.root, labels="soft")
    with pytest.raises(OptionError, match="needs the teacher"):
        train(random_set.root, labels="online")
    with pytest.raises(OptionError, match="unknown network"):
        train(random_set.root, arch="convnet9")
    with pytest.raises(OptionError, match="safetensors"):
        train(random_set.root, out=tmp_path / "s.pt")
    with pytest.raises(SetError, match="no prefix of 1"):
        train(random_set.root, ipc=1, out=tmp_path / "s.safetensors")
    with pytest.raises(ClassesError, match="ant"):
        train(random_set.root, val=str(photographs), out=tmp_path / "s.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["photos"]


def test_the_evaluation_transform_is_the_teachers(random_set):
    from PIL import Image

    loader = ddkit.ReplayLoader(random_set.root, batch_size=4)
    x = ddkit.eval_transform(loader)(Image.new("RGB", (50, 40), (255, 0, 0)))
    assert x.shape == (3, 32, 32) and x[0, 0, 0].item() == pytest.approx((1 - 0.3) / 0.3, rel=1e-5)


@pytest.fixture(scope="module")
def measured(random_set, rded_set, teacher, tmp_path_factory):
    root = tmp_path_factory.mktemp("measured")
    for made in (rded_set,):
        shutil.copytree(made.root, root / "rded")
        shutil.copytree(f"{made.root}.work", root / "rded.work")
    report = evaluate([root / "rded"], val="digits", runs=2, epochs=1, workers=1, command="test")
    return root / "rded", report


def test_evaluate_writes_a_table_into_manifest_and_card(measured):
    root, report = measured
    ours, random, hard, itself = report
    assert (
        (ours.of, random.of, hard.of, itself.of) == ("this", "random", "this", "teacher")
        and hard.labels == "hard"
        and ours.n_students == 2
        and ours.n_sets == 1
    )
    assert ours.protocol == "rded+epochs=1" and ours.labels == "stored" and ours.val == "digits:test"
    assert ours.difference.pairs == 2 and random.difference is None
    values = [v for seeds in ours.values for v in seeds]
    assert ours.mean == round(mean_std(values)[0], 2) and ours.seconds > 0 and ours.hardware
    results = read_manifest(root).results
    assert len(results) == 4 and results[0].values == (ours.values[0],)
    assert f"{ours.mean:.2f} ± {ours.std:.2f}" in (root / "README.md").read_text()


def test_measuring_again_reads_back_and_replaces(measured):
    root, report = measured
    students = {p: p.stat().st_mtime_ns for p in root.with_name("rded.work").rglob("*.safetensors")}
    again = evaluate([root], val="digits", runs=2, epochs=1, workers=1, command="again")
    assert [r.values for r in again] == [r.values for r in report]
    assert {p: p.stat().st_mtime_ns for p in students} == students
    results = read_manifest(root).results
    assert len(results) == 4 and {r.command for r in results} == {"again"}


def test_the_baseline_differs_in_its_images_alone(measured):
    root, _ = measured
    ours, random = read_manifest(root), read_manifest(root.with_name("rded.work") / "baseline")
    assert random.method == "random" and random.prefixes == ours.prefixes
    assert random.teacher.hash == ours.teacher.hash
    assert random.views.count == ours.views.count and random.seed == ours.seed


def test_another_protocol_is_relabelled_where_a_teacher_is_given(measured, teacher):
    root, _ = measured
    with pytest.raises(SetError, match="give teacher T to relabel it here, or run .*--teacher T"):
        evaluate([root], val="digits", runs=1, epochs=1, protocol="demo", baseline=None)
    report = evaluate(
        [root], val="digits", runs=1, epochs=1, protocol="demo", teacher=teacher, baseline=None, workers=1
    )
    assert [r.labels for r in report] == ["relabelled"] and report[0].difference is None
    both = evaluate(
        [root], val="digits", runs=1, epochs=1, protocol="own,demo", teacher=teacher, baseline=None, workers=1
    )
    assert [(r.protocol, r.labels) for r in both] == [
        ("rded+epochs=1", "stored"), ("demo+epochs=1", "relabelled"),
    ]  # fmt: skip
    assert both[1].values == report[0].values


def test_sets_that_differ_only_in_seed_are_one_row(random_set, teacher, tmp_path):
    from ddkit.pipeline import distill

    given = {"data": "digits", "method": "random", "ipc": 1, "protocol": "demo", "views": 2, "teacher": teacher}
    roots = [distill(tmp_path / f"s{seed}", seed=seed, workers=1, **given).root for seed in (0, 1)]
    report = evaluate(roots, val="digits", runs=1, epochs=1, labels="hard", baseline=None, workers=1)
    assert len(report) == 1 and report[0].n_sets == 2 and report[0].n_students == 2 and report[0].labels == "hard"
    with pytest.raises(OptionError, match="^runs is 0"):
        evaluate(roots, runs=0)
    with pytest.raises(OptionError, match="with val SOURCE"):
        evaluate(roots)
    with pytest.raises(OptionError, match="valid: equal-bytes, full, hard, labeller, none, random, teacher"):
        evaluate(roots, val="digits", baseline="best")


def test_every_set_is_measured_on_its_own_images_in_its_own_order_of_classes(tmp_path, small_teacher):
    """Sets in one call may differ in the order of their classes, in their classes, and in their holdout."""
    from ddkit.pipeline import distill

    given = {"method": "random", "ipc": 1, "protocol": "demo", "views": 2, "teacher": small_teacher, "workers": 1}
    for name, more in {
        "a": {"holdout": 0.1}, "b": {"holdout": 0.4}, "backwards": {"classes": "9,8,7,6,5,4,3,2,1,0"},
    }.items():  # fmt: skip
        distill(tmp_path / name, data="digits", **given, **more)
    roots = [tmp_path / name for name in ("a", "b", "backwards")]
    assert [len(group) for group in group_sets([read_manifest(root) for root in roots])] == [1, 1, 1]
    report = evaluate(
        roots, val="digits", runs=1, epochs=1, baseline="teacher", measure="accuracy", protocol="own,demo", workers=1
    )
    assert [row.of for row in report] == ["this"] * 3 + ["teacher"] * 3  # "own" is "demo": no row is there twice
    for root, row in zip(roots, report):
        (found,) = (m for m in read_manifest(root).measurements if m.metric == "top-1" and m.of == "this")
        assert round(found.mean, 2) == row.mean and found.val == row.val == "digits:test"


def test_holdouts_of_several_sizes_are_named_and_counted_by_set(tmp_path, photographs):
    from ddkit.pipeline import distill
    from ddkit.testing import untrained_teacher

    teacher = str(untrained_teacher(tmp_path / "t.safetensors", classes=3, size=16))
    spec = {"method": "random", "ipc": 1, "protocol": "demo", "views": 2, "teacher": teacher, "workers": 1}
    for label, name in enumerate(("ant", "bee", "cat")):
        (photographs / name).rename(photographs / str(label))
    for name, holdout in (("a", 0.2), ("b", 0.5)):
        distill(tmp_path / name, data=str(photographs), holdout=holdout, **spec)
    report = evaluate([tmp_path / "a", tmp_path / "b"], val=str(photographs), runs=1, epochs=1, baseline=None)
    assert [row.val for row in report] == ["photos:holdout"] * 2
    assert report[0].val_images < report[1].val_images


def test_a_set_made_before_a_setting_existed_is_of_the_same_row(rded_set, tmp_path):
    old = Path(shutil.copytree(rded_set.root, tmp_path / "old"))
    recipe = rded_set.recipe
    config = {key: value for key, value in recipe.config.items() if key != "stitch"}
    assert len(config) < len(recipe.config)
    write_manifest(old, rded_set.changed(recipe=replace(recipe, config=config)))
    other = Path(shutil.copytree(rded_set.root, tmp_path / "other"))
    write_manifest(other, rded_set.changed(recipe=replace(recipe, config=config | {"pool": 5})))
    sets = [read_manifest(root) for root in (rded_set.root, old, other)]
    assert [len(group) for group in group_sets(sets)] == [2, 1]


def test_the_demo_ends_with_a_table_and_a_picture(tmp_path, teacher, monkeypatch):
    result = run_demo(
        tmp_path / "demo", teacher=teacher, epochs=1, views=2, settings={"steps": 5, "student.epochs": 1}, workers=1
    )
    assert [(row[0], row[1]) for row in result.rows] == [
        ("cudd", "stored"), ("cudd", "hard"), ("random", "stored"), ("random", "hard"),
    ]  # fmt: skip
    assert result.picture.is_file() and all(row[2].endswith("%") for row in result.rows)


def test_random_is_no_baseline_of_itself(random_set, tmp_path):
    copy = shutil.copytree(random_set.root, tmp_path / "copy")
    shutil.copytree(f"{random_set.root}.work", tmp_path / "copy.work")
    report = evaluate([copy], val="digits", runs=1, epochs=1, workers=1)
    assert [(row.of, row.labels) for row in report] == [
        ("this", "stored"), ("this", "hard"), ("teacher", "hard"),
    ]  # fmt: skip
