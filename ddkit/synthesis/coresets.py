"""Real images selected by the teacher's features: herding, k-center greedy, k-means.

Every increment adds to the images selected before, so each prefix of a set contains the smaller ones.
Definitions: docs/methods.md. Where published code differs (herding by arg max, for example), the definition is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ddkit.format.entries import Origin
from ddkit.synthesis.interface import Context, Plan, Probe, Synthetic, Unit, class_units
from ddkit.synthesis.passes import chunks

# (features of the unused images float32 [n,F], of the images selected before [m,F], number to select, generator)
# -> positions among the n unused images, in the order of selection
Select = Callable[[np.ndarray, np.ndarray, int, np.random.Generator], list[int]]


def herding(features: np.ndarray, before: np.ndarray, count: int, random: np.random.Generator) -> list[int]:
    """Select greedily the image that brings the mean of the selected closest to the mean of all (Welling 2009).

    Args:
        features: Features of the unused images, float32 [n,F].
        before: Features of the images selected before, [m,F].
        count: Number of images to select.
        random: Not used.

    Returns:
        Positions in `features`, in the order of selection.
    """
    everything = np.concatenate([features, before]).astype(np.float64)
    mean, total = everything.mean(0), before.astype(np.float64).sum(0)
    chosen: list[int] = []
    free = np.ones(len(features), bool)
    for k in range(len(before) + 1, len(before) + count + 1):
        distance = np.linalg.norm(k * mean - (total + features), axis=1)
        pick = int(np.where(free, distance, np.inf).argmin())
        chosen.append(pick)
        free[pick] = False
        total = total + features[pick]
    return chosen


def k_center(features: np.ndarray, before: np.ndarray, count: int, random: np.random.Generator) -> list[int]:
    """Select greedily the image farthest from all selected ones (Sener and Savarese, arXiv 1708.00489).

    Args:
        features: Features of the unused images, float32 [n,F].
        before: Features of the images selected before, [m,F].
        count: Number of images to select.
        random: Draws the first image if `before` is empty.

    Returns:
        Positions in `features`, in the order of selection.
    """
    chosen: list[int] = []
    nearest = np.full(len(features), np.inf)
    for point in before:
        nearest = np.minimum(nearest, np.linalg.norm(features - point, axis=1))
    while len(chosen) < count:
        pick = int(random.integers(len(features))) if np.isinf(nearest).all() else int(nearest.argmax())
        chosen.append(pick)
        nearest = np.minimum(nearest, np.linalg.norm(features - features[pick], axis=1))
        nearest[chosen] = -1.0
    return chosen


def k_means(features: np.ndarray, before: np.ndarray, count: int, random: np.random.Generator) -> list[int]:
    """Select the image nearest to each of `count` centroids, largest cluster first, without repetition.

    Args:
        features: Features of the unused images, float32 [n,F].
        before: Not used.
        count: Number of clusters and of images to select.
        random: Draws the seed of k-means.

    Returns:
        Positions in `features`, in the order of selection.
    """
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):  # sums depend on the number of threads in the last bits
        found = KMeans(count, n_init=1, random_state=int(random.integers(2**31))).fit(features)
    sizes = np.bincount(found.labels_, minlength=count)
    chosen: list[int] = []
    for cluster in np.argsort(-sizes, kind="stable"):
        distance = np.linalg.norm(features - found.cluster_centers_[cluster], axis=1)
        distance[chosen] = np.inf
        chosen.append(int(distance.argmin()))
    return chosen


# ------------------------------------------------------------------ hooks of a coreset method


@dataclass(frozen=True, kw_only=True)
class Config:
    """A coreset method has no settings."""


def costs(plan: Plan, probe: Probe) -> dict[str, float]:
    """Return the expected seconds: one teacher pass over the source, in the first prefix only."""
    return {"select": 0.0 if plan.first else sum(plan.counts) * probe.each}


def coreset(name: str, select: Select) -> tuple[Callable[[Plan], list[Unit]], Callable[[Unit, Context], Any]]:
    """Return the `units` and `run` hooks of a coreset method.

    One unit computes the features of the source; the units after it select the images of each class independently.

    Args:
        name: Name of the method, for messages.
        select: Selects the images of a class.
    """

    def units(plan: Plan) -> list[Unit]:
        plan.need_images(plan.last, f"{name} with {plan.last} images per class")
        prepare = Unit(id=f"prepare-{plan.last}-0", kind="prepare", steps=chunks(sum(plan.counts)))
        return [prepare, *class_units(plan, classes_a_unit=16, needs=[prepare.id])]

    def run(unit: Unit, context: Context) -> dict[str, Any] | Iterator[Synthetic]:
        features = context.features(context.teacher)
        if unit.kind == "prepare":
            return {"images": np.array([len(features)])}
        return _chosen(unit, context, select, features)

    return units, run


def _chosen(unit: Unit, context: Context, select: Select, features: np.ndarray) -> Iterator[Synthetic]:
    source = context.source
    for label in unit.labels:
        members = source.members(label)
        used = context.used_rows(label)
        taken = np.array([int(source.rows[i]) in used for i in members])
        free = members[~taken]
        random = context.rng("coreset", label, unit.ranks[0])
        picks = select(features[free], features[members[taken]], len(unit.ranks), random)
        for rank, pick in zip(unit.ranks, picks, strict=True):
            image = int(free[pick])
            yield Synthetic(
                pixels=source.whole(image, context.size).numpy(),
                label=label,
                rank=rank,
                origin=Origin(kind="real", rows=(int(source.rows[image]),)),
            )
