"""RDED: crops of real images with the lowest teacher loss, stitched factor x factor. Nothing is optimised.

Source: arXiv 2312.03526 (CVPR 2024); pool, crops and ranked stitching follow the authors' scripts (docs/methods.md).
For each class and increment, with N patches per image: take a pool of min(n, max(pool, 1.5*N*IPC)) images in a nested
seeded order; keep the best k = ceil(N*IPC / pool) crops of each image that no earlier increment used; of these, take
the N*IPC crops with the lowest loss. Image i is stitched from the crops of ranks i, n+i, 2n+i, ….
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ddkit.core.seeds import nested_choice
from ddkit.errors import OptionError
from ddkit.synthesis.interface import Context, Plan, Probe, Synthetic, Unit, class_units
from ddkit.synthesis.patches import pool_and_keep, stitched
from ddkit.synthesis.settings import Patches

NAME = "rded"
PAPER = "On the Diversity and Realism of Distilled Dataset (RDED), arXiv 2312.03526"
COST = "one teacher pass over pool x crops patches of each class; the paper: 40 ms an image at 224 px"


@dataclass(frozen=True, kw_only=True)
class Config(Patches):
    """Settings of Patches."""


def units(plan: Plan) -> list[Unit]:
    config: Config = plan.config
    if plan.size % config.factor:
        raise OptionError(f"factor {config.factor} does not divide the size {plan.size}; choose one that does")
    per_image = math.ceil(config.factor**2 * plan.last / config.crops)
    plan.need_images(per_image, f"rded with {plan.last} images per class and {config.crops} crops of each image")
    return class_units(plan)


def patches(config: Config) -> int:
    """Return the number of patches of an image, factor²."""
    return config.factor**2


def costs(plan: Plan, probe: Probe) -> dict[str, float]:
    """Return the expected seconds: every crop of the pools goes through the teacher once."""
    crops = sum(pool_and_keep(plan.config, n, plan.last)[0] * plan.config.crops for n in plan.counts)
    return {"recover": probe.spread(crops * probe.each, len(plan.classes))}


def log(plan: Plan, result: Any) -> dict[str, Any]:
    """Return the pool size and the crops kept per image, by class."""
    found = [pool_and_keep(plan.config, n, plan.last) for n in plan.counts]
    return {"pool": [pool for pool, _ in found], "crops_kept": [keep for _, keep in found]}


def run(unit: Unit, context: Context) -> Iterator[Synthetic]:
    config: Config = context.config
    for label in unit.labels:
        members = context.source.members(label)
        pool, keep = pool_and_keep(config, len(members), unit.ranks[-1] + 1)
        images = nested_choice(context.seed, members, "rded-pool", label)[:pool]
        yield from stitched(context, config, label, images, keep, unit.ranks)
