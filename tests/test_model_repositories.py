"""Students and teachers as timm's model repositories: what is published, timm opens, with the same logits."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from huggingface_hub import constants

from ddkit.cli import app
from ddkit.errors import OptionError, Refused
from ddkit.format.manifest_file import read_manifest
from ddkit.networks.checkpoints import load_checkpoint, save_checkpoint
from ddkit.networks.registry import build_network
from ddkit.publishing.model_repositories import ModelDescription, push_model, student_description, timm_network
from ddkit.publishing.pushing import push
from ddkit.specs import TeacherSpec

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def plain(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)


def checkpoint(path, arch, accuracy=61.5):
    spec = TeacherSpec(
        arch=arch, num_classes=4, image_size=64, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6),
        classes=("ant", "bee", "cat", "dog"), accuracy=accuracy, measured_on="insects:test",
    )  # fmt: skip
    torch.manual_seed(0)
    save_checkpoint(path, build_network(arch, 4, 64), spec)
    return path


@pytest.mark.parametrize("arch", ["timm:resnet10t", "resnet18", "timm:vit_tiny_patch16_224"])
def test_timm_opens_what_was_published(hub, plain, tmp_path, arch):
    import timm

    path = checkpoint(tmp_path / "net.safetensors", arch)
    push_model(path, "lab/net", ModelDescription(title="A net", text="Trained here.", dataset="lab/set", license="mit"))
    model = timm.create_model("hf-hub:lab/net", pretrained=True).eval()
    ours, spec = load_checkpoint(path)
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(model(x), ours(x))
    config = timm.data.resolve_model_data_config(model)
    assert config["input_size"] == (3, 64, 64)
    assert (tuple(config["mean"]), tuple(config["std"])) == (spec.mean, spec.std)
    assert config["crop_pct"] == pytest.approx(64 / 72)
    files = hub.repos["model", "lab/net"]
    assert json.loads(files.read("config.json"))["label_names"] == ["ant", "bee", "cat", "dog"]
    card = files.read("README.md").decode()
    assert "**61.50 %** on insects:test" in card and "- lab/set" in card and "library_name: timm" in card
    hub.forget_traffic()
    push_model(path, "lab/net", ModelDescription(title="A net", text="Trained here.", dataset="lab/set", license="mit"))
    assert hub.received_bytes == 0 and not any("/commit/" in r for r in hub.requests)


def test_results_on_a_dataset_of_the_hub_are_published_for_its_leaderboard(hub, plain, tmp_path):
    import yaml
    from huggingface_hub import parse_eval_result_entries

    path = checkpoint(tmp_path / "net.safetensors", "timm:resnet10t")
    network, spec = load_checkpoint(path)
    save_checkpoint(path, network, replace(spec, measured_on="lab/insects:validation (300 images)"))
    push_model(path, "lab/net", ModelDescription(title="A net", text="Trained here."))
    text = hub.repos["model", "lab/net"].read(".eval_results/ddkit.yaml")
    (entry,) = parse_eval_result_entries(yaml.safe_load(text))
    assert (entry.dataset_id, entry.task_id, entry.value) == ("lab/insects", "validation", 61.5)
    assert "300 images" in entry.notes


UNREADABLE = [
    ("convnet3", "not a timm network"),
    ("resnet18-small", "not a timm network"),
    ("torchvision:vgg11", "differs from timm"),
]


@pytest.mark.parametrize(("arch", "words"), UNREADABLE)
def test_what_timm_cannot_open_is_refused_with_the_reason(arch, words):
    with pytest.raises(OptionError, match=words):
        timm_network(arch, 10, 32)


def test_somebody_elses_model_is_refused(hub, plain, tmp_path):
    hub.add_repo("model", "lab/theirs", {"model.safetensors": b"weights", "README.md": b"mine"})
    with pytest.raises(Refused, match="that ddkit did not push"):
        push_model(
            checkpoint(tmp_path / "n.safetensors", "timm:resnet10t"),
            "lab/theirs",
            ModelDescription(title="x", text="y"),
        )


def test_train_push_to(hub, plain, random_set, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    copy = shutil.copytree(random_set.root, tmp_path / "sent")
    push(copy, "lab/digits", license="mit")

    def run(*words):
        monkeypatch.setattr("sys.argv", ["ddkit", *words])
        return app.run(), capsys.readouterr()

    code, out = run("train", "lab/digits", "--epochs", "1", "--push-to", "lab/student")
    assert code == 2 and "convnet3-w32 is not a timm network" in out.err and not hub.repos.get(("model", "lab/student"))
    code, out = run("train", "lab/digits", "--arch", "timm:resnet10t", "--epochs", "1", "--push-to", "lab/student",
                    "--val", "digits")  # fmt: skip
    assert code == 0 and "published: " in out.out
    card = hub.repos["model", "lab/student"].read("README.md").decode()
    assert "https://huggingface.co/datasets/lab/digits" in card and "`demo+epochs=1`" in card
    assert read_manifest(copy).content[:12] in card


def test_a_student_of_an_unpublished_set(random_set):
    from types import SimpleNamespace

    job = SimpleNamespace(ipc=None, arch="timm:resnet10t", labels="stored", seed=0)
    description = student_description(random_set, job, SimpleNamespace(epochs=3, seconds=2.0), "demo")
    assert description.dataset is None and random_set.name in description.text
