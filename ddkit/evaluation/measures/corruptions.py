"""Accuracy on corrupted images: the 19 common corruptions of ImageNet-C at five severities."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ddkit.evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from ddkit.evaluation.measures.interface import Context, MeasuredNetwork, Metric, Row

NAME = "corruptions"
PAPER = "Hendrycks and Dietterich, ICLR 2019; CUDD, Figure 4"
COST = "96 passes over 2,000 images; making the images, once for all networks, takes 1 min at 32 px, 25 min at 224 px"
SUBJECT = "network"
NEEDS = ("student", "validation")
METRICS = (
    Metric(name="top-1", title="top-1 accuracy on corrupted images", unit="%", better="higher"),
    Metric(name="mean", title="mean top-1 accuracy over corruptions and severities", unit="%", better="higher"),
    Metric(name="mean-3", title="mean top-1 accuracy over corruptions, severity 3", unit="%", better="higher"),
    Metric(name="mean-5", title="mean top-1 accuracy over corruptions, severity 5", unit="%", better="higher"),
    Metric(name="drop", title="accuracy on the clean images minus the mean", unit="points", better="lower"),
)
CLEAN = "clean"
PARTS = (CLEAN, *CORRUPTIONS)
SUMMARISED_SEVERITIES = (3, 5)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings.

    Attributes:
        images: Number of validation images, the same number of each class as far as possible; all, if there are fewer.
        severities: Severities, 1 to 5.
    """

    images: int = 2000
    severities: tuple[int, ...] = SEVERITIES

    def __post_init__(self) -> None:
        if self.images < 1:
            raise ValueError(f"images is {self.images}; it must be at least 1")
        if not self.severities or not set(self.severities) <= set(SEVERITIES):
            raise ValueError(f"severities is {list(self.severities)}; valid: {', '.join(map(str, SEVERITIES))}")


def measure(network: MeasuredNetwork, context: Context) -> Iterator[Row]:
    """Yield the top-1 accuracy on the clean images, or for each severity of a corruption.

    The images and their corruption depend on neither the network nor its seed, so that differences are paired. Those of
    one corruption are kept in memory: with the default settings 31 MB at 32 pixels, 1.5 GB at 224 pixels.

    Args:
        network: The network.
        context: With the validation images; its part is "clean" or a corruption.
    """
    config: Config = context.config
    images, labels = context.validation()
    chosen = stratified_choice(labels, config.images, context.rng(NAME, "images"))
    labels = labels[chosen]

    def accuracy(of: Tensor) -> float:
        return 100 * float((context.logits(network, of).argmax(1) == labels).double().mean())

    if context.part == CLEAN:
        yield Row("top-1", accuracy(images[chosen]), CLEAN, n=len(labels))
        return
    severities = tuple(sorted(set(config.severities)))
    key = (context.validation_key, config.images, severities, context.part)
    corrupted = context.cached(
        "corrupted images", key, lambda: [corrupt(images[chosen], context.part, severity) for severity in severities]
    )
    for severity, of in zip(severities, corrupted):
        yield Row("top-1", accuracy(of), f"{context.part}, severity {severity}", n=len(labels))


def summary(rows: Sequence[Row]) -> Iterator[Row]:
    """Yield the means over the corruptions (all severities; 3 and 5, if measured) and the drop from the clean images.

    Args:
        rows: The rows of all parts, of one network.
    """
    clean = next(row for row in rows if row.condition == CLEAN)
    found = {row.condition: row.value for row in rows if ", severity " in row.condition}
    mean = float(np.mean(list(found.values())))
    yield Row("mean", mean, n=clean.n)
    for severity in SUMMARISED_SEVERITIES:
        values = [value for condition, value in found.items() if condition.endswith(f", severity {severity}")]
        if values:
            yield Row(f"mean-{severity}", float(np.mean(values)), n=clean.n)
    yield Row("drop", clean.value - mean, n=clean.n)


def stratified_choice(labels: Tensor, images: int, random: np.random.Generator) -> Tensor:
    """Return indices of images, in ascending order, of which every class has its share; int64.

    Rounds of one random image of every class that has one left, the classes in random order, are taken until there are
    enough. A smaller choice of the same generator is part of a larger one.

    Args:
        labels: Labels of the images, int64 [n].
        images: Number of images to choose; all, if there are fewer.
        random: Draws the orders.
    """
    values = labels.numpy()
    order = random.permutation(len(values))
    classes = random.permutation(int(values.max()) + 1 if len(values) else 0)
    grouped = order[np.argsort(values[order], kind="stable")]  # by class, in random order within a class
    starts = np.searchsorted(values[grouped], values[grouped])
    rounds = np.arange(len(grouped)) - starts
    taken = grouped[np.lexsort((classes[values[grouped]], rounds))][:images]
    return torch.from_numpy(np.sort(taken))
