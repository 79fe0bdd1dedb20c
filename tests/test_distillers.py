"""Every distiller keeps the contract; other people's are found as a file and as an entry point."""

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch

from ddkit.distillers import config_keys, distiller_names, find_distiller, make_config
from ddkit.distillers.rded import Config, units
from ddkit.errors import ClassesError, OptionError
from ddkit.sources.images import open_source
from ddkit.synthesis.interface import Plan
from ddkit.synthesis.patches import best_crops, candidate_boxes, cut, pool_and_keep, score, stitch
from ddkit.teachers.teacher import Teacher
from ddkit.testing import check_distiller

SHORT = {"steps": 3, "precision": "float32", "batch.size": 20}
QUICK = {
    "rded": {"pool": 4, "factor": 2, "crops": 2},
    "sre2l": SHORT,
    "cda": SHORT | {"init": "patch", "bn.targets": "both"},
    "cudd": SHORT | {"student.epochs": 2, "batch.grouping": "one-class", "reg.space": "feature"},
}

THIRD_PARTY = '''
"""The mean of a few images, in other people's file."""
from dataclasses import dataclass
import numpy as np
from ddkit.synthesis import Origin, Synthetic
from ddkit.synthesis.interface import class_units

NAME, PAPER, COST = "mean", "none", "seconds"

@dataclass(frozen=True, kw_only=True)
class Config:
    images: int = 3

def units(plan):
    return class_units(plan, 5)

def run(unit, context):
    for label in unit.labels:
        for rank in unit.ranks:
            chosen = context.rng("mean", label, rank).choice(context.source.members(label), context.config.images)
            stack = np.stack([context.source.whole(int(i), context.size).numpy() for i in chosen])
            yield Synthetic(pixels=stack.mean(0).astype(np.uint8), label=label, rank=rank,
                            origin=Origin(kind="real", rows=tuple(sorted(int(context.source.rows[i]) for i in chosen))))
'''


@pytest.mark.parametrize("name", distiller_names())
def test_contract(name):
    check_distiller(name, QUICK.get(name))


@pytest.fixture
def theirs(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(THIRD_PARTY)
    return path


def test_a_distiller_in_a_file(theirs):
    check_distiller(str(theirs), {"images": 2})


def test_a_distiller_behind_an_entry_point(theirs, monkeypatch, tmp_path):
    """A real installed distribution, as pip leaves it: a module and a dist-info folder."""
    site = tmp_path / "site"
    info = site / "theirs-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "their_distiller.py").write_text(THIRD_PARTY)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[ddkit.distillers]\nmean = their_distiller\n")
    monkeypatch.syspath_prepend(str(site))
    importlib.invalidate_caches()
    assert "mean" in distiller_names() and find_distiller("mean").paper == "none"
    with pytest.raises(OptionError, match="random"):
        find_distiller("median")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (('context.rng("mean", label, rank)', "np.random"), "global random generator|other bytes"),
        (("label=label, rank=rank", "label=label, rank=0"), "made"),
        (("astype(np.uint8)", "astype(np.float32)"), "uint8"),
        (("context.source.whole(int(i), context.size)", "context.source.whole(int(i), 8)"), "not uint8"),
        (("origin=Origin(", "origin=dict("), "not a ddkit.synthesis.Origin"),
    ],
)
def test_the_contract_test_can_fail(theirs, change, complaint):
    theirs.write_text(THIRD_PARTY.replace(*change))
    with pytest.raises((AssertionError, OptionError), match=complaint):
        check_distiller(str(theirs))


def test_broken_distiller_files(tmp_path):
    path = tmp_path / "x.py"
    with pytest.raises(OptionError, match="no distiller file"):
        find_distiller(str(path))
    path.write_text("import nothing_of_this_name")
    with pytest.raises(OptionError, match="cannot be imported"):
        find_distiller(str(path))
    path.write_text("raise ValueError('mine')")
    with pytest.raises(OptionError, match="ValueError: mine"):
        find_distiller(str(path))
    path.write_text("NAME = PAPER = COST = Config = units = run = 1")
    with pytest.raises(OptionError, match="not a dataclass"):
        find_distiller(str(path))
    path.write_text("NAME = 'x'")
    with pytest.raises(OptionError, match="lacks PAPER, COST, Config, units, run"):
        find_distiller(str(path))


def test_settings_are_checked():
    rded = find_distiller("rded")
    assert config_keys(rded) == {"pool": 300, "factor": 1, "crops": 5, "stitch": "ranked"}
    with pytest.raises(OptionError, match="did you mean factor.*crops, factor, pool, stitch"):
        make_config(rded, {"facto": 2})
    with pytest.raises(OptionError, match="ranked, random"):
        make_config(rded, {"stitch": "best"})
    with pytest.raises(OptionError, match="at least 1"):
        make_config(rded, {"crops": 0})


