"""One student trained on one distilled set by a protocol; the last epoch is the result."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ddkit.core.console import Advance
from ddkit.core.files import locked, read_sealed_json, write_sealed
from ddkit.core.serialization import fingerprint
from ddkit.engine.interleaving import Turns, in_turns
from ddkit.errors import OptionError
from ddkit.format.manifest import Manifest, read_manifest
from ddkit.networks.checkpoints import save_checkpoint
from ddkit.networks.registry import build_network
from ddkit.networks.training import Batch, Fit, accuracy, fitting, seeded_network
from ddkit.replay.fresh import FreshLoader
from ddkit.replay.loader import ReplayLoader
from ddkit.sources.validation import open_validation
from ddkit.specs import DatasetSpec, TeacherSpec, TrainSpec, ViewSpec
from ddkit.students.losses import soft_label_loss
from ddkit.teachers.teacher import Teacher


@dataclass(frozen=True, kw_only=True)
class ValidationRef:
    """Images to measure on, as plain data (see sources.open_validation)."""

    data: str
    split: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    same_order: bool = False


@dataclass(frozen=True, kw_only=True)
class StudentJob:
    """One student as plain data; its result is `OUT.safetensors` and `.jsonl`.

    directory: the set; labels: stored, hard (classes only, fresh views by `law` without mixing) or online (fresh
    views, labelled by `teacher`); measure_every: epochs between logged accuracies, 0 = at the end only; key: stands for
    all that decides the weights, measured: for what they are measured on.
    """

    directory: str
    ipc: int | None
    arch: str
    spec: TrainSpec
    law: ViewSpec
    labels: str
    seed: int
    out: str
    device: str = "cpu"
    val: ValidationRef | None = None
    teacher: str | None = None
    order: tuple[int, ...] | None = None
    measure_every: int = 0
    key: str = ""
    measured: str = ""

    @property
    def id(self) -> str:
        return self.out

    @property
    def checkpoint(self) -> Path:
        return Path(self.out + ".safetensors")

    @property
    def log(self) -> Path:
        return Path(self.out + ".jsonl")

    @property
    def result(self) -> Path:
        return Path(self.out + ".json")

    @property
    def state(self) -> Path:
        """Where it stands, by what decides it: another training of the same name never continues it."""
        out = Path(self.out)
        return out.with_name(f".{out.name[:100]}.{self.result_key[:16]}.state")

    @property
    def result_key(self) -> str:
        """Stands for all that decides weights and accuracy."""
        return fingerprint([self.key, self.measured, self.measure_every])


@dataclass(frozen=True)
class StudentResult:
    """accuracy: percent after the last epoch, None where nothing was measured; history: a line an epoch."""

    accuracy: float | None
    seconds: float
    epochs: int
    history: list[dict[str, float]]


def train_student(
    job: StudentJob,
    on_epoch: Advance | None = None,
    on_estimate: Callable[[float], None] | None = None,
) -> StudentResult:
    """Train one student and write its checkpoint and log. Continues a killed training to the same weights.

    Raises OtherRun where another process writes the same checkpoint.
    """
    with locked(job.checkpoint, "training", {"key": job.result_key}, wait=False):
        return in_turns([_training(job, on_epoch, on_estimate)], torch.device(job.device))[0]


def _training(
    job: StudentJob,
    on_epoch: Advance | None = None,
    on_estimate: Callable[[float], None] | None = None,
) -> Turns[StudentResult]:
    began = time.perf_counter()
    manifest = read_manifest(job.directory)
    device = torch.device(job.device)
    images = manifest.rows(job.ipc)
    batch = job.spec.batch_for(images)
    loader, batches, loss = _supervision(job, manifest, batch, device)
    network = seeded_network(
        lambda: build_network(job.arch, len(manifest.classes), manifest.size), job.seed, "student", job.arch
    )
    measure, measured_on = _measure(job, manifest, device)
    fit_job = Fit(
        spec=job.spec, epochs=job.spec.epochs_for(images), steps_an_epoch=len(loader), batches=batches, loss=loss,
        seed=job.seed, device=device, state=job.state, key=job.result_key, log=job.log,
        measure=measure if job.measure_every else None,
        measure_every=job.measure_every, on_epoch=on_epoch, on_estimate=on_estimate,
    )  # fmt: skip
    history = yield from fitting(network, fit_job)
    percent = None
    if measure is not None:
        percent = history[-1]["accuracy"] if job.measure_every else measure(network)
    spec = TeacherSpec(
        arch=job.arch,
        num_classes=len(manifest.classes),
        image_size=manifest.size,
        mean=manifest.mean,
        std=manifest.std,
        classes=tuple(manifest.class_names),
        class_ids=tuple(c.id for c in manifest.classes) if any(c.id for c in manifest.classes) else None,
        accuracy=None if percent is None else round(percent, 2),
        measured_on=measured_on,
        eval=manifest.eval,
    )
    save_checkpoint(job.checkpoint, network, spec)
    job.state.unlink(missing_ok=True)
    seconds = round(sum(entry["seconds"] for entry in history), 2) or round(time.perf_counter() - began, 2)
    return StudentResult(percent, seconds, len(history), history)


def student_units(jobs: Sequence[StudentJob]) -> list[StudentResult]:
    """`train_student` of several, in turns on one device; finished ones are read back, not trained again. What another
    process trains is waited for."""
    with ExitStack() as stack:
        for out in sorted({job.checkpoint for job in jobs}):  # in one order everywhere, so that nobody waits in a ring
            stack.enter_context(locked(out, "training"))
        return in_turns([_kept(job) for job in jobs], torch.device(jobs[0].device))


def _kept(job: StudentJob) -> Turns[StudentResult]:
    known = read_sealed_json(job.result, job.result_key)
    if known is not None:
        return StudentResult(**known)
    result = yield from _training(job)
    write_sealed(job.result, json.dumps(asdict(result)).encode(), job.result_key)
    return result


def _supervision(
    job: StudentJob, manifest: Manifest, batch: int, device: torch.device
) -> tuple[Any, Callable[[int], Iterable[Batch]], Callable[[Tensor, Tensor], Tensor]]:
    """(loader, epoch -> batches, loss) for stored, hard or online labels."""
    hard = job.labels == "hard" or job.spec.loss == "ce"

    def with_target(batches: Iterable[Any]) -> Iterable[Batch]:
        return ((inputs, labels if hard else logits) for inputs, logits, labels in batches)

    loss = cross_entropy if hard else _soft_loss(job.spec)
    if job.labels == "stored":
        replay = ReplayLoader(
            manifest, batch_size=batch, device=device, ipc=job.ipc, seed=job.seed, rank=0, world_size=1
        )  # fmt: skip

        def replayed(epoch: int) -> Iterable[Batch]:
            replay.set_epoch(epoch)
            return with_target(replay)

        return replay, replayed, loss
    teacher = None
    law = replace(job.law, mix="none")
    if job.labels == "online":
        if job.teacher is None:
            raise OptionError("--labels online needs the teacher: give --teacher")
        teacher, law = Teacher.load(job.teacher, device, job.order), job.law
    fresh = FreshLoader(
        manifest, replace(law, count=1), batch_size=batch, device=device, ipc=job.ipc, seed=job.seed,
        label=teacher.logits if teacher else None,
    )  # fmt: skip
    return fresh, lambda epoch: with_target(fresh.epoch(epoch)), loss


def _soft_loss(spec: TrainSpec) -> Callable[[Tensor, Tensor], Tensor]:
    """The protocol's loss on the teacher's logits."""
    factor = spec.temperature**2 if spec.loss == "kl-t2" else 1.0
    return lambda logits, target: factor * soft_label_loss(logits, target, spec.temperature)


def _measure(
    job: StudentJob, manifest: Manifest, device: torch.device
) -> tuple[Callable[[nn.Module], float] | None, str | None]:
    """(network -> accuracy in percent, what it is measured on); (None, None) where there is nothing to measure on."""
    if job.val is None:
        return None, None
    source = manifest.data["source"]
    validation, _ = open_validation(
        job.val.data, manifest.classes, split=job.val.split, image_column=job.val.image_column,
        label_column=job.val.label_column, same_order=job.val.same_order,
        source=DatasetSpec(**{key: source[key] for key in ("id", "split", "fingerprint", "holdout")}),
    )  # fmt: skip
    images, labels = validation.load(manifest.eval)
    return lambda network: accuracy(network, images, labels, manifest.mean, manifest.std, device), (
        f"{validation.name} ({len(labels)} images)"
    )
