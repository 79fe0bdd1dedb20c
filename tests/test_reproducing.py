"""Paper tables: valid for the installed methods, verdicts as committed, and a run that continues."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ddkit.cli.app import app
from ddkit.distillers import distiller_names, find_distiller, make_config
from ddkit.errors import OptionError, TooCostly
from ddkit.evaluation import reproducing
from ddkit.evaluation.measures import find_measures, measure_config
from ddkit.evaluation.published import find_table, table_names, verdict
from ddkit.evaluation.reproducing import reproduce
from ddkit.format.manifest_file import read_manifest
from ddkit.format.results import ResultEntry
from ddkit.teachers import resolving
from ddkit.teachers.teaching import teacher_recipe

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
TABLE = """
title = "Random and RDED"
paper = "nobody's, Table 1"

[scale.cpu]
dataset = "digits"
ipc = 1
protocol = "demo"
epochs = 1
sets = 2
runs = 1
teacher = "any"

[scale.paper]
dataset = "digits"
ipc = 10
protocol = "demo"
sets = 1
runs = 3
teacher = "any"

[[row]]
name = "random"
method = "random"
paper = { "digits" = 50.0 }

[[row]]
name = "rded"
method = "rded"
settings = { "pool" = 4 }

[[row]]
name = "other"
method = "nobody-has-it"

