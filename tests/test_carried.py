"""A set that carries its teacher: the network in half precision, cut to the set's classes, gives the labels."""

import shutil

import pytest
import torch

import ddkit
from ddkit.errors import IntegrityError, SetError
from ddkit.pipeline import relabel
from ddkit.pipeline.relabelling import label_problems
from ddkit.teachers.carried import load_carried
from ddkit.teachers.teacher import Teacher


@pytest.fixture(scope="module")
def carrying(random_set, teacher, tmp_path_factory):
    out = tmp_path_factory.mktemp("carried") / "set"
    return relabel(random_set.root, out, teacher=teacher, codec="teacher", views=3, workers=1)


def test_it_gives_the_labels_of_its_teacher(carrying, teacher, capsys):
    loader = ddkit.ReplayLoader(carrying.root, batch_size=8)
    assert "computed by the set's own teacher" in capsys.readouterr().err
    original = Teacher.load(teacher, torch.device("cpu"))
    for images, logits, _ in loader:
        assert logits.shape == (len(images), 10)
        wanted = original.logits(images)
        wanted = wanted - wanted.mean(1, keepdim=True)
        assert torch.allclose(logits - logits.mean(1, keepdim=True), wanted, atol=1e-2)
    assert carrying.labels.fidelity.top1_agreement > 0.9 and label_problems(carrying, teacher, sample=20) == []


def test_it_weighs_two_bytes_a_weight_and_no_label_is_stored(carrying, teacher):
    numbers = sum(t.numel() for t in Teacher.load(teacher, torch.device("cpu")).network.state_dict().values())
    assert 2 * numbers <= carrying.labels.file.bytes <= 2 * numbers + 10_000
    assert ddkit.verify(carrying.root) == []


def test_another_order_of_classes_is_that_of_its_last_layer(teacher, tmp_path):
    order = [7, 2, 4, 0, 1, 3, 5, 6, 9, 8]
    made = ddkit.distill(
        tmp_path / "set", data="digits", classes=",".join(map(str, order)), method="random", ipc=2, views=2,
        protocol="demo", teacher=teacher, codec="teacher", workers=1,
    )  # fmt: skip
    carried = load_carried(made, torch.device("cpu"))
    assert carried.spec.classes == tuple(map(str, order)) and carried.spec.num_classes == 10
    images, logits, _ = next(iter(ddkit.ReplayLoader(made.root, batch_size=6)))
    whole = Teacher.load(teacher, torch.device("cpu")).logits(images)[:, order]
    assert torch.allclose(logits, whole, atol=1e-2)


def test_damage_and_a_dataset_alone_are_refused(carrying, tmp_path):
    import datasets

    with pytest.raises(SetError, match="pass manifest="):
        ddkit.ReplayLoader(datasets.load_dataset(str(carrying.root), split="train"), batch_size=4)
    root = shutil.copytree(carrying.root, tmp_path / "set")
    path = root / "teacher.safetensors"
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(bytes(data))
    assert ddkit.verify(root) == ["teacher.safetensors differs from the manifest"]
    with pytest.raises(IntegrityError, match=r"teacher\.safetensors differs"):
        ddkit.ReplayLoader(root, batch_size=4)
