"""DD-Ranking's scores from results of `evaluate`, and a set in the layout that DD-Ranking reads.

Scores are computed from accuracies as fractions, from 0 to 1, as DD-Ranking's documentation defines them. Its code is
given percent, so its numbers leave the range of the definition.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import save

from ddkit.core.files import write_bytes
from ddkit.core.serialization import canonical, to_plain
from ddkit.errors import SetError
from ddkit.format.manifest import Manifest
from ddkit.format.measurements import Measurement, read_measurements
from ddkit.format.results import ResultEntry, baseline_entry
from ddkit.format.view_pixels import normalise
from ddkit.networks.registry import IMAGENET_MEAN, IMAGENET_STD
from ddkit.pipeline.record import work_dir
from ddkit.replay.loader import ReplayLoader
from ddkit.replay.stores.memory import load_set
from ddkit.sets.opening import open_set
from ddkit.sources.exporting import all_or_nothing, export

WEIGHT = 0.5  # w of LRS and gamma of ARS
CIFAR = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)  # DD-Ranking's mean and standard deviation
DATASETS = {
    "cifar100": ("CIFAR100", 100),
    "cifar10": ("CIFAR10", 10),
    "tinyimagenet": ("TinyImageNet", 200),
    "imagenette": ("ImageNette", 10),
    "imagewoof": ("ImageWoof", 10),
    "imagenet": ("ImageNet1K", 1000),
}  # part of a source's id -> DD-Ranking's name and number of classes
KINDS = {"convnet": "ConvNet", "resnet": "ResNet"}
FOLDER, TENSORS, PRESET, SCORES = "images", "tensors.safetensors", "preset.yaml", "scores.json"


@dataclass(frozen=True, kw_only=True)
class DDRankingScores:
    """DD-Ranking's scores of one row of results; None where a row that a score needs was not measured.

    Attributes:
        arch, protocol, ipc: Of the row.
        hlr: Hard label recovery: accuracy of full data minus that of the set, both with hard labels. Lower is better.
        ior: Improvement over random: accuracy of the set minus that of random images with the same kind of labels.
        lrs: Label robust score, from 0 to 1; higher is better.
        ars: Augmentation robust score, from 0 to 1; higher is better.
        missing: What was not measured, with the option that measures it.
    """

    arch: str
    protocol: str
    ipc: int
    hlr: float | None
    ior: float | None
    lrs: float | None
    ars: float | None
    missing: tuple[str, ...]


def label_robust_score(hlr: float, ior: float, weight: float = WEIGHT) -> float:
    """Return LRS = (e^a - e^-1) / (e - e^-1) with a = weight * IOR - (1 - weight) * HLR.

    Args:
        hlr: Hard label recovery, a difference of fractions.
        ior: Improvement over random, a difference of fractions.
        weight: From 0 to 1.
    """
    return _normalised(weight * ior - (1 - weight) * hlr)


def augmentation_robust_score(augmented: float, plain: float, gamma: float = WEIGHT) -> float:
    """Return ARS = (e^b - e^-1) / (e - e^-1) with b = gamma * augmented + (1 - gamma) * plain.

    Args:
        augmented: Accuracy of the set minus that of random images, as fractions, both trained with augmentation.
        plain: The same without augmentation.
        gamma: From 0 to 1.
    """
    return _normalised(gamma * augmented + (1 - gamma) * plain)


def _normalised(value: float) -> float:
    return (math.exp(value) - math.exp(-1)) / (math.e - math.exp(-1))


def ddranking_scores(
    results: Sequence[ResultEntry], measurements: Sequence[Measurement] = (), plain: Sequence[ResultEntry] = ()
) -> list[DDRankingScores]:
    """Return the scores of every row of a set's own with soft labels.

    Args:
        results: Results of `evaluate`.
        measurements: Measurements; top-1 accuracies of networks trained on the whole source are taken from them.
        plain: Results of the same networks under a protocol without augmentation, for ARS.
    """
    scores = []
    for ours in results:
        if ours.of != "this" or ours.labels == "hard" or _beside_stored(ours, results):
            continue
        hard, random = baseline_entry(ours, "hard", results), baseline_entry(ours, "random", results)
        full = _full_accuracy(ours, results, measurements)
        missing = []
        if hard is None:
            missing.append("the set with hard labels (--baseline hard)")
        if random is None:
            missing.append("random images (--baseline random)")
        if full is None:
            missing.append(f"{ours.arch} trained on the whole source (--baseline full)")
        hlr = None if hard is None or full is None else (full - hard.mean) / 100
        ior = None if random is None else (ours.mean - random.mean) / 100
        lrs = None if hlr is None or ior is None else label_robust_score(hlr, ior)
        without = _plain_difference(ours, plain)
        if without is None:
            missing.append("a protocol without augmentation")
        ars = None if ior is None or without is None else augmentation_robust_score(ior, without)
        scores.append(
            DDRankingScores(
                arch=ours.arch,
                protocol=ours.protocol,
                ipc=ours.ipc,
                hlr=hlr,
                ior=ior,
                lrs=lrs,
                ars=ars,
                missing=tuple(missing),
            )  # fmt: skip
        )
    return scores


def _beside_stored(ours: ResultEntry, results: Sequence[ResultEntry]) -> bool:
    """Return whether a row of online labels is a baseline: the same students were also trained on stored ones."""
    alike = [row for row in results if row.of == "this" and row.labels in ("stored", "relabelled")]
    mine = (ours.arch, ours.protocol, ours.ipc, ours.val)
    return ours.labels == "online" and any((row.arch, row.protocol, row.ipc, row.val) == mine for row in alike)


def _full_accuracy(
    ours: ResultEntry, results: Sequence[ResultEntry], measurements: Sequence[Measurement]
) -> float | None:
    """Return the accuracy, in percent, of the row's network trained on the whole source, the teacher's if it is one."""
    for one in measurements:
        top1 = one.measure == "accuracy" and one.metric == "top-1"
        if top1 and one.of == "full" and one.arch == ours.arch and one.val == ours.val:
            return one.mean
    for row in results:
        if row.of in ("full", "teacher") and row.arch == ours.arch and row.val == ours.val:
            return row.mean
    return None


def _plain_difference(ours: ResultEntry, plain: Sequence[ResultEntry]) -> float | None:
    for row in plain:
        if row.of == "this" and row.arch == ours.arch and row.ipc == ours.ipc and row.labels == ours.labels:
            random = baseline_entry(row, "random", plain)
            return None if random is None else (row.mean - random.mean) / 100
    return None


def dataset_name(source: str, classes: int) -> str:
    """Return DD-Ranking's name of a dataset, or the source's own where it has none.

    Args:
        source: Id of the source.
        classes: Its number of classes; a part of a dataset is not that dataset.
    """
    plain = re.sub("[^a-z0-9]", "", source.lower())
    return next((name for word, (name, n) in DATASETS.items() if word in plain and n == classes), source)


def network_name(arch: str) -> str:
    """Return DD-Ranking's name of a network: its own ones end in -BN where they have BatchNorm.

    It has no name for ConvNets of other widths than 128, whose own name is returned.

    Args:
        arch: Name of the network.
    """
    own = re.fullmatch(r"(convnet|resnet)(\d+)(-in)?(-small)?", arch)
    if own is None:
        return arch.rpartition(":")[2]  # torchvision's and timm's by their own names
    kind, depth, instance_norm, _ = own.groups()
    return f"{KINDS[kind]}-{depth}" + ("" if instance_norm else "-BN")


def export_ddranking(directory: str | Path, out: str | Path) -> Path:
    """Write a set in the layout that DD-Ranking reads: class folders, tensors, a preset, and its scores.

    `images/` has zero-padded class folders, whose order is the label order, with the encoded images.
    `tensors.safetensors` has `images`, float32 [C * IPC,3,S,S], class by class and normalised as DD-Ranking does it for
    the dataset, `labels`, int64, and `logits`, float32, of the first stored view of each image. DD-Ranking's own files
    are pickles of the same tensors; `preset.yaml` says how they are made from these.

    Args:
        directory: The set: a directory, or a Hub id.
        out: A new or empty folder. It is complete at the end, or does not exist.

    Returns:
        The folder.

    Raises:
        OtherRun: `out` is not empty.
        SetError, IntegrityError, DiskError.
    """
    out = Path(out)
    manifest = open_set(directory)
    store = load_set(manifest, with_labels=False)
    if len(set(np.bincount(store.labels).tolist())) != 1:
        raise SetError(f"{manifest.where} has not equally many images of each class, which DD-Ranking needs")
    order = np.argsort(store.labels, kind="stable")
    mean, std = CIFAR if "cifar" in manifest.source.id.lower() else (IMAGENET_MEAN, IMAGENET_STD)
    tensors = {
        "images": normalise(store.images[order], mean, std).contiguous(),
        "labels": torch.from_numpy(store.labels[order]),
        "logits": _first_logits(manifest)[order].contiguous(),
    }
    measured = read_measurements(work_dir(manifest.root))
    scores = ddranking_scores(manifest.results, measured.measurements if measured else manifest.measurements)
    text = canonical({"accuracies": "fractions from 0 to 1", "scores": [to_plain(one) for one in scores]})
    with all_or_nothing(out) as unfinished:
        export(str(manifest.root), unfinished / FOLDER, as_="folder")
        write_bytes(unfinished / TENSORS, save(tensors))
        write_bytes(unfinished / PRESET, yaml.safe_dump(_preset(manifest, mean, std), sort_keys=False).encode())
        write_bytes(unfinished / SCORES, (text + "\n").encode())
    return out


def _first_logits(manifest: Manifest) -> torch.Tensor:
    """Return the teacher's logits of view 0 of every row, float32 [n,C], in row order."""
    loader = ReplayLoader(manifest.root, batch_size=min(manifest.rows(), 256), device="cpu", batch="dict")
    found = torch.empty(manifest.rows(), len(manifest.classes))
    for batch in loader:  # epoch 0 replays view 0
        found[batch["rows"]] = batch["teacher_logits"].float().cpu()
    return found


def _preset(manifest: Manifest, mean: Sequence[float], std: Sequence[float]) -> dict[str, Any]:
    """Return settings for DD-Ranking's `LabelRobustScoreSoft` with labels by the teacher during training (mode M)."""
    return {
        "dataset": dataset_name(manifest.source.id, len(manifest.classes)), "ipc": manifest.ipc,
        "im_size": [manifest.image.size] * 2, "model_name": network_name(manifest.recommended.arch),
        "soft_label_mode": "M", "soft_label_criterion": "kl",
        "loss_fn_kwargs": {"temperature": 20.0, "scale_loss": False}, "optimizer": "adamw",
        "lr_scheduler": "cosine", "weight_decay": 0.01, "num_epochs": 300, "num_eval": 5, "data_aug_func": "cutmix",
        "normalisation": {"mean": list(mean), "std": list(std)},
        "make_pickles": (
            "t = safetensors.torch.load_file('tensors.safetensors'); torch.save(t['images'], 'images.pt'); "
            "torch.save(t['logits'], 'labels.pt')"
        ),
    }  # fmt: skip
