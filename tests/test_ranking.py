"""Rank correlations against counting pairs; the measure ranking with networks trained on the set and on the source."""

import itertools
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddkit.errors import OptionError
from ddkit.evaluation.measures import find_measure
from ddkit.evaluation.measures.interface import Asked
from ddkit.evaluation.measures.ranking import Config, permutation_p, rank_correlations
from ddkit.evaluation.tables import evaluate
from ddkit.format.manifest_file import read_manifest
from ddkit.format.measurements import read_measurements
from ddkit.teachers import resolving
from ddkit.teachers.teaching import teacher_recipe

values = st.lists(st.integers(0, 6), min_size=4, max_size=9)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_kendall_and_spearman_against_loops(data):
    ours = data.draw(values)
    full = data.draw(st.lists(st.integers(0, 6), min_size=len(ours), max_size=len(ours)))
    tau, rho = rank_correlations(ours, full)
    if len(set(ours)) < 2 or len(set(full)) < 2:
        assert (tau, rho) == (0.0, 0.0)
        return
    pairs = list(itertools.combinations(range(len(ours)), 2))
    signs = [((ours[i] > ours[j]) - (ours[i] < ours[j]), (full[i] > full[j]) - (full[i] < full[j])) for i, j in pairs]
    untied = [sum(s[k] != 0 for s in signs) for k in (0, 1)]
    assert tau == pytest.approx(sum(a * b for a, b in signs) / (untied[0] * untied[1]) ** 0.5)

    def ranks(numbers):
        return [sum(a < b for a in numbers) + (sum(a == b for a in numbers) + 1) / 2 for b in numbers]

    assert rho == pytest.approx(float(np.corrcoef(ranks(ours), ranks(full))[0, 1]))


def test_the_p_value_of_a_perfect_ranking_of_five_is_that_of_one_order_in_120():
    found = permutation_p([1, 2, 3, 4, 5], [10, 20, 30, 40, 50], np.random.default_rng(0))
    assert found == pytest.approx(1 / 120, rel=0.3)


def test_a_set_ranks_networks_against_the_whole_source(small_set, tmp_path, monkeypatch):
    """The networks are trained on the set and, by a short recipe of teachers or for a given time, on the source."""
    shorter = replace(teacher_recipe(None, "digits", 16, None), min_steps=1)
    monkeypatch.setattr(resolving, "teacher_recipe", lambda *given: replace(shorter, epochs=given[3] or 1))
    root = Path(shutil.copytree(small_set.root, tmp_path / "set"))
    shutil.copytree(f"{small_set.root}.work", tmp_path / "set.work")
    archs = ["timm:test_resnet", "timm:test_byobnet", "timm:test_efficientnet"]
    report = evaluate(
        root, val="digits", archs=archs[:1], runs=1, epochs=1, baseline="teacher,full",
        measure="ranking,accuracy", settings={"ranking.archs": archs}, workers=1,
    )  # fmt: skip
    assert [(row.of, row.labels) for row in report] == [("this", "stored"), ("teacher", "hard"), ("full", "hard")]
    found = {(m.metric, m.condition, m.of): m for m in read_measurements(tmp_path / "set.work").measurements}
    ours, full = ([found[metric, arch, "this"].mean for arch in sorted(archs)] for metric in ("top-1", "full"))
    assert (found["kendall", "", "this"].mean, found["spearman", "", "this"].mean) == rank_correlations(ours, full)
    assert found["top-1", "", "full"].mean == pytest.approx(report[2].mean, abs=0.01)
    assert found["full", archs[0], "this"].mean == pytest.approx(report[2].mean, abs=0.01)
    manifest = read_manifest(root)
    assert found["epochs", "", "this"].mean == 1
    evaluate(
        root, val="digits", archs=archs[:1], runs=1, epochs=1, baseline="none", measure="ranking",
        settings={"ranking.archs": archs, "ranking.epochs": 3}, workers=1,
    )  # fmt: skip
    kept = read_measurements(tmp_path / "set.work")
    longer = {(m.metric, m.condition, m.of): m for m in kept.measurements}
    assert longer["epochs", "", "this"].mean == 3 and ("kendall", "", "this") in longer
    assert [longer["top-1", arch, "this"].mean for arch in sorted(archs)] == ours
    assert [longer["full", arch, "this"].mean for arch in sorted(archs)] != full
    assert ["against 3 epochs" in figure.caption for figure in kept.figures if figure.measure == "ranking"] == [True]
    assert {r.of for r in manifest.results} == {"this", "teacher"} and not any(
        m.of == "full" for m in manifest.measurements
    )


def test_requests(random_set):
    ranking = find_measure("ranking")
    asked = ranking.students(Asked(config=Config(), manifest=random_set, arch="convnet3"))
    assert len({request.arch for request in asked}) == 12 and sum(request.full for request in asked) == 12
    asked = ranking.students(Asked(config=Config(epochs=2), manifest=random_set, arch="convnet3"))
    assert {(request.full, request.epochs) for request in asked} == {(False, None), (True, 2)}
    with pytest.raises(OptionError, match="epochs is 0"):
        ranking.students(Asked(config=Config(epochs=0), manifest=random_set, arch="convnet3"))
    with pytest.raises(OptionError, match="at least 3"):
        ranking.students(Asked(config=Config(archs=("convnet3",)), manifest=random_set, arch="convnet3"))
