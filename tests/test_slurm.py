"""The script of a job array: its tasks share one run, and odd names stay names."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ddkit.cli import app
from ddkit.engine.slurm import JobArray
from ddkit.errors import EnvironmentFailure, OptionError


def array(tmp_path, where="slurm:3", out="my set", command=("echo",), on_gpu=False):
    out = tmp_path / out
    return JobArray.of(where, command, out=out, work=Path(f"{out}.work"), on_gpu=on_gpu)


def test_gpus_are_asked_for_where_they_are_wanted(tmp_path):
    line = "#SBATCH --gpus-per-task=1"
    scripts = {wanted: array(tmp_path, on_gpu=wanted).script.splitlines() for wanted in (True, False, None)}
    assert line in scripts[True] and not any(line in text for text in scripts[False])
    assert line not in scripts[None] and any(text.startswith(f"#{line}") for text in scripts[None])


def test_a_submission_as_json_and_what_it_refuses(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def run(*more):
        monkeypatch.setattr("sys.argv", ["ddkit", "distill", "out", "--data", "digits", "--submit", "slurm:2", *more])
        return app.run(), capsys.readouterr()

    code, told = run("--json")
    assert code == 0 and json.loads(told.out) == {"script": "out.work/distill.sbatch", "submitted": None}
    assert "--submit" not in (tmp_path / "out.work/distill.sbatch").read_text()
    for option in (["--overwrite"], ["--engine", "local"]):
        code, told = run(*option)
        assert code == 2 and f"{option[0]} does not go with --submit" in told.err


def test_the_tasks_run_the_command_in_this_folder(tmp_path, monkeypatch):
    odd = tmp_path / "a 'folder' $HOME"
    odd.mkdir()
    monkeypatch.chdir(odd)
    shown = "import os, sys; print(os.getcwd()); print(sys.argv[1:])"
    made = array(tmp_path, command=[sys.executable, "-c", shown, "two words", "$HOME"])
    made.write()
    assert "#SBATCH --array=0-2\n" in made.script and made.path == tmp_path / "my set.work" / "distill.sbatch"
    env = os.environ | {"SLURM_CPUS_PER_TASK": "7"}
    done = subprocess.run(["bash", made.path], capture_output=True, text=True, env=env, cwd="/", check=True)
    assert done.stdout.splitlines() == [str(odd), "['two words', '$HOME', '--workers', '7']"]


@pytest.mark.parametrize("where", ["pbs", "slurm:0", "slurm:x", "slurm:"])
def test_other_places_are_refused(tmp_path, where):
    with pytest.raises(OptionError, match="submit is.*give slurm, or slurm:TASKS"):
        array(tmp_path, where)


def test_a_machine_without_slurm_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnvironmentFailure, match="no sbatch here; submit .*distill.sbatch on a login node"):
        array(tmp_path).submit()


@pytest.mark.parametrize(("text", "code"), [("echo Submitted batch job 5", 0), ("echo no partition >&2; exit 1", 1)])
def test_the_answer_of_sbatch_is_passed_on(tmp_path, monkeypatch, text, code):
    (tmp_path / "sbatch").write_text(f"#!/bin/sh\n{text}\n")
    (tmp_path / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    if code == 0:
        assert array(tmp_path).submit() == "Submitted batch job 5"
    else:
        with pytest.raises(EnvironmentFailure, match="sbatch: no partition; correct"):
            array(tmp_path).submit()
