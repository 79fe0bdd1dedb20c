"""CUDD's framework (arXiv 2405.09150, algorithm 1): stages, a student's feedback, selection; any inner method.

A stage is a prefix. Its units: the stage's student, trained on what is packed so far and warm-started from the one
before; the selection of real images that the teacher gets right and that student wrong; then the inner method's units,
which find the student in `context.student` and the chosen images in `context.result`.
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
from ddkit.networks.registry import build_network
from ddkit.networks.training import Fit, fit, seeded_network
from ddkit.specs import TrainSpec
from ddkit.students.losses import soft_label_loss
from ddkit.synthesis.coresets import herding, k_means
from ddkit.synthesis.interface import Context, Plan, Unit
from ddkit.synthesis.passes import chunks

LADDER = (5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
RULES = ("R∩W", "W∩W", "R∩R", "rest")  # teacher right and student wrong; both wrong; both right; what is left
SELECTORS = {"kmeans": k_means, "herding": herding}
FIRST_RULES = ("R", "rest")  # the first stage has no student: teacher right; what is left


@dataclass(frozen=True, kw_only=True)
class Student:
    """The stage student (docs/methods.md). init: `warm` starts from the stage before's, at lr; the first one and
    `scratch` start anew, at scratch_lr, for scratch_epochs (0: as many).
    epochs 0: no student at all, as a control: every stage selects as the first."""

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
    """Where the stages end, cumulative IPC. J = max(0, floor(log2(ipc / 5))) + 1 stages for `paper` and `log`.

    rule: `paper`, the first J-1 of 5, 10, 20, 50, 100, 200, …, then ipc; `log`, strict doubling from 5; `uniform:N`,
    every N (Fig. 7). Raises ValueError.
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
    """Students and the selection of a stage.

    The whole chain of students is named: those of earlier stages are there, unless OUT.work was lost; then they are
    trained again from the shards.
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


def train_stage_student(unit: Unit, context: Context, settings: Student, workers: int) -> dict[str, np.ndarray]:
    """Train a stage's student on the prefix `unit.ranks[0]`; its weights by name. workers: CPU threads."""
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
    """Choose n unused images of each class by the rules. workers: CPU threads.

    among: how to choose within the first rule where it has more than n: in one seeded order (the paper), or by the
    teacher's features (ours; `coresets`).
    Returns ranks: what they are for; images: positions in the source [C,n], -1 where a class has fewer left; rules:
    index into the rules [C,n]; counts: unused images under each rule [C,rules]; student: its right answers on the
    source, percent (NaN: none).
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
    """A class's selected images: positions in the source, and the rule each was selected by."""

    images: np.ndarray
    rules: list[str]


def chosen(found: dict[str, np.ndarray], label: int) -> Chosen:
    """What a `select` unit chose for a class."""
    names = FIRST_RULES if found["counts"].shape[1] == len(FIRST_RULES) else RULES
    there = found["images"][label] >= 0
    return Chosen(found["images"][label][there], [names[i] for i in found["rules"][label][there]])


def stage_log(plan: Plan, result: Callable[[str], dict[str, np.ndarray]]) -> dict[str, Any]:
    """For the manifest: how many images each rule gave, and the student that said so."""
    found = result(f"select-{plan.last}-0")
    names = FIRST_RULES if found["counts"].shape[1] == len(FIRST_RULES) else RULES
    taken = {name: [int((row == i).sum()) for row in found["rules"]] for i, name in enumerate(names)}
    share = float(found["student"][0])
    return {
        "selected": {name: counts for name, counts in taken.items() if any(counts)},
        "available": {name: [int(v) for v in found["counts"][:, i]] for i, name in enumerate(names)},
        "student_right_percent": None if math.isnan(share) else round(share, 2),
    }
