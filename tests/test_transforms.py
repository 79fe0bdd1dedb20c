"""Trained networks used from Python: the evaluation transform, and students on photographs."""

import numpy as np
import pytest
import torch
from conftest import photograph
from PIL import Image

import ddkit
from ddkit.errors import OptionError, TeacherError
from ddkit.networks.registry import forward
from ddkit.students.transforms import eval_transform


def test_a_student_names_the_classes_of_a_photograph(teacher):
    student = ddkit.load_student(teacher)
    image = photograph(0, 50, 70)
    answer = student(image, top=3)
    logits = forward(student.network, student.transform(image)[None])[0]
    assert [name for name, _ in answer] == [student.classes[i] for i in logits.topk(3).indices.tolist()]
    assert sorted((p for _, p in answer), reverse=True) == [p for _, p in answer]
    assert sum(p for _, p in student(image, top=99)) == pytest.approx(1, abs=1e-5)


def test_pil_images_of_any_mode_and_tensors_are_prepared_alike(teacher):
    transform = ddkit.load_student(teacher).transform
    image = photograph(1, 40, 64)
    tensor = torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())
    assert torch.equal(transform(image), transform(tensor))
    assert transform(Image.fromarray(np.zeros((9, 12), np.uint8), "L")).shape == (3, 32, 32)


def test_the_transform_of_a_set_is_its_teachers(rded_set):
    found = eval_transform(ddkit.ReplayLoader(rded_set.root, batch_size=8))
    assert found == eval_transform(rded_set) and found.mean == rded_set.normalisation.mean


def test_a_loader_without_a_manifest_and_a_file_that_is_no_network_are_refused(rded_set, tmp_path):
    rows = ddkit.ReplayLoader(rded_set.root, batch_size=8)
    rows._manifest = None
    with pytest.raises(OptionError, match="manifest="):
        eval_transform(rows)
    with pytest.raises(TeacherError, match="no checkpoint"):
        ddkit.load_student(tmp_path / "nothing.safetensors")
