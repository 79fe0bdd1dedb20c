"""Accuracy of students of other architectures than the one that the set was made with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ddkit.evaluation.measures.interface import Asked, Context, MeasuredSet, Metric, Row, StudentRequest

NAME = "cross-architecture"
PAPER = "CUDD Table II and Fig. 3; RDED Table 4"
COST = "trains a student of every architecture and seed"
SUBJECT = "set"
NEEDS = ("student", "validation")
METRICS = (
    Metric(name="mean", title="mean top-1 accuracy over architectures", unit="%", better="higher"),
    Metric(name="worst", title="lowest top-1 accuracy of an architecture", unit="%", better="higher"),
    Metric(name="top-1", title="top-1 accuracy of an architecture", unit="%", better="higher"),
)
SMALL = 64  # pixels, up to which the small networks are used
SMALL_NETWORKS = ("convnet3", "resnet18-small", "timm:mobilenetv2_050", "timm:regnetx_002")
# CUDD Fig. 3 (DeiT-T, Swin-T, ConvNeXt-T, DenseNet-121, EfficientNet-V2, MobileNet-V2, RegNet, ShuffleNet-V2, ResMLP,
# Mixer) and Table II (ResNet-18, -50, -101)
LARGE_NETWORKS = (
    *("resnet18", "resnet50", "resnet101", "timm:deit_tiny_patch16_224", "timm:swin_tiny_patch4_window7_224"),
    *("timm:convnext_tiny", "torchvision:densenet121", "timm:tf_efficientnetv2_s", "torchvision:mobilenet_v2"),
    *("torchvision:regnet_y_8gf", "torchvision:shufflenet_v2_x0_5", "timm:resmlp_12_224", "timm:mixer_b16_224"),
)


@dataclass(frozen=True)
class Config:
    """Settings of the measure.

    Attributes:
        archs: The architectures; none: SMALL_NETWORKS up to 64 pixels, else LARGE_NETWORKS.
    """

    archs: tuple[str, ...] = ()


def students(asked: Asked) -> Sequence[StudentRequest]:
    """Return one request for each architecture.

    Args:
        asked: The set and the settings.
    """
    default = SMALL_NETWORKS if asked.manifest.views.size <= SMALL else LARGE_NETWORKS
    return [StudentRequest(arch=arch, tag=arch) for arch in asked.config.archs or default]


def measure(subject: MeasuredSet, context: Context) -> Iterator[Row]:
    """Yield the top-1 accuracy of every architecture and seed, and their mean and minimum for each seed.

    Args:
        subject: The set, with the requested students.
        context: With the validation images.
    """
    labels = context.validation()[1]
    by_seed: dict[int, list[float]] = {}
    for network in subject.networks:
        accuracy = context.accuracy(network)
        by_seed.setdefault(network.seed, []).append(accuracy)
        yield Row("top-1", accuracy, network.arch, n=len(labels), seed=network.seed)
    for seed, accuracies in by_seed.items():
        yield Row("mean", sum(accuracies) / len(accuracies), n=len(labels), seed=seed)
        yield Row("worst", min(accuracies), n=len(labels), seed=seed)
