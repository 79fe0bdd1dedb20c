"""Random real images: the baseline for every method. Smaller sets are prefixes of larger ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ddkit.core.seeds import nested_choice
from ddkit.format.entries import Origin
from ddkit.sources.images import Source
from ddkit.synthesis.interface import Context, Plan, Synthetic, Unit, class_units

NAME = "random"
PAPER = "baseline: IPC real images of each class, without replacement"
COST = "seconds: images are only read"


@dataclass(frozen=True, kw_only=True)
class Config:
    """No settings."""


def units(plan: Plan) -> list[Unit]:
    plan.need_images(plan.last, f"random with {plan.last} images per class")
    return class_units(plan, classes_a_unit=16)


def order(source: Source, seed: int, label: int) -> np.ndarray:
    """Return the images of a class in the order in which they are taken, as indices into `source`, int64.

    Args:
        source: The source, without held-out images.
        seed: Seed of the run.
        label: The class.
    """
    return nested_choice(seed, source.members(label), "random", label)


def run(unit: Unit, context: Context) -> Iterator[Synthetic]:
    for label in unit.labels:
        chosen = order(context.source, context.seed, label)
        for rank in unit.ranks:
            image = int(chosen[rank])
            yield Synthetic(
                pixels=context.source.whole(image, context.size).numpy(),
                label=label,
                rank=rank,
                origin=Origin(kind="real", rows=(int(context.source.rows[image]),)),
            )
