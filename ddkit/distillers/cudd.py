"""CUDD: a curriculum of stages, each from real images that the last stage's student gets wrong, optimised against it.

Source: arXiv 2405.09150, algorithm 1, and its scripts (methods.md B). This file only joins two parts:
synthesis/curriculum (stages, student, selection) and an inner method, synthesis/inversion or RDED's patches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from ddkit.synthesis import curriculum
from ddkit.synthesis.initialisation import images_needed, starts_from
from ddkit.synthesis.inner.inversion import inversion_costs, inversion_units, optimise
from ddkit.synthesis.interface import Context, Plan, Probe, Synthetic, Unit, class_units
from ddkit.synthesis.patches import pool_and_keep, stitched
from ddkit.synthesis.settings import Adversary, Inversion, Regulariser

NAME = "cudd"
PAPER = "Curriculum Dataset Distillation (CUDD), arXiv 2405.09150"
COST = "as SRe2L, twice from the second stage on, and a student a stage; the paper: 51 minutes for CIFAR-10, IPC 10"


@dataclass(frozen=True, kw_only=True)
class Config(Inversion):
    """As Inversion, with CUDD's start and terms. stages: where they end (`curriculum.stage_ends`); inner: what makes a
    stage's images; among: how images are chosen within a selection rule (`curriculum.select`); student: the feedback.
    """

    init: Literal["noise", "real", "patch"] = "real"
    reg: Regulariser = field(default_factory=lambda: Regulariser(weight=1.0))
    adv: Adversary = field(default_factory=lambda: Adversary(weight=1.0))
    stages: str = "paper"
    inner: Literal["inversion", "rded"] = "inversion"
    among: Literal["random", "kmeans", "herding"] = "random"
    student: curriculum.Student = field(default_factory=curriculum.Student)

    def __post_init__(self) -> None:
        super().__post_init__()
        curriculum.stage_ends(self.stages, 10)

    @property
    def needs_real(self) -> bool:
        return self.inner == "rded" or super().needs_real


def prefixes(config: Config, ipc: int) -> tuple[int, ...]:
    """CUDD's stages."""
    return curriculum.stage_ends(config.stages, ipc)


def patches(config: Config) -> int:
    """Patches an image is stitched of: the inner method's."""
    return config.patch.factor**2 if config.inner == "rded" else 1


def real_pixels(config: Config) -> str:
    """RDED's images are crops of real ones; inverted ones only began as such."""
    return "crops" if config.inner == "rded" else "initial" if config.needs_real else "none"


def units(plan: Plan) -> list[Unit]:
    config: Config = plan.config
    plan.need_images(plan.last, f"cudd with {plan.last} images per class")
    feedback = curriculum.feedback_units(plan, config.student)
    needs = [feedback[-1].id]
    if config.adv.weight and len(feedback) > 1:
        needs.append(feedback[-2].id)
    if config.inner == "inversion":
        return [*feedback, *inversion_units(plan, config, needs)]
    return [*feedback, *class_units(plan, needs=needs)]


def _selected(config: Config, available: int, ipc: int) -> int:
    """Images chosen of a class for a stage."""
    if config.inner == "rded":
        return pool_and_keep(config.patch, available, ipc)[0]
    return images_needed(config, available, ipc)


def costs(plan: Plan, probe: Probe) -> dict[str, float]:
    """The optimisation, the student, and a pass over the source for each of the two networks."""
    config: Config = plan.config
    student = plan.first > 0 and config.student.epochs > 0
    images = sum(plan.counts)
    found = {"select": images * probe.each * (2 if student else 1)}
    if config.inner == "inversion":
        found["recover"] = inversion_costs(plan, config, probe, with_student=student and config.adv.weight > 0)
    else:
        found["recover"] = images * config.patch.crops * probe.each / probe.workers
    if student:
        steps = curriculum.feedback_units(plan, config.student)[-2].steps
        found["student"] = steps * config.student.batch * 3 * probe.each / config.threads
    return found


def log(plan: Plan, result: Any) -> dict[str, Any]:
    """Counts of the selection rules, and how right the student was."""
    return curriculum.stage_log(plan, result)


def run(unit: Unit, context: Context) -> Any:
    config: Config = context.config
    if unit.kind == "student":
        return curriculum.train_student(unit, context, config.student, config.threads)
    if unit.kind == "select":
        images = max(_selected(config, int(n), len(unit.ranks)) for n in context.source.counts)
        return curriculum.select(unit, context, images, config.threads, config.among)
    return _recover(unit, context, config)


def _recover(unit: Unit, context: Context, config: Config) -> Iterator[Synthetic | None]:
    selection = unit.needs[0]
    ranks = context.result(selection)["ranks"].tolist()
    mine = slice(ranks.index(unit.ranks[0]), ranks.index(unit.ranks[-1]) + 1)
    starts = []
    for label in unit.labels:
        chosen = curriculum.chosen(context.result(selection), label)
        rule = dict(zip(context.source.rows[chosen.images].tolist(), chosen.rules))
        if config.inner == "rded":
            keep = pool_and_keep(config.patch, len(chosen.images), len(ranks))[1]
            for made in stitched(context, config.patch, label, chosen.images, keep, ranks):
                made.origin["rule"] = _rules(rule, made.origin["rows"])
                yield made
            continue
        for start in starts_from(context, config, label, chosen.images, ranks)[mine]:
            starts.append(start)
            if start.origin["rows"]:
                start.origin["rule"] = _rules(rule, start.origin["rows"])
    if config.inner == "inversion":
        yield from optimise(unit, context, config, starts)


def _rules(rule: dict[int, str], rows: list[int]) -> str:
    """What an image's real images were selected by."""
    return "+".join(sorted({rule[row] for row in rows}))
