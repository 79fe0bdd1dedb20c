"""Where units run: their order, their errors and their working directory, in this process and in workers."""

import os
import tempfile
from pathlib import Path

import pytest
import torch
from engine_jobs import Record, runs
from hypothesis import given, settings
from hypothesis import strategies as st

from ddkit.engine import Local, select_engine
from ddkit.engine.jobs import unfinished
from ddkit.errors import OptionError


@pytest.mark.parametrize("workers", [1, 2])
def test_relative_paths_are_the_callers_even_after_a_chdir(tmp_path, monkeypatch, workers):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        Path("a").write_text(name)
        jobs = [Record(".", str(i), reads="a") for i in range(3)]
        assert {job.id: job.file.read_json()["text"] for job in Local(workers).run(jobs)} == {
            "0": name, "1": name, "2": name
        }  # fmt: skip


@pytest.mark.parametrize("workers", [1, 2])
@settings(max_examples=10, deadline=None)
@given(needs=st.lists(st.sets(st.integers(0, 5)), min_size=2, max_size=6))
def test_no_unit_starts_before_what_it_needs(workers, needs):
    # a unit may need earlier ones; what is not in the list was done by an earlier run
    with tempfile.TemporaryDirectory() as folder:
        jobs = [
            Record(folder, str(k), frozenset(str(n) for n in each if n < k) | {"earlier"})
            for k, each in enumerate(needs)
        ]
        finished = list(Local(workers).run(jobs[::-1]))
        assert sorted(job.id for job in finished) == [job.id for job in jobs]
        assert all(job.file.read_json()["before"] == sorted(job.needs - {"earlier"}) for job in jobs)
        assert sorted(runs(Path(folder))) == [job.id for job in jobs]


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_a_unit_is_the_callers_and_the_next_call_works(tmp_path, workers):
    jobs = [Record(str(tmp_path), name, reads=str(tmp_path / "text")) for name in "ab"]
    with pytest.raises(FileNotFoundError):
        list(Local(workers).run(jobs))
    (tmp_path / "text").write_text("x")
    assert [job.file.read_json()["text"] for job in Local(workers).run(jobs)] == ["x", "x"]


@pytest.mark.parametrize("workers", [1, 2])
def test_units_that_need_each_other_are_refused(tmp_path, workers):
    jobs = [Record(str(tmp_path), "a", frozenset("b")), Record(str(tmp_path), "b", frozenset("a"))]
    with pytest.raises(OptionError, match="unit a needs a unit that needs it"):
        list(Local(workers).run(jobs))


def test_workers_that_keep_memory_are_not_taken_for_leaking(tmp_path):
    jobs = [Record(str(tmp_path), name, variable=name) for name in ("LOKY_MAX_MEMORY_LEAK_SIZE", "PATH")]
    found = {job.id: job.file.read_json()["variable"] for job in Local(2).run(jobs)}
    assert float(found["LOKY_MAX_MEMORY_LEAK_SIZE"]) >= 1e12 and found["PATH"] == os.environ["PATH"]


def test_each_gpu_has_one_process_that_sees_no_other(tmp_path):
    jobs = [Record(str(tmp_path), str(i), variable="CUDA_VISIBLE_DEVICES", seconds=0.2) for i in range(6)]
    found = [job.file.read_json() for job in Local(1, ("4", "7")).run(jobs)]
    assert {one["variable"] for one in found} == {"4", "7"}
    assert len({(one["variable"], one["process"]) for one in found}) == 2


def test_a_damaged_result_is_unfinished_and_gone(tmp_path):
    jobs = [Record(str(tmp_path), name) for name in "abc"]
    assert list(Local().run(jobs)) == jobs and unfinished(jobs) == []
    path = jobs[1].file.path
    path.write_bytes(path.read_bytes()[:-1])
    assert unfinished(jobs) == [jobs[1]] and not path.exists()


def test_the_engine_follows_from_options_and_environment(tmp_path, monkeypatch):
    cpu = torch.device("cpu")
    for name in ("RANK", "WORLD_SIZE", "SLURM_ARRAY_TASK_ID", "PBS_ARRAY_INDEX", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)

    def select(name=None, **options):
        return select_engine(name, **({"device": cpu, "workers": 3, "devices": None, "work": tmp_path} | options))

    assert select() == select("local") == Local(3) and select("ray", workers=None).folder == tmp_path
    with pytest.raises(OptionError, match="workers is for the engine local, not ray"):
        select("ray")
    with pytest.raises(OptionError, match="unknown engine 'slurm'"):
        select("slurm")
    with pytest.raises(OptionError, match="engine ranks is for processes that torchrun"):
        select("ranks")
    with pytest.raises(OptionError, match="devices 0,1 is for GPUs, but the device is cpu"):
        select(devices="0,1")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    ranks = select()
    assert ranks.shared and ranks.workers == 12 and select(workers=None).workers == 4 and select("local") == Local(3)
    with pytest.raises(OptionError, match="devices is for the engine local, not ranks"):
        select(devices="0,1")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert select() == Local(3) and select("ranks").shared  # torchrun with one process