def plan(config, counts, last, size=32):
    names = tuple("abcdefgh"[: len(counts)])
    return Plan(
        config=config, classes=names, counts=tuple(counts), first=0, last=last, size=size, seed=0, prefixes=(last,)
    )  # fmt: skip


def test_the_pool_rule():
    assert pool_and_keep(Config(factor=2), 1300, 10) == (300, 1)
    assert pool_and_keep(Config(factor=2), 1300, 75) == (450, 1)
    assert pool_and_keep(Config(factor=2), 1300, 200) == (1200, 1)
    assert pool_and_keep(Config(factor=2), 100, 50) == (100, 2)
    assert pool_and_keep(Config(), 50, 10) == (50, 1)


def test_too_few_images_are_named():
    with pytest.raises(ClassesError, match="needs 8 images in each class: b has 5, d has 7; lower ipc or"):
        find_distiller("random").units(plan(None, [9, 5, 8, 7], 8))
    with pytest.raises(ClassesError, match="e has 1 and 3 more classes"):
        find_distiller("random").units(plan(None, [1] * 8, 2))
    units(plan(Config(crops=5, factor=2), [8], 10))
    with pytest.raises(ClassesError, match="needs 8 images"):
        units(plan(Config(crops=5, factor=2), [7], 10))
    with pytest.raises(OptionError, match="does not divide"):
        units(plan(Config(factor=3), [99], 1))


def test_crops_are_square_inside_and_nested(rded_set):
    source = open_source("digits")
    few, many = (candidate_boxes(source, 3, k, 0, 32, 32) for k in (2, 7))
    assert (many[:2] == few).all() and (many[:, 2] == many[:, 3]).all()
    assert (many[:, 0] + many[:, 2] <= 32).all() and many[:, 2].min() >= round(32 * 0.08**0.5) - 1


def test_scores_rank_by_the_teacher_on_a_zero_canvas(teacher):
    guide = Teacher.load(teacher, torch.device("cpu"))
    patches = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 3, 16, 16), dtype=np.uint8))
    canvas = torch.zeros(3, 3, 32, 32)
    canvas[:, :, 8:24, 8:24] = guide.normalise(patches)
    want = torch.nn.functional.cross_entropy(guide.logits(canvas), torch.full((3,), 4), reduction="none")
    assert np.allclose(score(patches, 4, guide, 32), want.numpy(), atol=1e-5)


def test_best_crops_keep_the_best_of_each_image(teacher):
    guide, source = Teacher.load(teacher, torch.device("cpu")), open_source("digits")
    images = source.members(3)[:4]
    found = best_crops(source, images, 3, guide, crops=3, keep=2, seed=0, size=32, side=16)
    assert len(found) == 8 and [c.loss for c in found] == sorted(c.loss for c in found)
    for image in images:
        losses = score(torch.stack(cut(source, int(image), [0, 1, 2], 0, 16)), 3, guide, 32)
        kept = {c.crop for c in found if c.image == image}
        assert kept == set(np.argsort(losses, kind="stable")[:2].tolist())


def test_stitching_is_row_major():
    tiles = [torch.full((3, 2, 2), i, dtype=torch.uint8) for i in range(4)]
    assert stitch(tiles, 2)[0].tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]


def test_rded_stitches_ranks_with_the_increment_as_stride(rded_set):
    """From the published origins: no crop is used twice, and image i holds ranks i, n+i, 2n+i, 3n+i."""
    import json

    from ddkit.engine.units import UnitStore
    from ddkit.pipeline.record import work_dir

    work = str(work_dir(Path(rded_set.root)))
    rows = [UnitStore(work).unit(f"images-{name}", None).read() for name in ("001-00000", "003-00000")]
    origins = [(int(label), o) for part, meta in rows for label, o in zip(part["label"], meta["origins"])]
    used = [(label, row, crop) for label, o in origins for row, crop in zip(o["rows"], o["crops"])]
    assert len(set(used)) == len(used) == 30 * 4
    guide, source = Teacher.load(work_teacher(work), torch.device("cpu")), open_source("digits")
    label = 2
    pool, keep = pool_and_keep(Config(pool=6, factor=2), len(source.members(label)), 1)
    from ddkit.core.seeds import nested_choice

    images = nested_choice(0, source.members(label), "rded-pool", label)[:pool]
    ranked = best_crops(source, images, label, guide, crops=5, keep=keep, seed=0, size=32, side=16)
    first = next(o for mine, o in origins if mine == label)
    assert first["rows"] == [int(source.rows[c.image]) for c in ranked[:4]] and json.dumps(first)


def work_teacher(work):
    import json

    return json.loads((Path(work) / "run.json").read_text())["teacher"]


def test_the_distiller_in_contributing_keeps_the_contract(tmp_path):
    text = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text()
    path = tmp_path / "mean.py"
    path.write_text(text.split("```python\n")[1].split("```")[0])
    assert len([line for line in path.read_text().splitlines() if line.strip()]) <= 30
    check_distiller(str(path))
