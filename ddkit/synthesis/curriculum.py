"""Curriculum of CUDD (arXiv 2405.09150, algorithm 1): stages, stage students and selection, for any inner method.

Each stage makes the increment of one prefix. Its units are, in this order: the stage's student, trained on the shards
of the earlier stages and warm-started from the previous student; the selection of real images that the teacher
classifies correctly and the student does not; the units of the inner method, which find the student in
`context.student` and the selected images through `context.result`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from ddkit.core.device import threads
from ddkit.core.seeds import nested_choice
from ddkit.networks.registry import build_network, check_network
from ddkit.networks.steps import seconds_a_step
from ddkit.networks.training import Fit, fit, seeded_network
from ddkit.specs import TrainSpec
from ddkit.students.losses import soft_label_loss
from ddkit.synthesis.coresets import herding, k_means
from ddkit.synthesis.interface import Context, Plan, Probe, Unit
from ddkit.synthesis.passes import chunks

LADDER = (5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
RULES = ("R∩W", "W∩W", "R∩R", "rest")  # teacher right, student wrong; both wrong; both right; the others
SELECTORS = {"kmeans": k_means, "herding": herding}
FIRST_RULES = ("R", "rest")  # the first stage has no student: teacher right; the others


@dataclass(frozen=True, kw_only=True)
class Student:
    """Settings of the stage students (docs/methods.md).

    Attributes:
        init: `warm` starts from the previous stage's student, at `lr`. `scratch`, and always the first student, starts
            from random weights, at `scratch_lr`.
        epochs: Epochs of a student; 0: no students (a control), every stage selects as the first one does.
        scratch_epochs: Epochs of a student that starts from random weights; 0: `epochs`.
        batch: Images per step.
        lr: Peak learning rate of a warm-started student.
        scratch_lr: Peak learning rate of a student that starts from random weights.
        temperature: Temperature of the soft-label loss.
    """

    init: Literal["warm", "scratch"] = "warm"
    epochs: int = 150
    scratch_epochs: int = 0
    batch: int = 16
    lr: float = 5e-4
    scratch_lr: float = 1e-3
    temperature: float = 20.0

    def __post_init__(self) -> None:
        if (
            min(self.epochs, self.scratch_epochs) < 0
            or self.batch < 1
            or min(self.lr, self.scratch_lr, self.temperature) <= 0
        ):
            raise ValueError("epochs must be at least 0, batch 1, learning rates and temperature above 0")


def stage_ends(rule: str, ipc: int) -> tuple[int, ...]:
    """Return where the stages end, as cumulative IPC.

    `paper` and `log` have J = max(0, floor(log2(ipc / 5))) + 1 stages.

    Args:
        rule: `paper`: the first J-1 of 5, 10, 20, 50, 100, 200, ..., then `ipc`; `log`: the first J-1 of 5, 10, 20, 40,
            ... (doubling), then `ipc`; `uniform:N`: every N images (Fig. 7).
        ipc: Images per class of the whole set.

    Raises:
        ValueError: `rule` has another form.
    """
    if rule.startswith("uniform:") and rule[8:].isdigit() and int(rule[8:]):
        return (*range(int(rule[8:]), ipc, int(rule[8:])), ipc)
    if rule not in ("paper", "log"):
        raise ValueError(f"stages is {rule!r}; valid: paper, log, uniform:N")
    count = max(0, math.floor(math.log2(ipc / 5))) + 1
    doubling = [5 * 2**k for k in range(count)]
    ladder = LADDER if rule == "paper" else doubling
    return (*[end for end in ladder[: count - 1] if end < ipc], ipc)


def feedback_units(plan: Plan, settings: Student) -> list[Unit]:
    """Return the `student` units and the `select` unit of a stage.

    The students of all earlier stages are included. Normally they are done already; if OUT.work was lost, they are
    trained again from the shards.

    Args:
        plan: The increment of the stage.
        settings: Settings of the stage students.
    """
    chain: list[Unit] = []
    ends = plan.prefixes
    for before, end in zip(ends, ends[1:]) if settings.epochs else ():
        warm = settings.init == "warm" and chain
        steps = -(-before * len(plan.classes) // settings.batch) * _epochs(settings, bool(warm))
        chain.append(
            Unit(
                id=f"student-{end}-0",
                kind="student",
                needs=(chain[-1].id,) if warm else (),
                ranks=(before,),
                steps=steps,
            )
        )
    needs = (chain[-1].id,) if chain else ()
    passes = 2 if chain else 1
    select = Unit(
        id=f"select-{plan.last}-0", kind="select", needs=needs, ranks=tuple(plan.ranks),
        steps=passes * chunks(sum(plan.counts)),
    )  # fmt: skip
    return [*chain, select]


def _epochs(settings: Student, warm: bool) -> int:
    return settings.epochs if warm else settings.scratch_epochs or settings.epochs


def student_seconds(steps: int, settings: Student, probe: Probe, workers: int) -> float:
    """Return the expected seconds of a stage student, from measured steps or a device's stated speed.

    Replaying the views is not counted.

    Args:
        steps: Number of steps.
        settings: Settings of the stage students.
        probe: What to measure with.
        workers: CPU threads.
    """
    spec, size = TrainSpec(batch=settings.batch), probe.size
    if probe.stated is not None:
        return 3 * steps * settings.batch * probe.stated[spec.precision]
    few = settings.batch if size <= 64 else min(settings.batch, 8)

    def step() -> float:
        net = probe.teacher.spec
        with threads(workers):
            network = check_network(net.arch, net.num_classes, size)
            return seconds_a_step(network, spec, few, size, probe.teacher.device, at_most_s=1.0)

    return steps * probe.once(("student", settings.batch, workers), step) * settings.batch / few


def train_stage_student(unit: Unit, context: Context, settings: Student, workers: int) -> dict[str, np.ndarray]:
    """Train a stage's student on the packed shards of the prefix `unit.ranks[0]`.

    Args:
        unit: The `student` unit.
        context: Its context.
        settings: Settings of the stage students.
        workers: CPU threads.

    Returns:
        The weights by name.
    """
    spec = TrainSpec(
        loss="kl", temperature=settings.temperature, lr=settings.scratch_lr if not unit.needs else settings.lr,
        epochs=_epochs(settings, bool(unit.needs)), batch=settings.batch, threads=workers,
    )  # fmt: skip
    teacher = context.teacher.spec
    batch = min(settings.batch, unit.ranks[0] * len(context.source.classes))
    seed = int(context.rng("stage-student", unit.id).integers(2**31))
    loader = context.replay(ipc=unit.ranks[0], batch_size=batch, device=context.device, seed=seed, rank=0, world_size=1)

    def batches(epoch: int) -> Any:
        loader.set_epoch(epoch)
        return ((inputs, logits) for inputs, logits, _ in loader)

    network = seeded_network(
        lambda: build_network(teacher.arch, teacher.num_classes, teacher.image_size), context.seed, "stage", unit.id
    )
    if unit.needs:
        weights = {name: torch.from_numpy(value) for name, value in context.result(unit.needs[0]).items()}
        network.load_state_dict(weights)
    done = 0

    def report(epochs: int, earlier: bool = False) -> None:
        nonlocal done
        done += epochs
        context.progress.report(done * len(loader))

    job = Fit(
        spec=spec, epochs=spec.epochs, steps_an_epoch=len(loader), batches=batches, seed=seed,
        loss=lambda out, target: soft_label_loss(out, target, spec.temperature), device=context.device,
        state=context.progress.state, key=context.progress.key, on_epoch=report,
    )  # fmt: skip
    with threads(spec.threads):
        history = fit(network, job)
    context.progress.losses["student"] = np.array([entry["loss"] for entry in history], np.float32)
    return {name: value.detach().cpu().numpy() for name, value in network.state_dict().items()}


def select(
    unit: Unit, context: Context, n: int, workers: int, among: Literal["random", "kmeans", "herding"] = "random"
) -> dict[str, np.ndarray]:
    """Select n unused real images of each class by the rules.

    Args:
        unit: The `select` unit.
        context: Its context.
        n: Images per class to select.
        workers: CPU threads.
        among: How to choose under the first rule if it has more than n images: `random` (the paper), or `kmeans` or
            `herding` by the teacher's features (`coresets`; not in the paper).

    Returns:
        Named arrays:
        ranks: IPC ranks that the images are for.
        images: positions in the source [C,n]; -1 where a class has fewer unused images.
        rules: index of the rule of each image [C,n].
        counts: unused images under each rule [C,rules].
        student: accuracy of the student on the source in percent [1]; NaN without a student.
    """
    source = context.source
    with threads(workers):
        teacher = context.predictions(context.teacher)
        student = context.predictions(context.student) if context.student else None
        features = None if among == "random" else context.features(context.teacher)
    right = teacher["top1"] == source.labels
    if student is None:
        rules = np.where(right, 0, 1)
    else:
        wrong = student["top1"] != source.labels
        rules = np.select([right & wrong, ~right & wrong, right & ~wrong], [0, 1, 2], 3)
    kinds = len(FIRST_RULES if student is None else RULES)
    classes = len(source.classes)
    chosen, by = np.full((classes, n), -1, np.int64), np.full((classes, n), -1, np.int64)
    counts = np.zeros((classes, kinds), np.int64)
    for label in range(classes):
        used = context.used_rows(label)
        order = nested_choice(context.seed, source.members(label), "curriculum", unit.id, label)
        order = order[[int(source.rows[i]) not in used for i in order]]
        counts[label] = np.bincount(rules[order], minlength=kinds)
        order = order[np.argsort(rules[order], kind="stable")]
        if features is not None and counts[label, 0] > n:
            first, random = order[: counts[label, 0]], context.rng("curriculum-among", unit.id, label)
            before = features[[i for i in source.members(label) if int(source.rows[i]) in used]]
            order = first[SELECTORS[among](features[first], before, n, random)]
        order = order[:n]
        chosen[label, : len(order)], by[label, : len(order)] = order, rules[order]
    accuracy = np.nan if student is None else 100 * float((student["top1"] == source.labels).mean())
    return {
        "ranks": np.array(unit.ranks), "images": chosen, "rules": by, "counts": counts, "student": np.array([accuracy])
    }  # fmt: skip


@dataclass(frozen=True)
class Chosen:
    """The selected images of a class.

    Attributes:
        images: Positions in the source.
        rules: Name of the rule that selected each image.
    """

    images: np.ndarray
    rules: list[str]


def chosen(found: dict[str, np.ndarray], label: int) -> Chosen:
    """Return the images that a `select` unit chose for a class.

    Args:
        found: Result of the unit.
        label: The class.
    """
    names = FIRST_RULES if found["counts"].shape[1] == len(FIRST_RULES) else RULES
    there = found["images"][label] >= 0
    return Chosen(found["images"][label][there], [names[i] for i in found["rules"][label][there]])


def stage_log(plan: Plan, result: Callable[[str], dict[str, np.ndarray]]) -> dict[str, Any]:
    """Return what the manifest records of a stage: images per class under each rule, and the student's accuracy.

    Args:
        plan: The increment of the stage.
        result: Id of a unit -> its result.
    """
    found = result(f"select-{plan.last}-0")
    names = FIRST_RULES if found["counts"].shape[1] == len(FIRST_RULES) else RULES
    taken = {name: [int((row == i).sum()) for row in found["rules"]] for i, name in enumerate(names)}
    share = float(found["student"][0])
    return {
        "selected": {name: counts for name, counts in taken.items() if any(counts)},
        "available": {name: [int(v) for v in found["counts"][:, i]] for i, name in enumerate(names)},
        "student_right_percent": None if math.isnan(share) else round(share, 2),
    }
