"""Every example runs, from its own text, and is short. Those whose library is not installed are skipped."""

import gc
import runpy
import shutil
import sys
from pathlib import Path

import pytest
import timm

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture
def example(random_set, tmp_path, monkeypatch, capsys):
    """Run an example on a tiny set in an empty folder; returns what it printed."""

    def run(name, *arguments, of=None):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [name, of or str(random_set.root), *arguments])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        gc.collect()
        return capsys.readouterr().out

    return run


def test_examples_are_short():
    for path in EXAMPLES.glob("*.py"):
        assert len(path.read_text().splitlines()) <= 40, path


def test_plain_pytorch(example, tmp_path):
    assert "epoch 1: loss" in example("plain_pytorch.py", "--epochs", "1") and (tmp_path / "student.pt").is_file()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_webdataset_rows(example):  # webdataset leaves its files open
    lines = example("webdataset_rows.py").splitlines()
    assert [line.split(":")[0] for line in lines] == [f"{row:08d}" for row in range(20)]
    assert all("4 views" in line for line in lines)


def test_webdataset_training(example, tmp_path):
    assert "epoch 1: loss" in example("webdataset_training.py", "--epochs", "1") and (tmp_path / "student.pt").is_file()


def test_timm_distillation_task(example, tmp_path):
    assert "epoch 1: loss" in example("timm_distillation_task.py", "--epochs", "1", "--model", "test_resnet")


def test_timm_short_loop(example, tmp_path):
    assert "epoch 1: loss" in example("timm_short_loop.py", "--epochs", "1")
    timm.create_model("resnet10t", num_classes=10, checkpoint_path=str(tmp_path / "student.safetensors"))


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # lightning 2.6 with torch 2.15
@pytest.mark.filterwarnings("ignore:The `srun` command is available")
def test_lightning_student(example, tmp_path):
    pytest.importorskip("lightning")
    example("lightning_student.py", "--epochs", "1")
    assert (tmp_path / "student.ckpt").is_file()


def test_accelerate_ddp(example, tmp_path):
    pytest.importorskip("accelerate")
    assert "epoch 1: loss" in example("accelerate_ddp.py", "--epochs", "1")
    assert (tmp_path / "student" / "model.safetensors").is_file()


def test_transformers_vit(example, tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    assert "train_loss" in example("transformers_vit.py", "--epochs", "1")
    student = transformers.ViTForImageClassification.from_pretrained(tmp_path / "student")
    assert student.config.id2label[7] == "7"


@pytest.mark.filterwarnings(
    "ignore:Use 'content=:DeprecationWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
    "ignore::ResourceWarning",
)
def test_publish_your_own_from_its_own_text(hub, random_set, example, tmp_path, monkeypatch, capsys):
    """The commands that publish and train are run as they stand there; those before are read by the command line."""
    from huggingface_hub import constants
    from typer.main import get_command

    from ddkit.cli import app

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.chdir(tmp_path)
    text = (EXAMPLES / "publish_your_own.md").read_text().replace("YOUR_NAME", "ann")
    lines = text.split("```bash\n")[1].split("```")[0].splitlines()
    assert [line.split()[1] for line in lines] == ["distill", "evaluate", "push", "push", "train"]
    for line in lines[:2]:
        command = get_command(app.app).commands[line.split()[1]]
        command.make_context(line.split()[1], line.split()[2:])
    shutil.copytree(random_set.root, tmp_path / "mine")
    for line in lines[2:]:
        extra = ["--epochs", "1"] if line.split()[1] == "train" else []
        monkeypatch.setattr(sys, "argv", [*line.split(), *extra])
        assert app.run() == 0, capsys.readouterr().err
    assert ("dataset", "ann/mine") in hub.repos
    assert len(example("webdataset_rows.py", of="ann/mine").splitlines()) >= 20
    assert "epoch 1: loss" in example("plain_pytorch.py", "--epochs", "1", of="ann/mine")
