"""Work in turns is the work alone; what a GPU works on together."""

import math
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ddkit import ReplayLoader, distill
from ddkit.engine.interleaving import MOST, PIXELS_TOGETHER, group_jobs, interleave
from ddkit.format.manifest_file import read_manifest
from ddkit.pipeline import unit_groups
from ddkit.synthesis.unit_progress import UnitProgress

CPU = torch.device("cpu")


@given(st.lists(st.integers(0, 5), max_size=6))
def test_a_turn_of_each_after_the_other(lengths):
    said: list[tuple[int, int]] = []

    def work(number, length):
        for turn in range(length):
            said.append((turn, number))
            yield
        return number * 10

    assert interleave([work(*pair) for pair in enumerate(lengths)], CPU) == [n * 10 for n in range(len(lengths))]
    assert said == sorted(said) and len(said) == sum(lengths)


def test_an_error_of_one_ends_all():
    def work(fails):
        yield
        if fails:
            raise ValueError("no more")
        yield

    with pytest.raises(ValueError, match="no more"):
        interleave([work(False), work(True), work(False)], CPU)


sizes = st.one_of(st.just(1), st.integers(1, 2 * PIXELS_TOGETHER), st.just(math.inf))


@given(st.lists(sizes, max_size=40))
def test_a_gpu_works_together_on_as_many_as_it_has_room_for(pixels):
    items = list(range(len(pixels)))
    assert group_jobs(items, pixels, "cpu") == group_jobs(items, pixels, "mps") == [[item] for item in items]
    groups = group_jobs(items, pixels, "cuda:0")
    assert [item for group in groups for item in group] == items
    totals = [sum(pixels[item] for item in group) for group in groups]
    assert all(len(group) == 1 or total <= PIXELS_TOGETHER for group, total in zip(groups, totals))
    assert all(len(group) <= MOST for group in groups)
    for group, following, total in zip(groups, groups[1:], totals):  # no group that the next item had room in
        assert total + pixels[following[0]] > PIXELS_TOGETHER or len(group) == MOST


def test_the_time_of_others_turns_is_not_a_units():
    began, progress = time.monotonic(), UnitProgress()
    with progress.waiting():
        time.sleep(0.05)
    assert progress.seconds <= time.monotonic() - began - 0.05


def as_on_a_gpu(monkeypatch):
    """Units in the groups of a GPU; they are listed stage by stage."""
    stages = []

    def grouped(jobs, pixels, device):
        stages.append(group_jobs(jobs, pixels, "cuda"))
        return stages[-1]

    monkeypatch.setattr(unit_groups, "group_jobs", grouped)
    return stages


HUNGRY = """
import torch
from ddkit.distillers.random import *
from ddkit.distillers.random import run as plain
from ddkit.synthesis.interface import class_units

NAME = "hungry"

def units(plan):
    return class_units(plan, 2)

def run(unit, context):
    inside = vars(context.source).setdefault("inside", set())
    inside.add(unit.id)
    yield None
    if len(inside) == 5:
        inside.clear()
        raise torch.OutOfMemoryError("out of memory")
    yield from plain(unit, context)
    inside.clear()
"""


def test_where_a_gpu_has_no_room_units_go_one_by_one(tmp_path, small_teacher, monkeypatch, capfd):
    (tmp_path / "hungry.py").write_text(HUNGRY)
    asked = dict(data="digits", ipc=1, views=2, teacher=small_teacher, workers=1)
    alone = distill(tmp_path / "alone", method="random", **asked)
    stages = as_on_a_gpu(monkeypatch)
    distill(tmp_path / "turns", method=str(tmp_path / "hungry.py"), **asked)
    assert [len(group) for stage in stages for group in stage] == [5]
    assert "no memory for 5 batches at once" in capfd.readouterr().err
    images = [ReplayLoader(tmp_path / name, batch_size=10)._store.images for name in ("alone", "turns")]
    assert torch.equal(*images) and alone.rows() == 10


def test_batches_in_turns_make_the_same_set(tmp_path, small_teacher, monkeypatch):
    """The groups of a GPU, on a CPU: more than one batch a stage, a student between the stages, several turns each."""
    settings = {"steps": 24, "batch.ipc": 1, "student.epochs": 1, "threads": 1}
    asked = dict(
        data="digits", method="cudd", prefixes=(2, 4), settings=settings, views=2, teacher=small_teacher, workers=1
    )  # fmt: skip
    alone = distill(tmp_path / "alone", **asked)
    stages = as_on_a_gpu(monkeypatch)
    turns = distill(tmp_path / "turns", **asked)
    assert [[unit.id for unit in group] for stage in stages for group in stage] == [
        ["select-2-0"], ["recover-2-0", "recover-2-1"],
        ["student-4-0"], ["select-4-0"], ["recover-4-0", "recover-4-1"],
    ]  # fmt: skip
    assert turns.content == alone.content == read_manifest(tmp_path / "turns").content
