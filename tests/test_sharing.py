"""Several processes share a run of distill, relabel or import: the bytes are those of one process."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ddkit.core.locks import locked
from ddkit.engine import Local
from ddkit.engine.ranks import Place, Ranks
from ddkit.errors import OptionError, OtherRun
from ddkit.format.manifest_file import read_manifest
from ddkit.format.verification import set_problems
from ddkit.pipeline import distill, distilling, import_images, relabel, resolving
from ddkit.pipeline.sharing import finish_in_turn, in_turn, writing
from ddkit.testing import untrained_teacher


def start(command, rank: int, world: int) -> subprocess.Popen:
    env = os.environ | {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank)}
    arguments = [sys.executable, "-m", "ddkit", *map(str, command), "--quiet"]
    return subprocess.Popen(arguments, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def test_ranks_make_the_bytes_of_one_process(tmp_path):
    # CUDD: images, a stage student, the next stage's images from its errors
    guide = str(untrained_teacher(tmp_path / "teacher.safetensors", classes=2))
    options = {"data": "digits", "classes": "0,1", "method": "cudd", "protocol": "common", "teacher": guide}
    settings = {"steps": 2, "student.epochs": 1, "threads": 1, "precision": "float32"}
    one = distill(tmp_path / "one", prefixes=(1, 2), views=3, settings=settings, workers=1, **options)
    command = ["distill", tmp_path / "two", "--prefixes", "1,2", "--views", "3"]
    command += [word for name, value in options.items() for word in (f"--{name}", value)]
    command += [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    ranks = [start(command, rank, 2) for rank in range(2)]
    told = [process.communicate()[1] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], told
    two = read_manifest(tmp_path / "two")
    assert two.content == one.content and two.fingerprint == one.fingerprint
    assert sorted(p.name for p in (tmp_path / "two").rglob("*")) == sorted(
        p.name for p in (tmp_path / "one").rglob("*")
    )
    assert not (tmp_path / "two.work" / "claims").exists()


@pytest.fixture
def as_rank(monkeypatch):
    """This process as the second of three that share a run."""
    for name, value in {"RANK": "1", "WORLD_SIZE": "3", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)


def test_a_rank_without_the_others_makes_the_whole_set(tmp_path, teacher, random_set, as_rank):
    options = {"data": "digits", "method": "random", "ipc": 2, "protocol": "demo", "views": 4, "teacher": teacher}
    made = distill(tmp_path / "a", **options)
    assert made.content == random_set.content
    assert distill(tmp_path / "a", **options) == made
    relabelled = relabel(made.root, tmp_path / "b", teacher=teacher, views=2)
    assert relabel(made.root, tmp_path / "b", teacher=teacher, views=2) == relabelled
    assert relabelled.content == relabel(made.root, tmp_path / "c", teacher=teacher, views=2, engine="local").content
    images = {"teacher": teacher, "views": 2, "split": "train", "method": "random"}
    imported = import_images(str(made.root), tmp_path / "d", **images)
    assert imported.content == import_images(str(made.root), tmp_path / "e", engine="local", **images).content


def test_a_budget_is_spent_once(tmp_path, teacher, as_rank):
    options = {"data": "digits", "method": "random", "ipc": 2, "protocol": "demo", "views": 8, "teacher": teacher}
    ranked = distill(tmp_path / "a", budget="1MB", **options)
    alone = distill(tmp_path / "b", budget="1MB", engine="local", workers=1, **options)
    assert ranked.labels.codec == alone.labels.codec and ranked.content == alone.content
    assert json.loads((tmp_path / "a.work" / "run.json").read_text())["spent"] is not None


def test_another_run_is_refused_and_overwriting_too(tmp_path, teacher, as_rank):
    options = {"data": "digits", "method": "random", "ipc": 1, "protocol": "demo", "views": 2, "teacher": teacher}
    distill(tmp_path / "a", **options)
    with pytest.raises(OtherRun):
        distill(tmp_path / "a", **(options | {"seed": 1}))
    with pytest.raises(OptionError, match="several processes would delete what the others made"):
        distill(tmp_path / "a", overwrite=True, **(options | {"seed": 1}))


def test_turns_are_taken_only_where_a_run_is_shared(tmp_path):
    shared, alone = Ranks(Place(0, 2, 0, "torchrun"), tmp_path, Local()), Local()
    run = {"seed": 0}
    with writing(tmp_path / "a", "distilling", run, shared), writing(tmp_path / "b", "distilling", run, alone):
        with locked(tmp_path / "a", "trying", {"seed": 1}):
            pass
        with pytest.raises(OtherRun), locked(tmp_path / "b", "trying", {"seed": 1}):
            pass
        turn, other = in_turn(tmp_path / "a", "finishing", run, shared), locked(tmp_path / "a", "trying", {"seed": 1})
        with turn, pytest.raises(OtherRun), other:
            pass
        with in_turn(tmp_path / "b", "finishing", run, alone):
            pass  # `writing` holds the lock


SHARED, ALONE = Ranks(Place(0, 2, 0, "torchrun"), Path("claims"), Local()), Local()


@pytest.mark.parametrize("engine", [SHARED, ALONE])
def test_a_run_that_living_ranks_share_is_not_replaced(tmp_path, engine):
    out, run = tmp_path / "a", {"seed": 0, "overwrite": False}
    beats = tmp_path / "a.work" / "ranks"
    with writing(out, "distilling", run, SHARED):
        (theirs,) = beats.iterdir()
        theirs.rename(beats / "elsewhere.7.alive")  # a process of another machine
        with writing(out, "distilling", {"seed": 0}, engine):
            pass
        for other in ({"seed": 1}, {"seed": 0, "overwrite": True}):
            with pytest.raises(OtherRun, match="written by process 7 on elsewhere for another run"):
                writing(out, "distilling", other, engine).__enter__()
        os.utime(beats / "elsewhere.7.alive", (0, 0))  # dead
        with writing(out, "distilling", {"seed": 1}, engine):
            pass
    assert not beats.exists()


def test_a_rank_with_fewer_options_does_not_write_an_older_record_back(tmp_path, teacher, as_rank, monkeypatch):
    options = {"data": "digits", "method": "random", "protocol": "demo", "views": 2, "teacher": teacher}
    out = tmp_path / "a"
    distill(out, ipc=1, **options)

    def grown_meanwhile(*arguments):
        monkeypatch.setattr(resolving, "_resolved", resolved)
        distill(out, ipc=2, **options)  # another rank, which asks for more
        return found(*arguments)

    resolved = found = resolving._resolved
    monkeypatch.setattr(resolving, "_resolved", grown_meanwhile)
    with pytest.raises(OtherRun, match="belongs to another run by now"):
        distill(out)
    assert read_manifest(out).ipc == 2 and not set_problems(read_manifest(out))


def test_a_set_is_finished_once_by_those_that_share_it(tmp_path, random_set):
    made = read_manifest(shutil.copytree(random_set.root, tmp_path / "set"))
    before = (made.root / "ddkit.json").stat()
    assert finish_in_turn(made.root, made, SHARED, lambda: True) == made
    assert (made.root / "ddkit.json").stat() == before
    (made.root / "README.md").unlink()  # a finisher that was killed before it had verified and rendered
    assert finish_in_turn(made.root, made, SHARED, lambda: True) == made
    assert (made.root / "README.md").is_file()
    (made.root / "README.md").unlink()
    with pytest.raises(OtherRun, match="belongs to another run by now"):
        finish_in_turn(made.root, made, SHARED, lambda: False)
    assert not (made.root / "README.md").exists()


def test_a_rank_that_stood_still_does_not_undo_growth(tmp_path, teacher, as_rank, monkeypatch):
    options = {"data": "digits", "method": "random", "protocol": "demo", "views": 2, "teacher": teacher}
    out = tmp_path / "a"

    def grown_meanwhile(*arguments):
        monkeypatch.setattr(distilling, "finish_in_turn", finish_in_turn)
        shutil.rmtree(tmp_path / "a.work" / "ranks")  # its heart has not beaten for a minute
        with monkeypatch.context() as alone:
            for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
                alone.delenv(name)
            distill(out, ipc=2, workers=1, **options)
        return finish_in_turn(*arguments)

    monkeypatch.setattr(distilling, "finish_in_turn", grown_meanwhile)
    with pytest.raises(OtherRun, match="belongs to another run by now"):
        distill(out, ipc=1, **options)
    assert read_manifest(out).ipc == 2 and not set_problems(read_manifest(out))
