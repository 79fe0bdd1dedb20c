"""CUDD's framework: stages, selection by the rules, the student, growth; and RDED inside it."""

import json
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddkit.distillers import find_distiller, make_config
from ddkit.engine.units import UnitStore
from ddkit.errors import ClassesError, OptionError
from ddkit.format.manifest_file import read_manifest
from ddkit.pipeline import distill
from ddkit.sources.images import open_source
from ddkit.synthesis.curriculum import Student, feedback_units, stage_ends
from ddkit.synthesis.interface import Plan

QUICK = {"steps": 2, "precision": "float32", "student.epochs": 2, "threads": 1}


@pytest.mark.parametrize(
    ("ipc", "paper"),
    [
        (1, (1,)), (5, (5,)), (9, (9,)), (10, (5, 10)), (20, (5, 10, 20)), (30, (5, 10, 30)), (40, (5, 10, 20, 40)),
        (50, (5, 10, 20, 50)), (100, (5, 10, 20, 50, 100)), (200, (5, 10, 20, 50, 100, 200)),
    ],
)  # fmt: skip
def test_the_papers_stages(ipc, paper):
    assert stage_ends("paper", ipc) == paper


@given(st.integers(1, 2000), st.sampled_from(["paper", "log"]))
def test_the_number_of_stages_is_the_formula(ipc, rule):
    ends = stage_ends(rule, ipc)
    j = max(0, int(np.floor(np.log2(ipc / 5)))) + 1
    assert len(ends) == j and ends[-1] == ipc and list(ends) == sorted(set(ends))


def test_other_rules():
    assert stage_ends("log", 100) == (5, 10, 20, 40, 100)
    assert stage_ends("uniform:5", 40) == (5, 10, 15, 20, 25, 30, 35, 40) and stage_ends("uniform:5", 7) == (5, 7)
    cudd = find_distiller("cudd")
    with pytest.raises(OptionError, match="stages is 'often'; valid: paper, log, uniform:N"):
        make_config(cudd, {"stages": "often"})
    assert cudd.prefixes(make_config(cudd, {"stages": "uniform:3"}), 9) == (3, 6, 9)


def plan(last, prefixes, config=None):
    names = tuple("abc")
    first = prefixes[-2] if len(prefixes) > 1 else 0
    return Plan(
        config=config, classes=names, counts=(99,) * 3, first=first, last=last, size=32, seed=0, prefixes=prefixes
    )  # fmt: skip


def test_units_are_a_chain_of_students_and_a_selection():
    assert [u.id for u in feedback_units(plan(5, (5,)), Student())] == ["select-5-0"]
    chain = feedback_units(plan(20, (5, 10, 20)), Student(epochs=3, scratch_epochs=7, batch=10))
    assert [(u.id, u.needs) for u in chain] == [
        ("student-10-0", ()), ("student-20-0", ("student-10-0",)), ("select-20-0", ("student-20-0",))
    ]  # fmt: skip
    assert [u.ranks[0] for u in chain[:2]] == [5, 10]  # what each is trained on
    assert [u.steps for u in chain[:2]] == [2 * 7, 3 * 3]  # 15 and 30 images by ten, 7 and 3 epochs
    scratch = feedback_units(plan(20, (5, 10, 20)), Student(init="scratch"))
    assert [u.needs for u in scratch] == [(), (), ("student-20-0",)]
    assert [u.id for u in feedback_units(plan(10, (5, 10)), Student(epochs=0))] == ["select-10-0"]


@pytest.fixture(scope="module")
def staged(tmp_path_factory, small_teacher):
    """cudd on digits, stages 1, 2 and 4."""
    out = tmp_path_factory.mktemp("cudd") / "set"
    return distill(
        out, data="digits", method="cudd", prefixes=(1, 2, 4), settings=QUICK, protocol="demo", views=3,
        teacher=small_teacher, workers=2,
    )  # fmt: skip


def unit(work, name):
    return UnitStore(str(work)).unit(name, None).tensors()


def test_selection_follows_the_rules(staged, small_teacher):
    """Recomputed from the kept predictions: no image twice, and no worse rule while a better one has images left."""
    work = staged.root.with_name("set.work")
    source = open_source("digits")
    used: dict[int, set[int]] = {label: set() for label in range(10)}
    for stage, end in enumerate((1, 2, 4)):
        found = unit(work, f"select-{end}-0")
        assert found["counts"].shape == (10, 2 if stage == 0 else 4)
        for label in range(10):
            images = found["images"][label].tolist()
            assert all(source.labels[i] == label for i in images) and not used[label] & set(images)
            assert found["counts"][label].sum() == len(source.members(label)) - len(used[label])
            taken = np.bincount(found["rules"][label], minlength=found["counts"].shape[1])
            assert (taken <= found["counts"][label]).all()
            worst = found["rules"][label].max()
            assert (taken[:worst] == found["counts"][label][:worst]).all()
            used[label] |= set(images)
    log = staged.log.plan
    assert log["1"]["student_right_percent"] is None and 0 <= log["4"]["student_right_percent"] <= 100
    assert sum(sum(v) for v in log["4"]["selected"].values()) == 20


