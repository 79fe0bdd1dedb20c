"""CUDD: a curriculum of stages. Each starts from real images that the previous stage's student gets wrong.

Source: arXiv 2405.09150, algorithm 1, and its scripts (docs/methods.md). Composed of
synthesis/curriculum (stages, students, selection) and an inner method of synthesis/inner.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ddkit.synthesis import curriculum
from ddkit.synthesis.inner import InnerMethod, find_inner
from ddkit.synthesis.interface import Context, Plan, Probe, Synthetic, Unit
from ddkit.synthesis.settings import Adversary, Inversion, Regulariser

NAME = "cudd"
PAPER = "Curriculum Dataset Distillation (CUDD), arXiv 2405.09150"
COST = "as SRe2L, twice from the second stage on, and a student a stage; the paper: 51 minutes for CIFAR-10, IPC 10"


@dataclass(frozen=True, kw_only=True)
class Config(Inversion):
    """Settings of Inversion, with CUDD's initialisation and loss terms as defaults, and those of the curriculum.

    Attributes:
        stages: Rule for where stages end (`curriculum.stage_ends`).
        inner: Inner method, which makes the images of a stage.
        among: How images are chosen among those that a selection rule allows (`curriculum.select`).
        student: How the student of a stage is trained.
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

    @property
    def method(self) -> InnerMethod:
        """The inner method."""
        return find_inner(self.inner, self)


def prefixes(config: Config, ipc: int) -> tuple[int, ...]:
    """Return the stages for `ipc` images per class; `config` holds the rule."""
    return curriculum.stage_ends(config.stages, ipc)


def patches(config: Config) -> int:
    """Return the number of patches of an image: 1 unless the inner method stitches."""
    return config.method.patches()


def real_pixels(config: Config) -> str:
    """Return what the inner method of `config` leaves of real images."""
    return config.method.real_pixels()


def units(plan: Plan) -> list[Unit]:
    """Return the units of a stage: student, selection, and those of the inner method. plan: the increment."""
    config: Config = plan.config
    plan.need_images(plan.last, f"cudd with {plan.last} images per class")
    feedback = curriculum.feedback_units(plan, config.student)
    needs = [feedback[-1].id]
    if config.adv.weight and len(feedback) > 1:
        needs.append(feedback[-2].id)
    return [*feedback, *config.method.units(plan, needs)]


def costs(plan: Plan, probe: Probe) -> dict[str, float]:
    """Return the expected seconds of the inner method, the student, and the passes of both networks over the source.

    The teacher's pass is made in the first stage and kept.
    """
    config: Config = plan.config
    student = plan.first > 0 and config.student.epochs > 0
    passes = student + (plan.first == 0) * (1 if config.among == "random" else 2)
    found = {
        "select": passes * sum(plan.counts) * probe.pass_with(config.threads),
        "recover": config.method.costs(plan, probe, student and config.adv.weight > 0),
    }
    if student:
        steps = curriculum.feedback_units(plan, config.student)[-2].steps
        found["student"] = curriculum.student_seconds(steps, config.student, probe, config.threads)
    return found


def log(plan: Plan, result: Any) -> dict[str, Any]:
    """Return the images that each selection rule gave, and the accuracy of the student on the source."""
    return curriculum.stage_log(plan, result)


def run(unit: Unit, context: Context) -> Any:
    """Train the stage student, select real images, or make images, depending on the kind of the unit."""
    config: Config = context.config
    if unit.kind == "student":
        return curriculum.train_stage_student(unit, context, config.student, config.threads)
    if unit.kind == "select":
        images = max(config.method.images_needed(int(n), len(unit.ranks)) for n in context.source.counts)
        return curriculum.select(unit, context, images, config.threads, config.among)
    return _recover(unit, context, config)


def _recover(unit: Unit, context: Context, config: Config) -> Iterator[Synthetic | None]:
    """Yield the images of the inner method, each with the selection rule of its real images."""
    found = context.result(unit.needs[0])
    chosen = {label: curriculum.chosen(found, label) for label in unit.labels}
    selected = {label: mine.images for label, mine in chosen.items()}
    for image in config.method.run(unit, context, selected, found["ranks"].tolist()):
        if image is not None and image.origin.rows:
            mine = chosen[image.label]
            rule = dict(zip(context.source.rows[mine.images].tolist(), mine.rules))
            selected_by = "+".join(sorted({rule[row] for row in image.origin.rows}))
            image = replace(image, origin=replace(image.origin, rule=selected_by))
        yield image
