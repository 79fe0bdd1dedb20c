"""Units shared by the processes of a launcher: each is run, rarely twice, whatever process dies."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
from engine_jobs import Record, runs
from hypothesis import given
from hypothesis import strategies as st

from ddkit.core.files import host
from ddkit.engine.claims import Claims
from ddkit.engine.local import Local
from ddkit.engine.ranks import Place, Ranks
from ddkit.errors import OptionError

FORK = multiprocessing.get_context("fork")


@given(
    task=st.integers(0, 20), first=st.integers(0, 5), step=st.integers(1, 3), tasks=st.integers(1, 30),
    each=st.integers(1, 4), process=st.integers(0, 3),
)  # fmt: skip
def test_every_process_of_a_launcher_has_its_own_number(task, first, step, tasks, each, process):
    task, process = task % tasks, process % each
    array = {
        "SLURM_ARRAY_TASK_ID": str(first + step * task), "SLURM_ARRAY_TASK_MIN": str(first),
        "SLURM_ARRAY_TASK_STEP": str(step), "SLURM_ARRAY_TASK_COUNT": str(tasks),
    }  # fmt: skip
    srun = {"SLURM_PROCID": str(process), "SLURM_STEP_NUM_TASKS": str(each), "SLURM_LOCALID": str(process)}
    torchrun = {"RANK": str(process), "WORLD_SIZE": str(each), "LOCAL_RANK": str(process)}
    assert Place.of({}) is None
    assert Place.of(array) == Place(task, tasks, 0, "SLURM array")
    again = array | {"SLURM_ARRAY_TASK_COUNT": "1"}  # some tasks, submitted again
    assert Place.of(again) == Place(task, task + 1, 0, "SLURM array")
    assert Place.of(srun) == Place(process, each, process, "srun")
    assert Place.of(array | srun) == Place(task * each + process, tasks * each, process, "SLURM array")
    assert Place.of(array | torchrun) == Place(process, each, process, "torchrun")
    assert Place.of({"PBS_ARRAY_INDEX": str(task)}) == Place(task, task + 1, 0, "PBS array")


WRONG = [
    {"RANK": "0", "WORLD_SIZE": "0"}, {"RANK": "3", "WORLD_SIZE": "2"},
    {"SLURM_PROCID": "4", "SLURM_STEP_NUM_TASKS": "4"},
]  # fmt: skip


@pytest.mark.parametrize("environment", WRONG)
def test_places_that_cannot_be_are_named(environment):
    with pytest.raises(OptionError, match="process . of . cannot be; correct its variables"):
        Place.of(environment)


def share(jobs, folder: Path, rank: int, world: int) -> None:
    os.environ.pop("COVERAGE_PROCESS_START", None)
    list(Ranks(Place(rank, world, 0, "torchrun"), folder, Local()).run(jobs))


def start(jobs, folder: Path, world: int):
    processes = [FORK.Process(target=share, args=(jobs, folder, rank, world)) for rank in range(world)]
    for process in processes:
        process.start()
    return processes


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_run_every_unit_once_and_in_order(tmp_path, world):
    jobs = [Record(str(tmp_path), str(i), seconds=0.02) for i in range(12)]
    jobs += [Record(str(tmp_path), f"after-{i}", frozenset({"0", "11"}), seconds=0.02) for i in range(4)]
    processes = start(jobs, tmp_path / "claims", world)
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert sorted(runs(tmp_path)) == sorted(job.id for job in jobs)
    assert all(job.file.read_json()["before"] == ["0", "11"] for job in jobs[12:])
    assert not (tmp_path / "claims").exists()


def test_the_units_of_a_dead_rank_are_taken_over(tmp_path):
    slow = Record(str(tmp_path), "slow", seconds=30.0)
    fast = [Record(str(tmp_path), f"fast-{i}") for i in range(6)]
    (dead,) = start([slow], tmp_path / "claims", 1)
    while not list((tmp_path / "claims").glob("*.claim")):
        time.sleep(0.01)
    os.kill(dead.pid, signal.SIGKILL)
    dead.join()
    slow = Record(str(tmp_path), "slow")  # the same unit, on a faster machine
    for process in (left := start([slow, *fast], tmp_path / "claims", 2)):
        process.join(60)
    assert [process.exitcode for process in left] == [0, 0]
    assert sorted(runs(tmp_path)) == sorted(job.id for job in (slow, *fast))


def test_a_claim_of_another_machine_holds_as_long_as_its_heart_beats(tmp_path):
    job = Record(str(tmp_path), "unit")
    with Claims(tmp_path, dead=30.0) as mine:
        claim, beat = tmp_path / "unit.unit.claim", tmp_path / "elsewhere.7.alive"
        claim.write_text("elsewhere.7")
        beat.touch()
        assert not mine.take(job)
        os.utime(beat, (0, time.time() - 31))
        assert mine.take(job) and claim.read_text() == f"{host()}.{os.getpid()}"
        assert not mine.take(job)
        mine.release(job)
        claim.write_text("")  # being written
        assert not mine.take(job)
        claim.unlink()
        job.file.write_json({})
        assert not mine.take(job) and not claim.exists()


def come_and_go(folder: Path) -> None:
    for _ in range(200):
        with Claims(folder):
            pass


def test_processes_come_and_go_at_the_same_time(tmp_path):
    processes = [FORK.Process(target=come_and_go, args=(tmp_path / "claims",)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0] and not (tmp_path / "claims").exists()
