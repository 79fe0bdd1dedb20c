"""Trackers: what a student logs can be read back."""

import shutil

import pytest

from ddkit.errors import OptionError
from ddkit.evaluation.students import train
from ddkit.evaluation.tables import evaluate
from ddkit.evaluation.tracking import check_tracker


def test_tensorboard_has_the_learning_curve(random_set, tmp_path, monkeypatch):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.chdir(tmp_path)
    _, result = train(random_set.root, epochs=3, val="digits", out="mine.safetensors", track="tensorboard")
    found = event_accumulator.EventAccumulator(str(tmp_path / "runs" / "mine"))
    found.Reload()
    losses = [(event.step, event.value) for event in found.Scalars("loss")]
    assert losses == [(entry["epoch"], pytest.approx(entry["loss"])) for entry in result.history]
    assert [event.value for event in found.Scalars("final_accuracy")] == [pytest.approx(result.accuracy)]


def test_every_student_is_a_run_of_its_own(random_set, teacher, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    monkeypatch.chdir(tmp_path)
    root = shutil.copytree(random_set.root, tmp_path / "set")
    evaluate(
        root, val="digits", runs=2, epochs=1, protocol="own,cudd", teacher=teacher, baseline=None, workers=1,
        track="tensorboard",
    )  # fmt: skip
    runs = [path.name for path in (tmp_path / "runs").iterdir()]
    assert len(runs) == 2 * 2 and all(len(list((tmp_path / "runs" / run).iterdir())) == 1 for run in runs)


def test_unknown_and_missing_trackers(random_set):
    with pytest.raises(OptionError, match="unknown --track 'tensorbord'|unknown track 'tensorbord'"):
        evaluate(random_set.root, val="digits", track="tensorbord")
    check_tracker(None)
    try:
        import wandb  # noqa: F401
    except ImportError:
        with pytest.raises(OptionError, match="pip install wandb"):
            check_tracker("wandb")
