"""The frozen teacher: classes in the source's order, and one checkpoint loaded once until it changes."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ddkit.errors import TeacherError
from ddkit.networks.checkpoints import load_checkpoint, save_checkpoint
from ddkit.pipeline import distill
from ddkit.teachers.teacher import Teacher
from ddkit.testing import untrained_teacher

CPU = torch.device("cpu")


@pytest.fixture
def checkpoint(tmp_path):
    return untrained_teacher(tmp_path / "teacher.safetensors")


def with_other_normalisation(path):
    network, spec = load_checkpoint(path)
    save_checkpoint(path, network, replace(spec, mean=(0.1, 0.2, 0.3)))


def test_a_checkpoint_is_loaded_once_and_again_after_it_has_changed(checkpoint):
    first = Teacher.shared(checkpoint, CPU)
    assert Teacher.shared(checkpoint, CPU) is first
    with_other_normalisation(checkpoint)
    again = Teacher.shared(checkpoint, CPU)
    assert again.spec.mean == (0.1, 0.2, 0.3) and again.spec.hash == first.spec.hash
    with pytest.raises(TeacherError, match="no checkpoint"):
        Teacher.shared(checkpoint.with_name("nothing.safetensors"), CPU)


def test_worker_processes_see_that_a_teacher_has_changed(checkpoint, tmp_path):
    def content(name, workers):
        return distill(
            tmp_path / name, data="digits", method="rded", settings={"pool": 4, "crops": 2}, ipc=1, protocol="demo",
            views=2, teacher=str(checkpoint), workers=workers,
        ).content  # fmt: skip

    before = content("before", 2)  # the workers stay, with this teacher loaded
    with_other_normalisation(checkpoint)
    assert content("two", 2) == content("one", 1) != before


def test_logits_are_in_the_order_of_the_source(checkpoint):
    plain = Teacher.load(checkpoint, CPU)
    order = np.random.default_rng(0).permutation(10)
    moved = Teacher.load(checkpoint, CPU, tuple(order.tolist()))
    inputs = plain.normalise(torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8))
    assert torch.equal(moved.logits(inputs), plain.logits(inputs)[:, order])
    assert not any(p.requires_grad for p in plain.network.parameters()) and not plain.network.training


def test_features_are_what_the_last_layer_reads(checkpoint):
    teacher = Teacher.load(checkpoint, CPU)
    inputs = torch.randn(2, 3, 32, 32)
    last = [m for m in teacher.network.modules() if isinstance(m, torch.nn.Linear)][-1]
    assert torch.allclose(last(teacher.features(inputs)), teacher.logits(inputs), atol=1e-5)
