"""Measures: the contract, the shipped ones against independent implementations, and one of somebody else."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from ddkit.cli.app import app
from ddkit.errors import OptionError, SetError
from ddkit.evaluation.entries import Origin, measurements_of, with_differences
from ddkit.evaluation.measures import find_measure, find_measures, measure_config, measure_names
from ddkit.evaluation.measures.calibration import (
    best_temperature,
    brier_score,
    equal_mass_calibration_error,
    expected_calibration_error,
    first_half,
)
from ddkit.evaluation.measures.interface import MeasuredNetwork, MeasuredSet, Metric, Row
from ddkit.evaluation.measures.per_class import confusion_counts
from ddkit.evaluation.tables import evaluate
from ddkit.format.manifest_file import read_manifest
from ddkit.format.measurements import read_measurements
from ddkit.pipeline import distill, relabel
from ddkit.publishing.page.rendering import render_page
from ddkit.replay.loader import ReplayLoader
from ddkit.testing import check_measure

QUICK = {
    "continual": {"continual.steps": 2},
    "cross-architecture": {"cross-architecture.archs": ["convnet3", "convnet3-in"]},
}
MINE = """
from dataclasses import dataclass

from ddkit.evaluation.measures.interface import Figure, Metric, Row

NAME = "share"
PAPER = "nobody's"
COST = "nothing"
SUBJECT = "network"
NEEDS = ("student", "validation")
METRICS = (Metric(name="first", title="images taken for the first classes", unit="%"),)


@dataclass(frozen=True)
class Config:
    classes: int = 1


def measure(network, context):
    predicted = context.predictions(network).argmax(1)
    for label in range(context.config.classes):
        yield Row("first", 100 * float((predicted == label).float().mean()), context.classes[label], n=len(predicted))
    yield Row("first", 100 * float((predicted < context.config.classes).float().mean()), n=len(predicted))
    yield Figure("shares", "How many are taken for the first class.", {"mark": "bar", "data": {"values": []}})
"""


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "share.py"
    path.write_text(MINE)
    return path


@pytest.mark.parametrize("name", ["accuracy", "bytes", "calibration", "continual", "cross-architecture", "per-class"])
def test_shipped_measures_fulfil_the_contract(name):
    assert name in measure_names()
    settings = QUICK.get(name, {})
    if name == "continual":  # views of the demo protocol are mixed with images of all classes
        with pytest.raises(SetError, match="within 2x2:SEED"):
            check_measure(name, settings)
        return
    found = check_measure(name, settings)
    assert {entry.measure for entry in found.measurements} == {name}


def test_a_measure_by_somebody_else_from_the_command_line(random_set, mine, tmp_path):
    root = Path(shutil.copytree(random_set.root, tmp_path / "set"))
    shutil.copytree(f"{random_set.root}.work", tmp_path / "set.work")
    arguments = [
        "evaluate", str(root), "--val", "digits", "--runs", "1", "--epochs", "1", "--measure", str(mine),
        "--set", "share.classes=2", "--baseline", "hard,teacher", "--workers", "1",
    ]  # fmt: skip
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0 and "images taken for the first classes" in result.stdout
    result = CliRunner().invoke(app, [*arguments, "--json"])
    found = json.loads(result.stdout)["measurements"][str(root)]
    assert [m["condition"] for m in found if m["of"] == "teacher"] == ["", "0", "1"]
    assert {(m["of"], m["labels"]) for m in found} == {("this", "stored"), ("this", "hard"), ("teacher", None)}
    for entry in (m for m in found if not m["condition"]):
        parts = [
            m["mean"] for m in found if m["condition"] and (m["of"], m["labels"]) == (entry["of"], entry["labels"])
        ]
        assert sum(parts) == pytest.approx(entry["mean"])
    summaries = read_manifest(root).measurements
    assert len(summaries) == 3 and not any(m.condition for m in summaries)
    figures = read_measurements(Path(f"{root}.work")).figures
    assert len(figures) == 2 and json.loads((Path(f"{root}.work") / figures[0].file).read_text())["mark"] == "bar"
    page = render_page([root])
    assert '"title":"images taken for the first classes"' in page and "How many are taken for the first class." in page
    check_measure(str(mine))


def test_a_measure_may_ask_for_shorter_trainings(random_set, tmp_path):
    (tmp_path / "short.py").write_text("""
from ddkit.evaluation.measures.interface import Metric, Row, StudentRequest

NAME, PAPER, COST, SUBJECT, NEEDS = "short", "nobody's", "one student", "set", ("student",)
METRICS = (Metric(name="students", title="students of one epoch"),)


def students(asked):
    return [StudentRequest(epochs=1)]


