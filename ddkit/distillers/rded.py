"""RDED: the most realistic crops of real images, by the teacher's loss, stitched factor x factor. No optimisation.

Source: arXiv 2312.03526 (CVPR 2024); pool, crops, ranked stitching as in the authors' scripts (methods.md C). For class
and increment: pool of min(n, max(pool, 1.5*N*IPC)) images in one nested seeded order, the best k = ceil(N*IPC / pool)
crops of each, those of earlier increments left out, the N*IPC with the least loss, image i from ranks i, n+i, 2n+i, ….
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ddkit.errors import OptionError
from ddkit.seeds import nested_choice
from ddkit.synthesis.interface import Context, Plan, Synthetic, Unit, class_units
from ddkit.synthesis.patches import best_crops, cut, stitch

NAME = "rded"
PAPER = "On the Diversity and Realism of Distilled Dataset (RDED), arXiv 2312.03526"
COST = "one teacher pass over pool x crops patches of each class; the paper: 40 ms an image at 224 px"


@dataclass(frozen=True, kw_only=True)
class Config:
    """pool: real images a class to choose from, at least; factor: patches a side (N = factor²); crops: random crops
    tried of each image; stitch: ranked (every image gets one patch of each quality) or random."""

    pool: int = 300
    factor: int = 1
    crops: int = 5
    stitch: Literal["ranked", "random"] = "ranked"

    def __post_init__(self) -> None:
        for name in ("pool", "factor", "crops"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")


def pool_and_keep(config: Config, images: int, ipc: int) -> tuple[int, int]:
    """(images in the pool of a class that has `images`, crops kept of each)."""
    needed = patches(config) * ipc
    pool = min(images, max(config.pool, math.ceil(1.5 * needed)))
    return pool, math.ceil(needed / pool)


def units(plan: Plan) -> list[Unit]:
    config: Config = plan.config
    if plan.size % config.factor:
        raise OptionError(f"factor {config.factor} does not divide the size {plan.size}; choose one that does")
    per_image = math.ceil(config.factor**2 * plan.last / config.crops)
    plan.need_images(per_image, f"rded with {plan.last} images per class and {config.crops} crops of each image")
    return class_units(plan)


def patches(config: Config) -> int:
    """Patches an image is stitched of."""
    return config.factor**2


def passes(plan: Plan) -> int:
    """Patches that go through the teacher."""
    return sum(pool_and_keep(plan.config, n, plan.last)[0] * plan.config.crops for n in plan.counts)


def log(plan: Plan) -> dict[str, Any]:
    """Pool size and crops kept per image, by class."""
    found = [pool_and_keep(plan.config, n, plan.last) for n in plan.counts]
    return {"pool": [pool for pool, _ in found], "crops_kept": [keep for _, keep in found]}


def run(unit: Unit, context: Context) -> Iterator[Synthetic]:
    config: Config = context.config
    side, n = context.size // config.factor, patches(config)
    for label in unit.labels:
        members = context.source.members(label)
        pool, keep = pool_and_keep(config, len(members), unit.ranks[-1] + 1)
        images = nested_choice(context.seed, members, "rded-pool", label)[:pool]
        ranked = best_crops(
            context.source, images, label, context.teacher,
            crops=config.crops, keep=keep, seed=context.seed, size=context.size, side=side,
        )  # fmt: skip
        used = {
            (row, crop)
            for origin in context.earlier.get(label, [])
            for row, crop in zip(origin["rows"], origin["crops"])
        }
        rows = context.source.rows
        chosen = [c for c in ranked if (int(rows[c.image]), c.crop) not in used][: n * len(unit.ranks)]
        if config.stitch == "random":
            order = context.rng("rded-stitch", label, unit.ranks[0]).permutation(len(chosen))
            chosen = [chosen[i] for i in order]
        for i, rank in enumerate(unit.ranks):
            mine = chosen[i :: len(unit.ranks)]
            pieces = [cut(context.source, c.image, [c.crop], context.seed, side)[0] for c in mine]
            yield Synthetic(
                pixels=np.ascontiguousarray(stitch(pieces, config.factor).numpy()),
                label=label,
                rank=rank,
                origin={"kind": "patches", "rows": [int(rows[c.image]) for c in mine], "crops": [c.crop for c in mine]},
                patches=n,
            )
