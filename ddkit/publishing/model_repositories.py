"""Publishes students and teachers on the Hub as timm model repositories: weights, config, card."""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from ddkit import __version__, hub
from ddkit.core.front_matter import LARGEST_CARD
from ddkit.errors import OptionError, Refused, TeacherError, first_few
from ddkit.format.manifest import Manifest
from ddkit.networks.checkpoints import load_checkpoint
from ddkit.networks.registry import check_network
from ddkit.publishing.pictures import dataset_name, title
from ddkit.publishing.pushing import Changes, commit_changes
from ddkit.publishing.rendering import card_text, citation, front_matter_text
from ddkit.publishing.templates import MODEL_CARD, render_template
from ddkit.publishing.user_content import user_content_of
from ddkit.specs import TeacherSpec
from ddkit.students.training import StudentJob, StudentResult

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
_FRONT_KEYS = {"license", "library_name", "pipeline_tag", "tags", "datasets", "metrics", "model-index"}


@dataclass(frozen=True, kw_only=True)
class ModelDescription:
    """Text of a model's card that its checkpoint does not hold.

    Attributes:
        title: Title of the card.
        text: How the model was trained.
        details: Rows of the card's table.
        dataset: Hub id of the dataset it was trained on, or None.
        method: Method whose paper is cited.
        license: Identifier of the licence on the Hub.
    """

    title: str
    text: str
    details: Mapping[str, str] = field(default_factory=dict)
    dataset: str | None = None
    method: str = "ddkit"
    license: str | None = None


def student_description(manifest: Manifest, job: StudentJob, result: StudentResult, protocol: str) -> ModelDescription:
    """Return the card text of a student: the set it was trained on, and how.

    Args:
        manifest: The set.
        job: The student.
        result: Its result.
        protocol: Label of the protocol.
    """
    rows, where, teacher = manifest.rows(job.ipc), manifest.repo, manifest.teacher
    named = f"[{where}](https://huggingface.co/datasets/{where})" if where else f"`{manifest.name}`"
    known = f", {teacher.accuracy} %" if teacher.accuracy is not None else ""
    details = {
        "trained on": f"{named}, {rows} images, content `{manifest.content[:12]}`",
        "protocol": f"`{protocol}`, {job.labels} labels; teacher {teacher.arch}{known}",
        "training": f"{result.epochs} epochs, {result.seconds:.0f} s, seed {job.seed}",
    }
    return ModelDescription(
        title=f"{job.arch} · {title(manifest)}",
        text=f"Trained from scratch on the {rows} images of {named} alone.",
        details=details,
        dataset=where,
        method=manifest.method,
        license=manifest.license.id if manifest.license else None,
    )


def teacher_description(spec: TeacherSpec, source: str) -> ModelDescription:
    """Return the card text of a teacher.

    Args:
        spec: The teacher.
        source: Its source, a path or Hub id.
    """
    online = hub.parse_id(source)
    name = dataset_name(online[0] if online else Path(source).name)
    return ModelDescription(
        title=f"{spec.arch} · {name}",
        text=f"Trained on {name}, as a teacher for dataset distillation.",
        dataset=online[0] if online else None,
    )


def timm_network(arch: str, classes: int, size: int) -> tuple[str, nn.Module]:
    """Return timm's name of a ddkit network, and the network; ResNets of torchvision have the same tensors in timm.

    Args:
        arch: The network as ddkit names it.
        classes: Number of classes.
        size: Side of the input, pixels.

    Raises:
        OptionError: timm has no such network, or builds it differently.
    """
    import timm

    library, _, tag = arch.rpartition(":")
    name = tag.partition(".")[0]
    advice = "train with --arch timm:NAME (`timm.list_models()`), or publish the checkpoint yourself"
    if not timm.is_model(name):
        raise OptionError(f"{arch} is not a timm network, so timm.create_model could not open it; {advice}")
    network = check_network(f"timm:{name}", classes, size)
    if library != "timm":
        ours = {key: value.shape for key, value in check_network(arch, classes, size).state_dict().items()}
        if ours != {key: value.shape for key, value in network.state_dict().items()}:
            raise OptionError(f"{arch} differs from timm's {name}, which cannot load its weights; {advice}")
    return name, network


def check_model(arch: str | None, classes: int, size: int, repo: str) -> None:
    """Check before a training that its result can be published.

    Args:
        arch: The network; None if it is not known yet (fine-tuning).
        classes: Number of classes.
        size: Side of the input, pixels.
        repo: "ORG/NAME" on the Hub.

    Raises:
        OptionError, HubAccess.
    """
    hub.check_repo(repo)
    if arch is not None:
        timm_network(arch, classes, size)
    hub.whoami(repo)


