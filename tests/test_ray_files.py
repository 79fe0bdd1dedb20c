"""A unit needs nothing of the set but the files that it names, so that it can run on copies of them."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from ddkit.core.files import below
from ddkit.core.worker_state import STATE
from ddkit.engine.jobs import InProcess, run_jobs
from ddkit.pipeline import distill, relabel, relabelling
from ddkit.pipeline import options as options_module


@dataclass(frozen=True)
class OnCopies:
    """An engine each of whose units sees an empty file system and copies of its inputs in it."""

    root: Path
    workers = 1
    shared = False

    def run(self, jobs, cpu_threads=1):
        return run_jobs(jobs, self, most=1)

    def submit(self, function, folder, job):
        root = self.root / str(len(list(self.root.iterdir())))
        root.mkdir()
        for path in (path for path in job.inputs if path.is_file()):
            below(root, path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, below(root, path))
        there = job.below(root)
        STATE.drop()  # what an earlier unit has read
        done = InProcess().submit(function, folder, there)
        for copy in (copy for copy in there.outputs if copy.is_file()):
            path = "/" / copy.relative_to(root)
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(copy, path)
        return done


@pytest.mark.parametrize(
    "options",
    [
        {"method": "cudd", "prefixes": (1, 2, 3), "settings": {"steps": 2, "student.epochs": 1}, "codec": "lowrank:4"},
        {"method": "rded", "prefixes": (1, 2), "codec": "teacher"},
        {"method": "herding", "ipc": 2, "codec": "topk:3", "classes": "names.txt"},
    ],
    ids=lambda options: options["method"],
)
def test_units_run_on_copies_of_their_inputs_and_make_the_same_set(tmp_path, monkeypatch, small_teacher, options):
    (tmp_path / "names.txt").write_text("\n".join("0123456789"))
    options = {"data": "digits", "teacher": small_teacher, "protocol": "demo", "views": 3, "size": 16} | options
    monkeypatch.chdir(tmp_path)
    here = distill(tmp_path / "here", workers=1, **options)
    (tmp_path / "copies").mkdir()
    for module in (options_module, relabelling):
        monkeypatch.setattr(module, "select_engine", lambda *_, **__: OnCopies(tmp_path / "copies"))
    there = distill(tmp_path / "there", **options)
    assert there.content == here.content and len(list((tmp_path / "copies").iterdir())) > 4
    again = relabel(here.root, out=tmp_path / "again", teacher=small_teacher, codec="int8")
    monkeypatch.undo()
    assert again.content == relabel(here.root, out=tmp_path / "plain", teacher=small_teacher, codec="int8").content
