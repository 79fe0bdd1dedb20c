"""Fine-tuned teachers: a new head on trained weights, its own normalisation, BatchNorm statistics of the source."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ddkit.errors import OptionError, TeacherError
from ddkit.networks.checkpoints import load_checkpoint
from ddkit.networks.pretrained import load_pretrained
from ddkit.networks.steps import make_optimiser
from ddkit.pipeline import distill
from ddkit.sources.images import open_source
from ddkit.specs import TrainSpec
from ddkit.teachers import resolving
from ddkit.teachers.resolving import TeacherChoice, resolve_teacher
from ddkit.teachers.teaching import teach, teacher_recipe
from ddkit.testing import untrained_teacher


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """timm's smallest ResNet with random weights and a head of 1,000, as a plain safetensors file."""
    import timm

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = timm.create_model("test_resnet", num_classes=1000)
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save_file(network.state_dict(), path)
    return path


def test_a_new_head_on_old_weights(tmp_path, photographs):
    old = untrained_teacher(tmp_path / "old.safetensors", classes=7)
    network, was = load_checkpoint(old)
    spec = teach(tmp_path / "new.safetensors", data=str(photographs), init=str(old), size=32, epochs=1)
    assert spec.arch == was.arch and spec.num_classes == 3 and (spec.mean, spec.std) == (was.mean, was.std)
    tuned, _ = load_checkpoint(tmp_path / "new.safetensors")
    moved = (tuned.features[1].conv.weight - network.features[1].conv.weight).abs().max()
    assert 0 < moved < 0.01  # one epoch at 1e-4
    with pytest.raises(OptionError, match="^arch is convnet4, init is a convnet3-w32; drop arch"):
        teach(tmp_path / "x.safetensors", data=str(photographs), init=str(old), arch="convnet4")
    with pytest.raises(TeacherError, match="do not fit at this size"):
        load_pretrained(str(old), 32).load_into(nn.Sequential(nn.Conv2d(3, 5, 3), nn.Linear(4, 3)))


def test_batch_norm_statistics_are_the_sources(tmp_path, photographs):
    old = untrained_teacher(tmp_path / "old.safetensors", classes=7)
    spec = teach(tmp_path / "new.safetensors", data=str(photographs), init=str(old), size=32, epochs=1)
    network, _ = load_checkpoint(tmp_path / "new.safetensors")
    source = open_source(str(photographs))
    from ddkit.format.view_pixels import normalise

    images = normalise(source.squares(np.arange(len(source)), spec.transform), spec.mean, spec.std)
    seen = []
    network.features[0].norm.register_forward_hook(lambda m, i, o: seen.append(i[0]))
    network(images)
    assert torch.allclose(network.features[0].norm.running_mean, seen[0].mean((0, 2, 3)), atol=1e-4)


def test_the_head_learns_ten_times_as_fast():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 2))
    groups = make_optimiser(TrainSpec(lr=1e-4, head_lr=1e-3), network).param_groups
    peaks = {id(p): group["peak"] for group in groups for p in group["params"]}
    assert [peaks[id(p)] for p in network.parameters()] == [1e-4, 1e-4, 1e-3, 1e-3]
    assert {group["peak"] for group in make_optimiser(TrainSpec(), network).param_groups} == {1e-3}


def test_a_library_network_with_other_classes_is_fine_tuned_once(photographs, weights, tmp_path, monkeypatch):
    monkeypatch.setenv("DDKIT_CACHE", str(tmp_path / "cache"))
    shorter = replace(teacher_recipe("finetune", "", 32, None), epochs=1, min_steps=2)
    monkeypatch.setattr(resolving, "teacher_recipe", lambda *_: shorter)
    ref = f"timm:test_resnet@{weights}"
    source = open_source(str(photographs))
    choice = TeacherChoice(ref, None)
    assert choice.needs_training(source.classes) and TeacherChoice("train", None).needs_training(source.classes)
    pretrained = load_pretrained(ref, None)
    assert not choice.needs_training(pretrained.imagenet_classes())
    options = dict(data=str(photographs), method="random", ipc=1, views=1, protocol="demo", size=32, workers=1)
    made = distill(tmp_path / "set", teacher=ref, **options)
    assert made.teacher.arch == "timm:test_resnet" and len(made.classes) == 3
    cached = list((tmp_path / "cache" / "teachers").glob("*.safetensors"))
    stamps = [path.stat().st_mtime_ns for path in cached]
    distill(tmp_path / "again", teacher=ref, seed=1, **options)
    assert [path.stat().st_mtime_ns for path in cached] == stamps
    with pytest.raises(OptionError, match="needs a source"):
        resolve_teacher("train", source.classes, "the source", size=32)
    with pytest.raises(TeacherError, match="no weights file nowhere"):
        TeacherChoice("timm:test_resnet@nowhere", None).needs_training(source.classes)
