"""A plan against the set that is then made: labels, files and units are equal; nothing is written before."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ddkit
from ddkit.errors import InputError, OptionError, TeacherError
from ddkit.format.codecs.registry import find_codec
from ddkit.format.damage import open_shard
from ddkit.format.row_records import member
from ddkit.format.views_member import unpack_tensors
from ddkit.pipeline.speeds import SPEEDS, DeviceSpeed, forward_flops
from ddkit.sources.images import open_source
from ddkit.sources.outlines import Outline, known_dataset, known_names
from ddkit.synthesis.interface import Probe
from ddkit.teachers.resolving import stand_in

CPU = torch.device("cpu")


@pytest.fixture
def quick(monkeypatch):
    """Measurements of optimisation and training steps that take no time, and how often they are made."""
    made = []
    for place in ("inner.inversion", "curriculum"):
        monkeypatch.setattr(f"ddkit.synthesis.{place}.seconds_a_step", lambda *a, **k: made.append(a) or 1.0)
    return made


def listing(folder):
    return sorted((str(path), path.stat().st_mtime_ns) for path in Path(folder).rglob("*"))


def stored(manifest):
    """Bytes of the tensors of labels and of views in a set."""
    codec, labels, views = find_codec(manifest.labels.codec), 0, 0
    for shard in manifest.shards:
        tar, records = open_shard(manifest, shard)
        for record in records:
            for name, tensor in unpack_tensors(member(tar, record.views))[0].items():
                labels += tensor.nbytes * (name in codec.tensors)
                views += tensor.nbytes * (name not in codec.tensors)
    if manifest.labels.file is not None:
        from safetensors.numpy import load_file

        labels += sum(array.nbytes for array in load_file(manifest.root / manifest.labels.file.path).values())
    return labels, views


@pytest.mark.parametrize(
    "options",
    [
        dict(method="random", ipc=2, views=3, codec="topk:3"),
        dict(method="random", ipc=1, views=80),
        dict(method="herding", ipc=2, views=3, codec="lowrank:4:i4+top1", prefixes=(1, 2)),
        dict(method="random", ipc=4, views=2, codec="teacher", prefixes=(1, 3)),
        dict(
            method="rded", codec="int8", views=4, settings={"pool": 12, "factor": 2}, protocol="rded", prefixes=(1, 3)
        ),
        dict(method="cudd", prefixes=(1, 2, 3), views=2, settings={"steps": 2, "student.epochs": 1, "threads": 1}),
        dict(method="sre2l", ipc=2, views=2, protocol="sre2l", settings={"steps": 2, "batch.size": 4}),
    ],
    ids=lambda options: options["method"] + options.get("codec", ""),
)
def test_labels_files_and_units_are_those_of_the_run(options, teacher, tmp_path, monkeypatch, quick):
    monkeypatch.chdir(tmp_path)
    options = dict(data="digits", teacher=teacher, workers=1) | options
    planned = ddkit.plan(**options)
    assert list(tmp_path.iterdir()) == []
    made = ddkit.distill("set", yes=True, **options)
    found = planned.footprint
    assert (found.label_bytes, found.view_bytes) == stored(made)
    assert found.files == sum(path.is_file() for path in Path("set").rglob("*"))
    assert found.files == found.most_files and found.image_tars == made.image_tars
    assert found.units == len(list(Path("set.work/units").iterdir())) == sum(s.units for s in planned.stages)
    assert tuple(stage.ipc for stage in planned.stages) == made.prefixes
    assert sum(stage.images for stage in planned.stages) == made.rows()
    assert 0.5 < found.download_bytes / made.total_bytes() < 2
    assert all(min(stage.one_device.values()) >= 0 < sum(stage.one_device.values()) for stage in planned.stages)
    assert planned.views == made.views.count and planned.recipe == made.recipe.name


def test_a_budget_is_an_upper_bound(teacher, tmp_path):
    options = dict(data="digits", method="random", ipc=2, views=20, budget="3x", teacher=teacher, workers=1)
    planned = ddkit.plan(**options)
    made = ddkit.distill(tmp_path / "set", **options)
    found = planned.footprint
    assert planned.labels == "budget 3x" and found.view_bytes == 0
    assert sum(stored(made)) <= found.label_bytes
    assert sum(path.is_file() for path in (tmp_path / "set").rglob("*")) <= found.most_files


@pytest.mark.parametrize("method", ["cudd", "rded"])
@pytest.mark.parametrize(
    ("dataset", "recipes"),
    [
        ("cifar10", "cifar10"), ("cifar100", "cifar100"), ("tinyimagenet", "tinyimagenet"),
        ("imagenet-1k", "imagenet1k"), ("imagenet-21k-p", "imagenet21k large"),
    ],
)  # fmt: skip
def test_the_papers_datasets_are_planned_without_having_them(dataset, recipes, method, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cache = listing(os.environ["DDKIT_CACHE"])
    outline = known_dataset(dataset)
    assert dataset in known_names()
    planned = ddkit.plan(dataset=dataset, method=method, ipc=20, device_speed="h100", devices=8)
    assert planned.recipe == f"{method}-{recipes.split()[0 if method == 'cudd' else -1]}"
    assert planned.classes == len(outline.classes) and planned.source_images == sum(outline.counts)
    assert planned.ipc == 20 and planned.size == outline.size
    assert planned.footprint.units >= len(planned.stages) and 0 < planned.seconds < planned.one_device_seconds
    assert list(tmp_path.iterdir()) == [] and listing(os.environ["DDKIT_CACHE"]) == cache


def test_published_figures_of_imagenet():
    """Half-precision labels of LPLD's table in GiB, and CDA's images, steps and passes at the stated rate."""
    for dataset, ipc, published in (
        ("imagenet-1k", 10, 5.67),
        ("imagenet-1k", 200, 113.33),
        ("imagenet-21k-p", 20, 1286),
    ):
        planned = ddkit.plan(dataset=dataset, method="sre2l", ipc=ipc, codec="fp16", device_speed="4090")
        whole = (planned.footprint.label_bytes + planned.footprint.view_bytes) / 2**30
        assert whole == pytest.approx(published, rel=0.06)
    planned = ddkit.plan(dataset="imagenet-1k", method="cda", ipc=50, device_speed="4090")
    recover = planned.stages[0].one_device["recover"]
    rate = 50_000 * 4000 * 2 * 3.64e9 / recover / 1e12
    assert rate == pytest.approx(0.4 * 165, rel=0.01)


@given(st.integers(1, 40), st.sampled_from(["rded", "cudd", "herding"]), st.sampled_from(["4090", "h100", "0.5"]))
@settings(deadline=None, max_examples=4)
def test_more_devices_never_take_longer(devices, method, speed):
    planned = [
        ddkit.plan(dataset="cifar10", method=method, ipc=10, teacher="train:convnet3", device_speed=speed, devices=n)
        for n in (1, devices, devices + 1)
    ]
    one, several, more = (p.seconds for p in planned)
    assert planned[0].one_device_seconds == one >= several >= more > 0
    for stage in planned[1].stages:
        assert {part: stage.seconds[part] for part in stage.seconds if part in ("select", "student")} == {
            part: seconds for part, seconds in stage.one_device.items() if part in ("select", "student")
        }
        assert all(stage.seconds[part] >= seconds / devices for part, seconds in stage.one_device.items())


@given(st.floats(0.1, 1e6), st.integers(1, 500), st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))
@settings(max_examples=50)
def test_units_are_spread_whole(seconds, units, workers, devices, threads):
    probe = Probe(teacher=None, size=32, workers=workers, each=1.0, devices=devices)
    lanes = devices * max(1, workers // threads)
    taken = probe.spread(seconds, units, threads)
    assert max(seconds / units, seconds / lanes) * 0.999 <= taken <= seconds * 1.001
    if lanes >= units:
        assert taken == pytest.approx(seconds / units)


def test_this_machine_is_measured_once(teacher, quick):
    options = dict(data="digits", method="cudd", prefixes=(1, 2, 3), views=2, teacher=teacher, workers=2)
    planned = ddkit.plan(**options, settings={"steps": 10, "student.epochs": 1, "threads": 1}, devices=3)
    assert len(quick) == 3  # an optimisation step with a student and one without, and a student's step
    assert planned.stages[0].one_device["recover"] == pytest.approx(10.0)
    assert planned.stages[2].one_device["student"] == pytest.approx(2.0)  # 20 images in batches of 16
    assert "measured on 20 steps" in planned.speed


def test_operations_are_counted_as_in_the_tables():
    network = stand_in("torchvision:resnet18", [str(i) for i in range(1000)], 224, CPU)
    assert forward_flops(network, 224) == pytest.approx(3.64e9, rel=0.01)  # 1.82 GMAC
    assert DeviceSpeed.parse("H100") is SPEEDS["h100"]
    speed = DeviceSpeed.parse("100")
    assert speed.seconds(40e12) == {"bfloat16": pytest.approx(1.0), "float32": pytest.approx(2.0)}


def test_a_holdout_is_left_out(photographs):
    source = open_source(str(photographs))
    for share in (None, 0.1, 0.5, 0.9):
        left = source.counts if share is None else source.part("train", share).counts
        assert Outline.of(source, share).counts == left.tolist()
    assert len(Outline.of(source, None).sample(32)) == len(source)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        (dict(), OptionError, "data is missing.*imagenet-21k-p"),
        (dict(dataset="imagenet21k"), OptionError, "unknown dataset 'imagenet21k'.*valid: .*imagenet-21k-p"),
        (dict(dataset="cifar10", classes="a,b"), OptionError, "classes is for a source at hand"),
        (dict(dataset="cifar10", ipc=6000), InputError, "needs 6000 images in each class"),
        (dict(dataset="cifar10", device_speed="-3"), OptionError, "device_speed is '-3'; give h200"),
        (dict(dataset="cifar10", devices=1.5), OptionError, "devices is 1.5"),
        (dict(dataset="cifar10", teacher="nowhere.safetensors"), TeacherError, "nowhere"),
        (dict(dataset="cifar100", teacher="TEACHER"), TeacherError, "knows 10 classes, uoft-cs/cifar100 has 100"),
        (dict(data="digits", teacher="TEACHER", size=64), OptionError, "the teacher takes 32 px, size is 64"),
    ],
)  # fmt: skip
def test_what_cannot_be_planned_is_said(options, error, words, teacher):
    given = {name: teacher if value == "TEACHER" else value for name, value in options.items()}
    with pytest.raises(error, match=words):
        ddkit.plan(**given)
