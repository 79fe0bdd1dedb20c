"""From options to a run: recipes by source, the whole cost first, and the teacher's accuracy with its sample size."""

import pytest
import torch
from conftest import photograph

from ddkit.errors import TooCostly
from ddkit.pipeline import distill
from ddkit.pipeline import resolving as module
from ddkit.pipeline.record import load_record
from ddkit.specs import TeacherSpec
from ddkit.teachers.teaching import default_arch

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("data", "size", "device", "arch"),
    [
        ("digits", 32, CUDA, "convnet3"),
        ("photos", 32, CPU, "convnet3"),
        ("photos", 64, CPU, "convnet4"),
        ("photos", 128, CPU, "convnet5"),
        ("photos", 224, CPU, "convnet6"),
        ("photos", 64, CUDA, "resnet18-small"),
        ("photos", 224, CUDA, "resnet18"),
    ],
)
def test_the_default_teacher_fits_source_and_machine(data, size, device, arch):
    assert default_arch(data, size, device) == arch


def spec(accuracy, measured_on, classes=10):
    names = tuple(map(str, range(classes)))
    return TeacherSpec(
        arch="convnet3", num_classes=classes, image_size=32, classes=names, mean=(0.5,) * 3, std=(0.2,) * 3,
        hash="0" * 64, accuracy=accuracy, measured_on=measured_on,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("accuracy", "measured_on", "said", "unsaid"),
    [
        (97.0, "digits:test (355 images)", ["97.00 % on digits:test (355 images)"], ["warning"]),
        (44.0, "photos holdout (18 images)", ["44.00 % on", "only 18 images", "5.6 points"], ["near chance"]),
        (12.0, "digits:test (355 images)", ["near chance (10 %"], ["only 355"]),
        (None, None, ["accuracy not measured"], ["warning"]),
    ],
)
def test_the_teachers_accuracy_is_reported_with_its_sample_size(capsys, accuracy, measured_on, said, unsaid):
    module._report_teacher(spec(accuracy, measured_on))
    text = capsys.readouterr().err
    assert all(part in text for part in said) and not any(part in text for part in unsaid), text


@pytest.fixture(scope="module")
def two_classes(tmp_path_factory):
    root = tmp_path_factory.mktemp("source") / "photos"
    for label, name in enumerate(("ant", "bee")):
        (root / name).mkdir(parents=True)
        for i in range(8):
            photograph(10 * label + i, 40, 48).save(root / name / f"{i}.jpg")
    return root


def test_the_whole_cost_is_told_before_a_teacher_is_trained(two_classes, tmp_path, capsys, monkeypatch):
    asked = dict(data=str(two_classes), method="random", ipc=1, views=2, size=32, protocol="demo", workers=1)
    monkeypatch.setattr("ddkit.pipeline.costs.LIMIT_S", 0.0)
    with pytest.raises(TooCostly, match="yes=True"):
        distill(tmp_path / "set", **asked)
    assert "training the teacher" in capsys.readouterr().err and not (tmp_path / "set").exists()
    monkeypatch.setattr("ddkit.teachers.teaching.load_toml", quick(module_load()))
    manifest = distill(tmp_path / "set", yes=True, **asked)
    lines = capsys.readouterr().err.splitlines()
    cost = next(i for i, line in enumerate(lines) if "in all" in line)
    trained = next(i for i, line in enumerate(lines) if "once; kept in" in line)
    assert cost < trained
    assert any("only 2 images" in line for line in lines)
    assert manifest.recipe.name == "random-small" and manifest.teacher.where == "train:convnet3"
    assert load_record(tmp_path / "set").teacher == "train:convnet3"


def module_load():
    from ddkit.teachers.teaching import load_toml

    return load_toml


def quick(load):
    """Teacher recipes of one epoch: how long a training takes is not what is tested."""

    def one_epoch(*arguments):
        name, table = load(*arguments)
        return name, table | {"epochs": 1, "min_steps": 0}

    return one_epoch
