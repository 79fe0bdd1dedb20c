"""DD-Ranking's scores from our rows, and the layout that it reads."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from typer.testing import CliRunner

from ddkit.cli.app import app
from ddkit.errors import OtherRun
from ddkit.evaluation.ddranking import (
    augmentation_robust_score,
    dataset_name,
    ddranking_scores,
    export_ddranking,
    label_robust_score,
    network_name,
)
from ddkit.format.results import ResultEntry
from ddkit.format.view_pixels import normalise
from ddkit.replay.stores.memory import load_set

fractions = st.floats(-1, 1)


def entry(of="this", labels="stored", mean=50.0, **changes):
    plain = {
        "of": of, "ipc": 10, "arch": "convnet3", "protocol": "common", "labels": labels, "val": "x:test", "seeds": (0,),
        "n_sets": 1, "n_students": 1, "mean": mean, "std": 0.0, "difference": None, "total_bytes": 1, "command": "c",
        "hardware": "h",
    }  # fmt: skip
    return ResultEntry(**plain | changes)


@given(fractions, fractions, fractions)
def test_scores_lie_between_0_and_1_and_grow(hlr, ior, more):
    score = label_robust_score(hlr, ior)
    assert 0 <= score <= 1
    assert score == pytest.approx((math.exp(0.5 * ior - 0.5 * hlr) - math.exp(-1)) / (math.e - math.exp(-1)))
    if more > ior:
        assert label_robust_score(hlr, more) >= score and augmentation_robust_score(more, hlr) >= (
            augmentation_robust_score(ior, hlr)
        )
    assert label_robust_score(-1, 1) == pytest.approx(1) and label_robust_score(1, -1) == pytest.approx(0)


def test_rows_and_what_is_missing():
    results = [entry(mean=60), entry(labels="hard", mean=40), entry("random", mean=50)]
    (found,) = ddranking_scores(results)
    assert found.ior == pytest.approx(0.1) and found.hlr is None and found.lrs is None
    assert [words.split(" (")[0] for words in found.missing] == [
        "convnet3 trained on the whole source", "a protocol without augmentation",
    ]  # fmt: skip
    teacher = entry("teacher", "hard", 85, protocol="-")
    plain = [entry(mean=45, protocol="plain"), entry("random", mean=43, protocol="plain")]
    (found,) = ddranking_scores([*results, teacher], plain=plain)
    assert found.hlr == pytest.approx(0.45) and found.missing == ()
    assert found.lrs == label_robust_score(0.45, 0.1)
    assert found.ars == pytest.approx(augmentation_robust_score(0.1, 0.02))
    online = entry(labels="online", mean=70)  # a baseline of the stored labels
    assert len(ddranking_scores([*results, online])) == 1 and len(ddranking_scores([online])) == 1
    other = entry("teacher", "hard", 85, arch="resnet18", protocol="-")  # another network says nothing about this one
    assert ddranking_scores([*results, other])[0].hlr is None


NAMES = [
    ("cifar10:train", 10, "CIFAR10"), ("uoft-cs/cifar100:train", 100, "CIFAR100"),
    ("zh-plus/tiny-imagenet:train", 200, "TinyImageNet"), ("tinyimagenet100:train", 100, "tinyimagenet100:train"),
    ("ILSVRC/imagenet-1k:train", 1000, "ImageNet1K"), ("digits:train", 10, "digits:train"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "classes", "name"), NAMES)
def test_datasets_by_their_names_there(source, classes, name):
    assert dataset_name(source, classes) == name


def test_networks_by_their_names_there():
    """ConvNet-D and ResNet-D have instance normalisation there; with -BN they have BatchNorm."""
    ours = ["convnet3", "convnet4-in", "resnet18", "resnet18-small", "timm:vit_tiny_patch16_224", "torchvision:vgg11"]
    ours.append("convnet3-w32")  # of no width that it knows
    theirs = [
        "ConvNet-3-BN",
        "ConvNet-4",
        "ResNet-18-BN",
        "ResNet-18-BN",
        "vit_tiny_patch16_224",
        "vgg11",
        "convnet3-w32",
    ]
    assert [network_name(name) for name in ours] == theirs


def test_the_layout(random_set, tmp_path):
    result = CliRunner().invoke(app, ["export", str(random_set.root), str(tmp_path / "out"), "--as", "ddranking"])
    assert result.exit_code == 0, result.output
    tensors = load_file(tmp_path / "out" / "tensors.safetensors")
    store = load_set(random_set)
    order = np.argsort(store.labels, kind="stable")
    assert tensors["labels"].tolist() == sorted(store.labels.tolist())
    assert torch.equal(tensors["images"], normalise(store.images[order], (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    rows = np.arange(len(store))
    np.testing.assert_array_equal(tensors["logits"].numpy(), store.logits(rows, np.zeros_like(rows))[order])
    folders = sorted(p.name for p in (tmp_path / "out" / "images").iterdir() if p.is_dir())
    assert folders == [f"{i:0{len(folders[0])}d}" for i in range(10)]
    assert json.loads((tmp_path / "out" / "scores.json").read_text())["accuracies"].startswith("fractions")
    with pytest.raises(OtherRun, match="not empty"):
        export_ddranking(random_set.root, tmp_path / "out")
