"""Class-incremental learning: students of the classes so far, trained on the set's images of these classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ddkit.core.seeds import rng
from ddkit.errors import OptionError, SetError
from ddkit.evaluation.measures.interface import Asked, Context, MeasuredSet, Metric, Row, StudentRequest
from ddkit.format.manifest import Manifest

NAME = "continual"
PAPER = "CUDD Fig. 5 (5 random steps of 200 classes, cumulative); Prabhu et al. 2020 (GDumb)"
COST = "trains a student for every step and seed"
SUBJECT = "set"
NEEDS = ("student", "validation")
METRICS = (
    Metric(name="mean", title="mean top-1 accuracy over the steps", unit="%", better="higher"),
    Metric(name="last", title="top-1 accuracy after the last step", unit="%", better="higher"),
    Metric(name="top-1", title="top-1 accuracy on the classes so far", unit="%", better="higher"),
)


@dataclass(frozen=True)
class Config:
    """Settings of the measure.

    Attributes:
        steps: Number of steps, for a set whose views are not mixed; a set made with `--mix-within` has one step for
            each mixing group.
        seed: Seed of the choice of classes, likewise.
    """

    steps: int = 5
    seed: int = 0


def class_steps(manifest: Manifest, config: Config) -> list[tuple[int, ...]]:
    """Return the label indices of the classes that each step adds.

    Args:
        manifest: The set.
        config: The settings.

    Raises:
        SetError: Views are mixed with images of any class, so that a step would see later classes.
        OptionError: There are more steps than classes.
    """
    groups, classes = manifest.views.mix_groups, len(manifest.classes)
    if groups is not None:
        return [tuple(np.flatnonzero(np.array(groups) == group).tolist()) for group in sorted(set(groups))]
    if manifest.views.policy.mix != "none":
        raise SetError(
            f"{manifest.where}: views are mixed with images of all classes, so the first step would see the last one; "
            f"make a set with mixing groups: ddkit relabel {manifest.where} OUT --teacher T "
            f"--mix-within {config.steps}x{classes // config.steps}:SEED"
        )
    if not 1 <= config.steps <= classes:
        raise OptionError(
            f"continual.steps is {config.steps}; give a number from 1 to {classes}, the number of classes"
        )
    order = rng(config.seed, "continual").permutation(classes)
    return [tuple(sorted(part.tolist())) for part in np.array_split(order, config.steps)]


def students(asked: Asked) -> Sequence[StudentRequest]:
    """Return one request for each step: a student of all classes so far, from new initial weights.

    Args:
        asked: The set and the settings.
    """
    steps = class_steps(asked.manifest, asked.config)
    seen = [sum(steps[: i + 1], ()) for i in range(len(steps))]
    return [StudentRequest(classes=classes, tag=f"step {i + 1}") for i, classes in enumerate(seen)]


def measure(subject: MeasuredSet, context: Context) -> Iterator[Row]:
    """Yield the accuracy after each step, on the validation images of the classes so far.

    Args:
        subject: The set, with the requested students.
        context: With the validation images.
    """
    images, labels = context.validation()
    by_seed: dict[int, list[float]] = {}
    for network in subject.networks:
        assert network.request is not None and network.request.classes is not None
        classes = torch.tensor(network.request.classes)
        mine = torch.isin(labels, classes)
        predicted = classes[context.logits(network, images[mine]).argmax(1)]
        accuracy = 100 * float((predicted == labels[mine]).float().mean())
        by_seed.setdefault(network.seed, []).append(accuracy)
        condition = f"{network.request.tag}: {len(classes)} classes"
        yield Row("top-1", accuracy, condition, n=int(mine.sum()), seed=network.seed)
    for seed, accuracies in by_seed.items():
        yield Row("mean", sum(accuracies) / len(accuracies), n=len(labels), seed=seed)
        yield Row("last", accuracies[-1], n=len(labels), seed=seed)