def push_model(checkpoint: str | Path, repo: str, description: ModelDescription, *, private: bool = False) -> str:
    """Publish a checkpoint as a model repository, in one commit; a second call sends only changed files.

    `timm.create_model("hf-hub:ORG/NAME", pretrained=True)` opens the model.

    Args:
        checkpoint: The checkpoint.
        repo: "ORG/NAME" on the Hub.
        description: Text of the card.
        private: Make a new repository private.

    Returns:
        The address of the repository.

    Raises:
        OptionError: Not a timm network.
        Refused: The repository holds a model that is not ddkit's.
        TeacherError, HubAccess, HubError.
    """
    hub.check_repo(repo)
    ours, spec = load_checkpoint(checkpoint)
    name, network = timm_network(spec.arch, spec.num_classes, spec.image_size)
    try:
        network.load_state_dict(ours.state_dict())
    except RuntimeError as error:
        raise TeacherError(f"{checkpoint} does not fit timm's {name}: {str(error).splitlines()[0]}") from error
    there = hub.find(repo, kind="model") or hub.Remote(None, {})
    theirs = None
    if CARD in there.files:
        theirs = card_text(hub.fetch(repo, CARD, revision=there.head, kind="model", most=LARGEST_CARD))
    if WEIGHTS in there.files and "ddkit:start" not in (theirs or ""):
        raise Refused(f"{repo} holds a model that ddkit did not push; choose another name")
    weights = Path(checkpoint)
    files: dict[str, hub.Content] = {
        WEIGHTS: weights,
        CONFIG: _config(network, spec),
        CARD: _card(name, spec, repo, description, theirs).encode(),
        **_eval_results(spec),
    }
    hashes = {path: hashlib.sha256(_read(content)).hexdigest() for path, content in files.items()}

    def changes(there: hub.Remote) -> Changes:
        add = {p: c for p, c in files.items() if not hub.same(c, hashes[p], there.files.get(p))}
        return Changes(add, [])

    if there.public is None:
        hub.create(repo, private=private, kind="model")
    commit_changes(changes, repo, None, f"ddkit: {description.title}", kind="model")
    return hub.url(repo, "model")


def _eval_results(spec: TeacherSpec) -> dict[str, hub.Content]:
    """Return the file of evaluation results, if the network was measured on a dataset of the Hub."""
    found = re.fullmatch(r"([\w.-]+/[\w.-]+)(?:@[\w.-]+)?:(\S+) \((\d+) images\)", spec.measured_on or "")
    if found is None or spec.accuracy is None:
        return {}
    dataset, split, images = found.groups()
    notes = f"top-1 accuracy in percent after the last epoch, {images} images; ddkit {__version__}"
    return {hub.EVAL_RESULTS: hub.eval_results(dataset, split, spec.accuracy, notes)}


def _read(content: hub.Content) -> bytes:
    return content if isinstance(content, bytes) else content.read_bytes()


def _config(network: nn.Module, spec: TeacherSpec) -> bytes:
    """Return timm's config.json of the network: architecture, classes, preprocessing."""
    from timm.models import save_for_hf

    transform = spec.transform
    prepared = {
        "input_size": (3, spec.image_size, spec.image_size),
        "mean": spec.mean,
        "std": spec.std,
        "interpolation": "bilinear",
        "crop_pct": transform.crop / transform.resize,
        "crop_mode": "center",
        "num_classes": spec.num_classes,
    }
    labels = {"label_names": list(spec.classes)}
    with tempfile.TemporaryDirectory() as folder:
        save_for_hf(network, folder, model_config={"pretrained_cfg": prepared} | labels, safe_serialization=True)
        config = json.loads((Path(folder) / CONFIG).read_text())
    other_weights = ("test_input_size", "test_crop_pct", "origin_url", "paper_ids", "paper_name", "notes", "license")
    config["pretrained_cfg"] = {k: v for k, v in config["pretrained_cfg"].items() if k not in (*other_weights, "tag")}
    return (json.dumps(config, indent=2, sort_keys=True) + "\n").encode()


def _card(name: str, spec: TeacherSpec, repo: str, description: ModelDescription, theirs: str | None) -> str:
    user_content = user_content_of(theirs, lambda matter: {k: v for k, v in matter.items() if k not in _FRONT_KEYS})
    front: dict[str, Any] = {"license": description.license} if description.license else {}
    front |= {
        "library_name": "timm",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "timm", "dataset-distillation", "ddkit"],
        "metrics": ["accuracy"],
    }
    if description.dataset:
        front["datasets"] = [description.dataset]
    if spec.accuracy is not None:
        data = {"name": spec.measured_on, "type": description.dataset or "other"}
        metric = {"type": "accuracy", "value": spec.accuracy, "name": "accuracy, %"}
        task = {"type": "image-classification"}
        front["model-index"] = [{"name": repo, "results": [{"task": task, "dataset": data, "metrics": [metric]}]}]
    details = {
        "front_matter": front_matter_text(front | user_content.matter),
        "user_content": user_content,
        "title": description.title,
        "description": description.text,
        "details": description.details,
        "repo": repo,
        "architecture": name,
        "accuracy": spec.accuracy,
        "measured_on": spec.measured_on,
        "num_classes": spec.num_classes,
        "classes": first_few(spec.classes, 10),
        "size": spec.image_size,
        "resize": spec.transform.resize,
        "mean": spec.mean,
        "std": spec.std,
        "hash": spec.hash,
        "version": __version__,
        "citation": citation(description.method),
    }
    return render_template(MODEL_CARD, details)
