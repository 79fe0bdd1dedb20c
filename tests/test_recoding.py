"""Relabelling by the same teacher takes the stored logits: the same bytes as labelling again, without the teacher."""

import json

import pytest
import torch

import ddkit
from ddkit.core.device import has_bfloat16
from ddkit.format.manifest import self_hash
from ddkit.labelling import labels
from ddkit.networks.checkpoints import load_checkpoint, save_checkpoint
from ddkit.pipeline import relabel
from ddkit.pipeline.relabelling import label_problems


def test_taken_labels_give_the_bytes_of_computed_ones(random_set, teacher, tmp_path, monkeypatch):
    computed = ddkit.distill(
        tmp_path / "computed", data="digits", method="random", ipc=2, protocol="demo", views=3, teacher=teacher,
        codec="topk:3", workers=1,
    )  # fmt: skip

    def never(*args):
        raise AssertionError("the teacher ran")

    monkeypatch.setattr(labels.LabelJob, "compute", never)
    taken = relabel(random_set.root, tmp_path / "taken", teacher=teacher, codec="topk:3", views=3, workers=1)
    assert [shard.sha256 for shard in taken.shards] == [shard.sha256 for shard in computed.shards]
    assert ddkit.verify(taken.root) == [] and 0 < taken.labels.fidelity.kl_t20 < 1


def test_other_views_seeds_or_codecs_are_labelled_again(random_set, teacher, tmp_path, monkeypatch):
    ran = []
    run = labels.LabelJob.compute
    monkeypatch.setattr(labels.LabelJob, "compute", lambda *args: ran.append(1) or run(*args))
    for i, options in enumerate(({"views": 5}, {"seed": 9}, {"protocol": "common", "views": 2})):
        relabel(random_set.root, tmp_path / str(i), teacher=teacher, workers=1, **options)
        assert len(ran) == i + 1
    coarse = relabel(random_set.root, tmp_path / "int8", teacher=teacher, codec="int8", workers=1)
    assert len(ran) == 3
    relabel(coarse.root, tmp_path / "again", teacher=teacher, codec="fp16", workers=1)
    assert len(ran) == 4


def test_labels_of_a_set_that_claims_the_teacher_are_not_taken(random_set, teacher, tmp_path, monkeypatch):
    """The manifest's hash is anyone's word; and the hash of weights does not cover the order of the classes."""
    network, spec = load_checkpoint(teacher)
    with torch.no_grad():
        network.classifier.weight.copy_(network.classifier.weight.flip(0))
    other = tmp_path / "other.safetensors"
    save_checkpoint(other, network, spec)
    theirs = relabel(random_set.root, tmp_path / "theirs", teacher=str(other), workers=1)
    data = json.loads((theirs.root / "ddkit.json").read_text())
    data["teachers"][0]["hash"] = random_set.teacher.hash
    data["self"] = self_hash(data)
    (theirs.root / "ddkit.json").write_text(json.dumps(data))
    mine = relabel(theirs.root, tmp_path / "mine", teacher=teacher, codec="int8", workers=1)
    assert label_problems(mine, teacher, sample=40) == []


def test_the_effect_of_precision_travels_with_taken_labels(teacher, tmp_path):
    if not has_bfloat16(torch.device("cpu")):
        pytest.skip("this CPU has no bfloat16")
    made = ddkit.distill(
        tmp_path / "set", data="digits", method="random", ipc=2, protocol="demo", views=5, teacher=teacher,
        label_precision="bfloat16", workers=1, device="cpu",
    )  # fmt: skip
    taken = relabel(made.root, tmp_path / "taken", teacher=teacher, codec="int8", workers=1, device="cpu")
    assert taken.labels.precision_fidelity.kl_t1 == pytest.approx(made.labels.precision_fidelity.kl_t1)
    carried = relabel(made.root, tmp_path / "carried", teacher=teacher, codec="teacher", workers=1, device="cpu")
    assert carried.labels.precision == "float32"  # its labels are computed when a student trains