def test_each_row_says_where_it_comes_from(staged):
    store = UnitStore(str(staged.root.with_name("set.work")))
    files = [store.unit(f"images-{name}", None) for name in ("001-00000", "002-00000", "004-00000")]
    rows = [(int(r), o) for tensors, meta in (file.read() for file in files)
            for r, o in zip(tensors["rank"], meta["origins"])]  # fmt: skip
    assert all(o["kind"] == "real" and len(o["rows"]) == 1 for _, o in rows)
    assert {o["rule"] for rank, o in rows if rank == 0} <= {"R", "rest"}
    assert {o["rule"] for rank, o in rows if rank} <= {"R∩W", "W∩W", "R∩R", "rest"}
    assert staged.real_pixels == "initial"
    recovered = unit(store.work, "recover-4-0")
    assert recovered["initial"].shape == recovered["pixels"].shape
    assert (recovered["initial"] != recovered["pixels"]).any()


def test_one_teacher_pass_ever_and_one_student_pass_a_stage(staged):
    once = list((staged.root.with_name("set.work") / "once").glob("predictions-*"))
    assert len(once) == 1 + 2


def test_the_bytes_do_not_depend_on_workers_and_growth_equals_one_run(staged, small_teacher, tmp_path):
    options = dict(settings=QUICK, protocol="demo", views=3, teacher=small_teacher, workers=1)
    distill(tmp_path / "g", data="digits", method="cudd", prefixes=(1,), **options)
    shutil.rmtree(tmp_path / "g.work")  # students are trained again, origins read from the rows
    first = distill(tmp_path / "g", data="digits", prefixes=(1, 2), **options)
    (tmp_path / "g.work" / "units" / "student-2-0.unit").unlink()
    grown = distill(tmp_path / "g", data="digits", prefixes=(1, 2, 4), **options)
    assert grown.content == staged.content != first.content
    assert grown.log.plan.keys() == {"1", "2", "4"}


def test_a_stage_goes_on_in_the_middle(staged, small_teacher, tmp_path):
    """The same bytes after the second stage's units, its shard and the manifest were lost."""
    shutil.copytree(staged.root, tmp_path / "set")
    shutil.copytree(staged.root.with_name("set.work"), tmp_path / "set.work")
    (tmp_path / "set" / "ddkit.json").unlink()
    units = tmp_path / "set.work" / "units"
    for name in ("recover-4-0.unit", "images-004-00000.unit", "pack-004-00000.unit"):
        (units / name).unlink()
    for path in (*units.glob("label-004-*"), *(tmp_path / "set" / "data").glob("*004*")):
        path.unlink()
    assert distill(tmp_path / "set", workers=1).content == staged.content
    assert read_manifest(tmp_path / "set").log == staged.log


def test_the_methods_own_stages_and_growth(tmp_path):
    from ddkit.pipeline.record import RECORD

    made = distill(
        tmp_path / "s", data="digits", classes="0,1", method="cudd", ipc=2, settings=QUICK | {"stages": "uniform:1"},
        protocol="demo", views=1, teacher=small(tmp_path), workers=1,
    )  # fmt: skip
    assert made.prefixes == (1, 2)
    assert json.loads((tmp_path / "s.work" / RECORD).read_text())["prefixes"] == [1, 2]
    assert distill(tmp_path / "s", ipc=3).prefixes == (1, 2, 3)


def small(folder):
    from ddkit.testing import untrained_teacher

    return str(untrained_teacher(folder / "two.safetensors", classes=2, size=16))


def test_rded_inside_the_curriculum(tmp_path):
    settings = QUICK | {"inner": "rded", "patch.factor": 2, "patch.pool": 4, "patch.crops": 2}
    made = distill(
        tmp_path / "r", data="digits", classes="0,1", method="cudd", prefixes=(1, 2), settings=settings,
        protocol="rded", views=2, teacher=small(tmp_path), workers=1,
    )  # fmt: skip
    assert made.real_pixels == "crops" and made.image.patches == 4


def test_noise_and_no_regulariser_hold_no_real_pixels(tmp_path):
    settings = QUICK | {"init": "noise", "reg.weight": 0}
    made = distill(
        tmp_path / "n", data="digits", classes="0,1", method="cudd", ipc=1, settings=settings, protocol="demo",
        views=2, teacher=small(tmp_path), workers=1,
    )  # fmt: skip
    assert made.real_pixels == "none"


def test_too_few_images_are_refused_before_anything_is_made(tmp_path, small_teacher):
    with pytest.raises(ClassesError, match="cudd with 500 images per class needs 500"):
        distill(tmp_path / "x", data="digits", method="cudd", ipc=500, teacher=small_teacher)
    assert not (tmp_path / "x.work").exists()


def test_the_makers_pictures(staged, tmp_path):
    from PIL import Image

    from ddkit.errors import SetError
    from ddkit.publishing.diagnostics import losses_picture, origins_picture

    for draw in (origins_picture, losses_picture):
        draw(staged, tmp_path / "p.png")
        with Image.open(tmp_path / "p.png") as picture:
            assert picture.width > 300
    shutil.copytree(staged.root, tmp_path / "alone")
    with pytest.raises(SetError, match="no real images in"):
        origins_picture(read_manifest(tmp_path / "alone"), tmp_path / "p.png")


def test_choosing_by_features_stays_within_the_first_rule(tmp_path):
    settings = QUICK | {"init": "noise", "reg.weight": 0, "among": "kmeans"}
    options = dict(data="digits", classes="0,1", method="cudd", protocol="demo", views=1, workers=1)
    distill(tmp_path / "k", prefixes=(1, 3), settings=settings, teacher=small(tmp_path), **options)
    for end in (1, 3):
        found = unit(tmp_path / "k.work", f"select-{end}-0")
        enough = found["counts"][:, 0] > found["images"].shape[1]
        assert (found["rules"][enough] == 0).all()
        assert all(len(set(row)) == len(row) for row in found["images"].tolist())
