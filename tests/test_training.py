"""Trainings: schedules, exact resume, divergence, checkpoints, networks, teachers."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from ddkit.core.seeds import rng
from ddkit.engine.interleaving import interleave
from ddkit.errors import ClassesError, Diverged, OptionError, TeacherError
from ddkit.networks.checkpoints import load_checkpoint, save_checkpoint, tensor_hash
from ddkit.networks.pretrained import load_pretrained
from ddkit.networks.registry import build_network, forward, network_names
from ddkit.networks.steps import _draws_random_numbers, learning_rate, make_optimiser
from ddkit.networks.training import Fit, fit, fitting, seeded_network
from ddkit.networks.training_state import load_state
from ddkit.specs import ClassName, EvalTransform, TeacherSpec, TrainSpec
from ddkit.teachers.resolving import resolve_teacher
from ddkit.teachers.teacher import Teacher
from ddkit.teachers.teaching import teach


def job(tmp_path, spec=None, epochs=4, **options):
    data = torch.from_numpy(np.random.default_rng(0).standard_normal((24, 3, 8, 8)).astype(np.float32))
    target = torch.arange(24) % 3

    def batches(epoch):
        order = torch.from_numpy(np.random.default_rng(epoch).permutation(24))
        return ((data[order[i : i + 8]], target[order[i : i + 8]]) for i in range(0, 24, 8))

    return Fit(
        spec=spec or TrainSpec(lr=0.01), epochs=epochs, steps_an_epoch=3, batches=batches, loss=nn.CrossEntropyLoss(),
        seed=0, device=torch.device("cpu"), **options,
    )  # fmt: skip


def network():
    return seeded_network(lambda: build_network("convnet3", 3, 8), 0, "n")


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
def test_a_killed_training_goes_on_to_the_same_weights(tmp_path, optimiser, monkeypatch):
    monkeypatch.setattr("ddkit.networks.training.SAVE_EVERY_S", 0.0)
    spec = TrainSpec(lr=0.01, optimiser=optimiser)
    whole = network()
    history = fit(whole, job(tmp_path, spec))
    broken = network()

    class Killed(Exception):
        pass

    def kill(n):
        if (tmp_path / "log.jsonl").read_text().count("\n") == 2:
            raise Killed

    with pytest.raises(Killed):
        fit(broken, job(tmp_path, spec, state=tmp_path / "s", log=tmp_path / "log.jsonl", on_epoch=kill))
    resumed = network()
    again = fit(resumed, job(tmp_path, spec, state=tmp_path / "s", log=tmp_path / "log.jsonl"))
    assert tensor_hash(resumed.state_dict()) == tensor_hash(whole.state_dict())
    assert [e["loss"] for e in again] == [e["loss"] for e in history]
    assert [json.loads(line)["epoch"] for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [1, 2, 3, 4]


def test_a_resumed_optimiser_is_laid_out_as_the_weights(tmp_path):
    """Fused optimisers of a GPU want it; files are contiguous, weights channels-last."""
    options = {"state": tmp_path / "s"}
    fit(network(), job(tmp_path, epochs=1, **options))
    again = network().to(memory_format=torch.channels_last)
    optimiser = make_optimiser(TrainSpec(lr=0.01), again)
    resumed = job(tmp_path, epochs=2, **options)
    assert len(load_state(resumed.state_file, again, optimiser, resumed.log)[0]) == 1
    assert any(not p.is_contiguous() for p in again.parameters())
    for parameter, held in optimiser.state.items():
        assert held["exp_avg"].stride() == held["exp_avg_sq"].stride() == parameter.stride()


def test_which_networks_draw_random_numbers():
    draws = _draws_random_numbers
    assert not draws(network()) and not draws(nn.Sequential(nn.Dropout(0.0)))
    assert draws(nn.Sequential(nn.Dropout(0.1)))
    assert draws(build_network("torchvision:efficientnet_b0", 3, 32))
    assert not draws(build_network("timm:resnet10t", 3, 32))


@settings(max_examples=10, deadline=None)
@given(images=st.integers(0, 70))
def test_a_pass_in_parts_is_the_whole_pass(images):
    size = 32 if images % 2 else 8
    net = seeded_network(lambda: build_network("convnet3", 3, size), 0).eval()
    inputs = torch.randn(images, 3, size, size, generator=torch.Generator().manual_seed(images))
    found = forward(net, inputs)
    with torch.no_grad():
        assert found.shape == (images, 3) and torch.allclose(found, net(inputs), atol=1e-4)


def test_trainings_in_turns_are_the_trainings_alone(tmp_path):
    """Other lengths, other seeds, and layers that drop."""

    def net():
        return seeded_network(
            lambda: nn.Sequential(build_network("convnet3", 16, 8), nn.Dropout(), nn.Linear(16, 3)), 1
        )

    jobs = [replace(job(tmp_path, epochs=epochs), seed=epochs) for epochs in (2, 4, 3)]
    alone, turns = [net() for _ in jobs], [net() for _ in jobs]
    logs = [fit(network, one) for network, one in zip(alone, jobs)]
    found = interleave([fitting(network, one) for network, one in zip(turns, jobs)], jobs[0].device)
    assert [[e["loss"] for e in log] for log in found] == [[e["loss"] for e in log] for log in logs]
    assert [tensor_hash(n.state_dict()) for n in turns] == [tensor_hash(n.state_dict()) for n in alone]


def test_training_leaves_the_global_generator_alone(tmp_path):
    before = torch.random.get_rng_state()
    fit(network(), job(tmp_path, epochs=1))
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_loss_that_is_not_finite_stops_the_training(tmp_path):
    with pytest.raises(Diverged, match="in epoch 1;"):
        fit(network(), job(tmp_path, TrainSpec(lr=1e30, optimiser="sgd", momentum=0.0), epochs=3))


def test_schedules():
    def factors(**options):
        spec = TrainSpec(**options)
        return [learning_rate(spec, step, 100, 10) for step in range(100)]

    cosine = factors(schedule="cosine")
    assert cosine[0] == 1 and cosine[50] == pytest.approx(0.5) and cosine[-1] < 0.001
    half = factors(schedule="half-cosine")
    assert half[0] == half[9] == 1 and half[-1] == pytest.approx((1 + math.cos(math.pi * 9 / 20)) / 2)
    cycle = factors(schedule="onecycle", warmup=0.2)
    assert cycle[0] == 0.05 and max(cycle) == 1 and cycle[-1] < 0.02 and factors(schedule="constant") == [1.0] * 100


def test_no_weight_decay_on_one_dimensional_parameters():
    groups = make_optimiser(TrainSpec(), network()).param_groups
    assert groups[0]["weight_decay"] == 0.01 and groups[1]["weight_decay"] == 0
    assert all(p.ndim == 1 for p in groups[1]["params"]) and len(groups[1]["params"]) == 10


@pytest.mark.parametrize(
    "name", ["convnet3", "convnet4-in", "resnet18-small", "timm:resnet10t", "torchvision:mobilenet_v3_small"]
)
def test_networks(name):
    logits = build_network(name, 7, 32).eval()(torch.zeros(2, 3, 32, 32))
    assert logits.shape == (2, 7)


def test_network_errors():
    with pytest.raises(OptionError, match="did you mean convnet3"):
        build_network("convnet33", 10, 32)
    with pytest.raises(OptionError, match="timm has no model"):
        build_network("timm:resnet99x", 10, 32)
    with pytest.raises(OptionError, match="torchvision model"):
        build_network("torchvision:resnet99", 10, 32)
    with pytest.raises(OptionError, match="too few"):
        build_network("convnet6", 10, 32)
    assert {"convnet6-in", "convnet3-w32"} <= set(network_names())
    assert build_network("convnet4-w64", 10, 32).features[1].conv.weight.shape == (64, 64, 3, 3)


def test_convnet_names_its_parameters_as_the_format_says():
    names = set(build_network("convnet3", 10, 32).state_dict())
    assert {"features.0.conv.weight", "features.2.norm.running_var", "classifier.bias"} <= names
    assert build_network("convnet3", 10, 32).classifier.weight.shape == (10, 2048)


def spec(**changes):
    known = {"arch": "convnet3", "num_classes": 3, "image_size": 8, "mean": (0.1, 0.2, 0.3), "std": (1.0, 1.0, 1.0),
             "classes": ("a", "b", "c")}  # fmt: skip
    return TeacherSpec(**(known | changes))


def test_checkpoints_carry_what_they_need(tmp_path):
    path = tmp_path / "t.safetensors"
    saved = save_checkpoint(path, network(), spec(accuracy=12.5))
    back, read = load_checkpoint(path)
    assert read == saved and read.transform.crop == 8 and tensor_hash(back.state_dict()) == read.hash
    assert save_checkpoint(path, network(), spec(accuracy=99.0)).hash == saved.hash


def test_wrong_checkpoints(tmp_path):
    pickled = tmp_path / "t.pt"
    torch.save({"a": torch.zeros(1)}, pickled)
    with pytest.raises(TeacherError, match="pickle, which can run code"):
        load_checkpoint(pickled)
    with pytest.raises(TeacherError, match="ddkit teach"):
        load_checkpoint(tmp_path / "none.safetensors")
    bare = tmp_path / "bare.safetensors"
    save_file({"a": torch.zeros(1)}, bare)
    with pytest.raises(TeacherError, match="has no arch, num_classes"):
        load_checkpoint(bare)
    save_checkpoint(bare, network(), spec(arch="convnet4", image_size=16))
    with pytest.raises(TeacherError, match="does not fit"):
        load_checkpoint(bare)
    for changes, words in (
        ({"classes": ("a", "b")}, "names 2 classes"),
        ({"class_ids": ("n1",)}, "names 1 class ids"),
        ({"mean": (0.1,)}, "three of each"),
        ({"std": (0.1, 0.0, 0.1)}, "std above 0"),
        ({"eval": EvalTransform(resize=8, crop=6)}, "for images of 8 px"),
        ({"arch": 5}, "arch is 5"),
        ({"accuracy": "x"}, "accuracy"),
    ):
        save_checkpoint(bare, network(), spec(**changes))
        with pytest.raises(TeacherError, match=words):
            load_checkpoint(bare)
    save_file(network().state_dict(), bare, {"ddkit": "3"})
    with pytest.raises(TeacherError, match="not a JSON object"):
        load_checkpoint(bare)
    sick = network()
    torch.nn.init.constant_(sick.classifier.weight, float("nan"))
    save_checkpoint(bare, sick, spec())
    with pytest.raises(TeacherError, match="not finite"):
        load_checkpoint(bare)
    save_checkpoint(bare, network(), spec())
    bare.write_bytes(bare.read_bytes()[:100])
    with pytest.raises(TeacherError, match="damaged"):
        load_checkpoint(bare)


def test_a_teacher_in_another_class_order_is_put_right(tmp_path):
    path = tmp_path / "t.safetensors"
    save_checkpoint(path, network(), spec())
    order = resolve_teacher(str(path), [ClassName(name=n) for n in "cab"], "the source").order
    x = torch.randn(2, 3, 8, 8)
    plain, turned = Teacher.load(path, torch.device("cpu")), Teacher.load(path, torch.device("cpu"), order)
    assert torch.equal(turned.logits(x), plain.logits(x)[:, [2, 0, 1]])
    assert resolve_teacher(str(path), [ClassName(name=n) for n in "abc"], "x").order is None
    with pytest.raises(TeacherError, match="knows 3 classes, the source has 2"):
        resolve_teacher(str(path), [ClassName(name=n) for n in "ab"], "the source")
    with pytest.raises(ClassesError, match="no partner"):
        resolve_teacher(str(path), [ClassName(name=n) for n in "abx"], "the source")


def test_library_teachers(tmp_path):
    import timm

    weights = tmp_path / "w.safetensors"
    save_file(timm.create_model("resnet10t", num_classes=1000).state_dict(), weights)
    ref = f"timm:resnet10t@{weights}"
    classes = load_pretrained(ref, None).imagenet_classes()
    found = resolve_teacher(ref, classes, "the source", size=32)
    _, teacher = load_checkpoint(found.path)
    assert teacher.num_classes == 1000 and teacher.class_ids[0] == "n01440764" and teacher.image_size == 32
    assert found.spec == teacher and found.order is None
    with pytest.raises(TeacherError, match="no weights file"):
        resolve_teacher("timm:resnet10t@none.safetensors", classes, "the source", size=32)
    with pytest.raises(TeacherError, match="cannot be fetched"):
        resolve_teacher("timm:resnet18.tv_in1k", classes, "the source", size=32)
    with pytest.raises(OptionError, match="needs a source"):
        resolve_teacher("train", classes, "the source", size=32)


def test_teach_measures_on_the_test_split(tmp_path):
    out = tmp_path / "t.safetensors"
    taught = teach(out, data="digits", arch="convnet3", epochs=1)
    assert taught.measured_on == "digits:test (355 images)" and taught.accuracy > 40
    assert sorted(p.name for p in tmp_path.iterdir()) == ["t.safetensors"]
    with pytest.raises(OptionError, match="safetensors"):
        teach(Path("t.pt"), data="digits", arch="convnet3")
    with pytest.raises(OptionError, match="unknown network"):
        teach(out, data="digits", arch="nonet")
    with pytest.raises(OptionError, match="teacher recipe"):
        teach(out, data="digits", arch="convnet3", recipe="huge")


@pytest.mark.parametrize("kind", ["none", "shift", "crop-flip", "rrc-flip"])
@given(st.integers(1, 9), st.integers(0, 9))
@settings(max_examples=10, deadline=None)
def test_augmentations_keep_shape_and_are_those_of_the_batch_in_every_part_of_it(kind, n, cut):
    from ddkit.teachers.teaching import _augment

    def made(part):
        return _augment(pixels[part], part, n, kind, 16, rng(0, "a"))

    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (n, 3, 16, 16), dtype=np.uint8))
    whole, cut = made(slice(0, n)), min(cut, n)
    assert whole.shape == (n, 3, 16, 16) and whole.dtype == torch.uint8
    assert kind != "none" or torch.equal(whole, pixels)
    assert torch.equal(whole, torch.cat([made(slice(0, cut)), made(slice(cut, n))]))