def measure(subject, context):
    yield Row("students", len(subject.networks), n=1)
""")
    root = Path(shutil.copytree(random_set.root, tmp_path / "set"))
    shutil.copytree(f"{random_set.root}.work", tmp_path / "set.work")
    measure = str(tmp_path / "short.py")
    evaluate(root, val="digits", runs=1, epochs=2, baseline=None, measure=measure, workers=1)
    histories = Path(f"{root}.work", "students").glob("*.jsonl")
    assert sorted(len(path.read_text().splitlines()) for path in histories) == [1, 2]


def test_the_measure_in_contributing_fulfils_the_contract(tmp_path):
    text = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text()
    path = tmp_path / "margin.py"
    path.write_text(text.split("```python\n")[2].split("```")[0])
    found = check_measure(str(path), {"margin.k": 3})
    assert {entry.condition for entry in found.measurements} == {"", "0", "1", "2", "3"}


def test_finished_measures_are_read_back(random_set, mine, tmp_path):
    root = Path(shutil.copytree(random_set.root, tmp_path / "set"))
    shutil.copytree(f"{random_set.root}.work", tmp_path / "set.work")
    options = {"val": "digits", "runs": 1, "epochs": 1, "baseline": None, "workers": 1}
    evaluate(root, measure=str(mine), **options)
    files = {p: p.stat().st_mtime_ns for p in Path(f"{root}.work").rglob("share-*.json")}
    evaluate(root, measure=str(mine), **options)
    assert files == {p: p.stat().st_mtime_ns for p in Path(f"{root}.work").rglob("share-*.json")} and files
    evaluate(root, measure=str(mine), settings={"share.classes": 3}, **options)  # other settings: measured again
    assert len(list(Path(f"{root}.work").rglob("share-this-*.json"))) > len(files) / 2
    mine.write_text(MINE.replace('Row("first", 100', 'Row("last", 100'))
    with pytest.raises(OptionError, match="metric 'last', which its METRICS lack"):
        evaluate(root, measure=str(mine), **options)


def test_full_data_two_kinds_of_equal_bytes_and_figures_of_hard_labels_are_kept(small_set, tmp_path):
    copied = Path(shutil.copytree(small_set.root, tmp_path / "set"))
    shutil.copytree(f"{small_set.root}.work", tmp_path / "set.work")
    options = {"val": "digits", "runs": 1, "epochs": 1, "workers": 1}
    evaluate(copied, baseline="full,equal-bytes", measure="bytes", **options)
    evaluate(copied, baseline=None, labels="hard", measure="diversity", **options)
    found = read_measurements(tmp_path / "set.work")
    assert [(m.measure, m.metric) for m in found.measurements if m.of == "full" and not m.condition][0] == (
        "accuracy", "top-1",
    )  # fmt: skip
    assert {m.labels for m in found.measurements if m.of == "equal-bytes"} == {"stored", "hard"}
    assert [(figure.measure, figure.ipc) for figure in found.figures] == [("diversity", 2)]


def test_the_teacher_of_two_sets_is_measured_once(random_set, rded_set, mine, tmp_path):
    log = tmp_path / "log.txt"
    logged = f"    with open({str(log)!r}, 'a') as file:\n        file.write(network.of + ' ')\n    predicted ="
    mine.write_text(MINE.replace("    predicted =", logged))
    roots = []
    for i, one in enumerate((random_set, rded_set)):
        roots.append(Path(shutil.copytree(one.root, tmp_path / str(i))))
        shutil.copytree(f"{one.root}.work", f"{roots[-1]}.work")
    evaluate(roots, val="digits", runs=1, epochs=1, baseline="teacher", measure=str(mine), workers=1)
    assert sorted(log.read_text().split()) == ["teacher", "this", "this"]
    found = [read_measurements(Path(f"{root}.work")) for root in roots]
    rows = [[(m.condition, m.values) for m in one.measurements if m.of == "teacher"] for one in found]
    assert rows[0] == rows[1] and len(rows[0]) == 2
    for root, one in zip(roots, found):
        assert all((Path(f"{root}.work") / figure.file).is_file() for figure in one.figures) and len(one.figures) == 2


def _measured(of, by_set):
    """Results of the metric "confusion", for each set the rows {condition: value} of its students."""
    measure, subject = find_measure("per-class"), Path("none.safetensors")
    results = [
        [
            SimpleNamespace(
                task=SimpleNamespace(subject=MeasuredNetwork(of=of, arch="convnet3", seed=seed, checkpoint=subject)),
                rows=[Row("confusion", value, condition, n=10) for condition, value in rows.items()],
            )
            for seed, rows in enumerate(students)
        ]
        for students in by_set
    ]
    origin = Origin(of=of, ipc=1, arch="convnet3", protocol="demo", labels="stored", val="digits:test")
    return measurements_of(measure, origin, results, command="c", hardware="h")


def test_students_that_never_confuse_two_classes_count():
    sets = [[{"8 > 3": 9.0}, {}, {}], [{}, {}, {"8 > 3": 3.0, "8 > 1": 1.0}]]
    ours = {m.condition: m for m in _measured("this", sets)}
    assert ours["8 > 3"].mean == 2.0 and ours["8 > 3"].values == ((9.0, 0.0, 0.0), (0.0, 0.0, 3.0))
    assert ours["8 > 3"].seeds == ours["8 > 1"].seeds == (0, 1, 2)
    theirs = _measured("random", [[{}, {}, {}], [{"8 > 3": 1.0}, {}, {}]])
    (compared, *_) = with_differences([ours["8 > 3"], *theirs])
    assert compared.differences[0].mean == pytest.approx(2.0 - 1 / 6)
    many = {f"8 > {i}": float(i) for i in range(1, 8)} | {"7 > 1": 0.5}
    assert sorted(m.condition for m in _measured("this", [[many]])) == ["7 > 1", "8 > 5", "8 > 6", "8 > 7"]


def test_a_value_that_a_set_lacks_is_that_of_its_metric():
    """A measure of sets may have rows of the set, and rows of its students."""
    measure = replace(find_measure("per-class"), name="mine", metrics=(Metric(name="m", title="m", absent=0.0),))
    subject = MeasuredSet(of="this", manifest=None, ipc=None, networks=(), total_bytes=1)
    sets = [[Row("m", 4.0, "a"), Row("m", 1.0, "b", seed=0), Row("m", 3.0, "b", seed=1)], [Row("m", 5.0, "b", seed=1)]]
    results = [[SimpleNamespace(task=SimpleNamespace(subject=subject), rows=rows)] for rows in sets]
    origin = Origin(of="this", ipc=1, arch=None, protocol=None, labels=None, val=None)
    found = {m.condition: m for m in measurements_of(measure, origin, results, command="c", hardware="h")}
    assert found["b"].values == ((1.0, 3.0), (5.0,)) and found["b"].seeds == (0, 1)
    assert found["a"].values == ((4.0,), (0.0,)) and found["a"].seeds == ()


def test_all_measures_leave_out_what_a_set_is_not_fit_for(small_set, tmp_path, capsys):
    """Views are mixed with images of all classes, so there is no learning of one class after another."""
    copied = Path(shutil.copytree(small_set.root, tmp_path / "set"))
    shutil.copytree(f"{small_set.root}.work", tmp_path / "set.work")
    options = {
        "val": "digits", "runs": 1, "epochs": 1, "baseline": "full", "workers": 1,
        "settings": {"corruptions.images": 10, "cross-architecture.archs": [], "ranking.archs": []},
    }  # fmt: skip
    with pytest.raises(SetError, match="views are mixed"):
        evaluate(copied, measure="continual", **options | {"settings": {}})
    evaluate(copied, measure="all", **options)
    assert "no measure continual of this (stored labels)" in capsys.readouterr().err
    assert {m.measure for m in read_manifest(copied).measurements} >= {"accuracy", "calibration", "per-class", "bytes"}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('COST = "nothing"', "", "lacks COST"),
        ('SUBJECT = "network"', 'SUBJECT = "image"', "SUBJECT is 'image'; valid: network, set"),
        ('"validation")', '"val")', "NEEDS has 'val'"),
        ('(Metric(name="first", title="images taken for the first classes", unit="%"),)', "('a',)", "tuple of Metric"),
        ("@dataclass(frozen=True)", "", "Config is not a dataclass"),
        ("import Figure", "import Nothing", "cannot be imported"),
    ],
)
def test_modules_that_are_no_measures(mine, old, new, message):
    assert old in MINE
    mine.write_text(MINE.replace(old, new))
    with pytest.raises(OptionError, match=message):
        find_measure(str(mine))


def test_names_and_settings():
    assert list(find_measures("per-class, accuracy")) == ["per-class", "accuracy"] and find_measures(None) == {}
    assert list(find_measures("all")) == measure_names()
    with pytest.raises(OptionError, match="unknown measure 'acuracy'.*accuracy"):
        find_measure("acuracy")
    with pytest.raises(OptionError, match="no measure file"):
        find_measure("./nothing.py")
    continual = find_measure("continual")
    assert measure_config(continual, {"continual.steps": 3, "other.steps": 2}).steps == 3
    with pytest.raises(OptionError, match="step"):
        measure_config(continual, {"continual.step": 3})
    with pytest.raises(OptionError, match="no settings"):
        measure_config(find_measure("accuracy"), {"accuracy.k": 3})


logits = st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed))


@settings(max_examples=20, deadline=None)
@given(logits)
def test_calibration_against_loops(rng):
    n, classes = int(rng.integers(20, 60)), int(rng.integers(2, 6))
    p = torch.tensor(rng.normal(0, 2, (n, classes))).softmax(1)
    labels = torch.tensor(rng.integers(0, classes, n))
    rows = [(float(p[i].max()), int(p[i].argmax()) == int(labels[i])) for i in range(n)]
    bins = [[row for row in rows if b / 15 < row[0] <= (b + 1) / 15] for b in range(15)]
    ece = sum(abs(sum(c for c, _ in b) - sum(r for _, r in b)) for b in bins) / n
    assert expected_calibration_error(p, labels) == pytest.approx(ece, abs=1e-6)
    brier = sum((float(p[i, c]) - (int(labels[i]) == c)) ** 2 for i in range(n) for c in range(classes)) / n
    assert brier_score(p, labels) == pytest.approx(brier)
    rows.sort(key=lambda row: row[0])
    sizes = [n // 15 + (b < n % 15) for b in range(15)]
    parts = [rows[sum(sizes[:b]) : sum(sizes[: b + 1])] for b in range(15)]
    equal = sum(abs(sum(c for c, _ in b) - sum(r for _, r in b)) for b in parts) / n
    assert equal_mass_calibration_error(p, labels) == pytest.approx(equal, abs=1e-9)


def test_a_confidence_of_one_is_in_the_last_bin():
    p = torch.tensor([[1.0, 0.0]] * 50 + [[0.95, 0.05]] * 50, dtype=torch.float64)
    labels = torch.tensor([0] * 45 + [1] * 5 + [0] * 50)
    assert expected_calibration_error(p, labels) == pytest.approx(abs(0.975 - 0.95), abs=1e-6)


@settings(max_examples=20, deadline=None)
@given(logits)
def test_the_fitted_temperature_is_that_of_the_logits(rng):
    true = float(np.exp(rng.uniform(-1, 1)))
    z = torch.tensor(rng.normal(0, 2, (4000, 4)))
    labels = (z + torch.tensor(rng.gumbel(size=z.shape))).argmax(1)  # drawn from the softmax of z
    assert best_temperature(z * true, labels) == pytest.approx(true, rel=0.15)
    half = first_half(labels)
    for label in range(4):
        of_class = half[labels == label]
        assert abs(int(of_class.sum()) * 2 - len(of_class)) <= 1


@settings(max_examples=20, deadline=None)
@given(logits)
def test_confusions(rng):
    predicted, labels = torch.tensor(rng.integers(0, 5, (2, 40)))
    counts = confusion_counts(predicted, labels, 5)
    for true in range(5):
        for other in range(5):
            assert counts[true, other] == ((labels == true) & (predicted == other)).sum()


def test_continual_learning_sees_no_later_class(random_set, teacher, tmp_path):
    """In a set with mixing groups, no view of a step has pixels of a later class."""
    made = distill(
        tmp_path / "all", data="digits", method="random", ipc=2, protocol="demo", views=3, teacher=teacher, workers=1
    )
    grouped = relabel(made.root, tmp_path / "set", teacher=teacher, mix_within="5x2:0", workers=1)
    report = evaluate(
        grouped.root, val="digits", data="digits", teacher=teacher, runs=1, epochs=1, measure="continual",
        baseline="hard", workers=1,
    )  # fmt: skip
    assert [row.of for row in report] == ["this", "this"]
    found = [m for m in read_measurements(tmp_path / "set.work").measurements if m.labels == "stored"]
    steps = [m for m in found if m.condition]
    assert [m.condition for m in steps] == [f"step {i + 1}: {2 * (i + 1)} classes" for i in range(5)]
    mean = next(m for m in found if m.metric == "mean")
    assert mean.mean == pytest.approx(sum(m.mean for m in steps) / 5)
    assert [m.n for m in steps] == sorted(m.n for m in steps) and steps[-1].n == mean.n
    groups = np.array(grouped.views.mix_groups)
    for step in range(5):
        classes = np.flatnonzero(groups <= step)
        loader = ReplayLoader(grouped.root, batch_size=100, classes=classes.tolist())
        rows = np.arange(len(loader._store))
        partners = loader._store.partners_of(rows)
        assert len(rows) == 2 * len(classes) and (partners < len(rows)).all()
        mixed = loader._store._labels[partners[partners >= 0]]
        assert (groups[classes[mixed]] <= step).all() and len(mixed)