[[claim]]
about = "Table 1"
better = "rded"
worse = "random"
paper = "+1.0"
"""


@pytest.mark.parametrize("name", table_names())
def test_shipped_tables_are_valid(name):
    table = find_table(name)
    for row in table.row:
        if row.method in distiller_names():
            make_config(find_distiller(row.method), row.settings)
        else:
            assert row.method == "mtt"
    for measure in find_measures(list(table.measures)).values():
        measure_config(measure, table.settings)
    for claim in table.claim:
        assert claim.better != claim.worse and claim.paper


def test_rows_of_the_same_name_are_the_same_set_in_every_table():
    seen = {}
    for name in table_names():
        table = find_table(name)
        for row in table.row:
            scale = table.scale["cpu"]
            made = (row.method, row.settings, row.prefixes, scale.ipc, scale.protocol)
            key = (row.name, scale.ipc, scale.protocol)
            assert seen.setdefault(key, made) == made, (name, row.name)


@pytest.mark.parametrize("file", sorted(RESULTS.glob("ablations-*.json")), ids=lambda path: path.stem)
def test_verdicts_on_the_committed_rows(file):
    """The results of the script that this command took over: the same rows give the same verdicts."""
    kept = json.loads(file.read_text())
    claims = {claim.about: claim for name in table_names() for claim in find_table(name).claim}
    settings = {row.name: row.settings for name in table_names() for row in find_table(name).row}
    for claim in kept["claims"]:
        assert (claims[claim["claim"]].better, claims[claim["claim"]].worse) == (claim["better"], claim["worse"])
        said, found = verdict(kept["rows"][claim["better"]]["values"], kept["rows"][claim["worse"]]["values"])
        assert said == claim["verdict"]
        assert found.mean == pytest.approx(claim["difference"]["mean"])
        if len(kept["rows"][claim["better"]]["values"]) == 1:
            assert (found.low, found.high) == (claim["difference"]["low"], claim["difference"]["high"])
    for name, row in kept["rows"].items():
        assert settings[name] == row["settings"], name


def test_a_table_runs_continues_and_judges(tmp_path, teacher, monkeypatch):
    (tmp_path / "mine.toml").write_text(TABLE)
    monkeypatch.chdir(tmp_path)
    options = ["reproduce", "mine.toml", "--data", "digits", "--teacher", teacher, "--workers", "1"]
    result = CliRunner().invoke(app, [*options, "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [row["result"] is not None for row in found["rows"]] == [True, True, False]
    assert found["rows"][2]["why"] == "ddkit has no method nobody-has-it"
    assert found["rows"][0]["result"]["n_sets"] == 2
    (judged,) = found["verdicts"]
    assert judged["verdict"] in ("agree", "disagree", "undecided") and judged["difference"]["pairs"] == 2
    made = {path: path.stat().st_mtime_ns for path in Path("reproduced").rglob("*.safetensors")}
    monkeypatch.setattr(reproducing, "LIMIT_S", 0.0)
    result = CliRunner().invoke(app, [*options, "--work", "elsewhere"])
    assert isinstance(result.exception, TooCostly) and not Path("elsewhere/sets").exists()
    monkeypatch.setattr(reproducing, "distill", None)  # nothing is made again
    result = CliRunner().invoke(app, options)
    assert result.exit_code == 0 and "Table 1: rded minus random" in result.stdout and "digits 50" in result.stdout
    assert made == {path: path.stat().st_mtime_ns for path in Path("reproduced").rglob("*.safetensors")}


def test_rows_keep_one_another_and_know_what_they_were_measured_on(tmp_path, teacher, monkeypatch):
    (tmp_path / "mine.toml").write_text(TABLE)
    calls = []

    def evaluated(sets, **options):
        calls.append(options["val"])
        return [replace(entry, mean=float(len(calls)))]

    entry = ResultEntry(
        of="this", ipc=1, arch="convnet3", protocol="demo", labels="stored", val="digits:test", seeds=(0,), n_sets=2,
        n_students=2, values=((1.0,), (2.0,)), mean=1.5, std=0.5, difference=None, total_bytes=1, command="c",
        hardware="h",
    )  # fmt: skip
    monkeypatch.setattr(reproducing, "evaluate", evaluated)
    options = {"data": "digits", "teacher": teacher, "work": tmp_path / "work", "workers": 1}
    table = str(tmp_path / "mine.toml")
    reproduce(table, rows=["random"], **options)
    found = reproduce(table, rows=["rded"], **options)
    assert len(calls) == 2 and len(found.verdicts) == 1
    assert set(json.loads(found.file.read_text())["rows"]) == {"random", "rded"}
    reproduce(table, **options)
    assert len(calls) == 2
    reproduce(table, rows=["random"], val="digits:train", **options)
    assert calls == ["digits", "digits", "digits:train"]


def test_sets_of_a_row_share_a_teacher_that_is_trained(toy_source, tmp_path, monkeypatch):
    """Teachers of several seeds would be several rows of the table, of which one would be judged."""
    shorter = replace(teacher_recipe(None, str(toy_source), 32, None), epochs=1, min_steps=1)
    monkeypatch.setattr(resolving, "teacher_recipe", lambda *_: shorter)
    (tmp_path / "mine.toml").write_text(TABLE)
    found = reproduce(
        str(tmp_path / "mine.toml"), data=str(toy_source), teacher="train:convnet3", rows=["random"],
        work=tmp_path / "work", workers=1,
    )  # fmt: skip
    result = found.rows[0].result
    assert result.n_sets == 2 and len(result.values) == 2
    sets = [
        read_manifest(path) for path in sorted((tmp_path / "work" / "sets").glob("random-s?-*")) if path.suffix == ""
    ]
    assert [made.seed for made in sets] == [0, 1] and sets[0].teacher.hash == sets[1].teacher.hash


def test_wrong_input(tmp_path, teacher):
    (tmp_path / "mine.toml").write_text(TABLE.replace('better = "rded"', 'better = "rdde"'))
    options = {"data": "digits", "teacher": teacher, "work": tmp_path}
    with pytest.raises(OptionError, match="claim 'Table 1' is of row 'rdde'"):
        reproduce(str(tmp_path / "mine.toml"), **options)
    (tmp_path / "mine.toml").write_text(TABLE)
    with pytest.raises(OptionError, match="unknown row 'cudd'.*random"):
        reproduce(str(tmp_path / "mine.toml"), rows=["cudd"], **options)
    with pytest.raises(OptionError, match="unknown table 'cudd-table55'"):
        reproduce("cudd-table55", **options)
    with pytest.raises(OptionError, match="scale is 'gpu'; valid: cpu, paper"):
        reproduce(str(tmp_path / "mine.toml"), scale="gpu", **options)
