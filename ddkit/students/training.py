"""Trains one student on one distilled set by a protocol; the result is the network of the last epoch."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ddkit.core.console import Advance
from ddkit.core.device import threads
from ddkit.core.distributed import ALONE, Group
from ddkit.core.files import write_bytes
from ddkit.core.locks import locked
from ddkit.core.serialization import fingerprint
from ddkit.core.worker_state import STATE
from ddkit.engine.interleaving import Interleaved, interleave
from ddkit.engine.units import UnitFile
from ddkit.errors import IntegrityError, OptionError
from ddkit.format.manifest import ClassInfo, Manifest
from ddkit.format.manifest_file import read_manifest
from ddkit.networks.checkpoints import save_checkpoint
from ddkit.networks.registry import build_network, check_network
from ddkit.networks.steps import best_threads
from ddkit.networks.training import Fit, accuracy, fitting, seeded_network
from ddkit.networks.training_state import Example
from ddkit.replay.fresh import FreshLoader
from ddkit.replay.loader import ReplayLoader
from ddkit.sources.validation import ValidationRef
from ddkit.specs import EvalTransform, TeacherSpec, TrainSpec, ViewSpec
from ddkit.students.losses import soft_label_loss
from ddkit.teachers.teacher import Teacher


@dataclass(frozen=True, kw_only=True)
class StudentJob:
    """The training of one student, as plain data.

    Attributes:
        directory: Directory of the set.
        ipc: Images per class of the prefix; None: the whole set.
        arch: Architecture of the student.
        spec: Hyperparameters.
        policy: Augmentation policy of fresh views.
        labels: `stored`; `hard` (class labels on fresh views by `policy` without mixing); or `online` (fresh views
            by `policy`, labelled by `teacher`).
        seed: Seed of the training.
        out: Path of the results without suffix; `.safetensors` (checkpoint) and `.jsonl` (log) are added.
        device: Name of the device.
        val: Validation images; None: the accuracy is not measured.
        teacher: Checkpoint of the teacher, for online labels.
        order: Output column of the teacher for each class of the set; None: the orders are the same.
        measure_every: Epochs between logged accuracies; 0: the accuracy is measured at the end only.
        key: Hash of everything that determines the weights.
        measured: Hash of the validation images.
        classes: Label indices of the classes it is trained and measured on, in the order of its outputs; None: all.
    """

    directory: str
    ipc: int | None
    arch: str
    spec: TrainSpec
    policy: ViewSpec
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
    classes: tuple[int, ...] | None = None

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
    def picture(self) -> Path:
        """The plot of its learning curves."""
        return Path(self.out + ".png")

    @property
    def state(self) -> Path:
        """File of the training state. Its name contains `result_key`, so that no other training resumes it."""
        out = Path(self.out)
        return out.with_name(f".{out.name[:100]}.{self.result_key[:16]}.state")

    @property
    def result_key(self) -> str:
        """Hash of everything that determines the weights and the accuracy."""
        return fingerprint([self.key, self.measured, self.measure_every])

    def outputs(self, manifest: Manifest) -> list[ClassInfo]:
        """Return the classes of the student, in the order of its outputs.

        Args:
            manifest: Its set.
        """
        every = list(manifest.classes)
        return every if self.classes is None else [every[i] for i in self.classes]

    def images(self, manifest: Manifest) -> int:
        """Return the number of images that the student is trained on.

        Args:
            manifest: Its set, which has equally many images of each class.
        """
        rows = manifest.rows(self.ipc)
        return rows if self.classes is None else rows // len(manifest.classes) * len(self.classes)


@dataclass(frozen=True)
class StudentResult:
    """Result of training one student.

    Attributes:
        accuracy: Top-1 accuracy in percent after the last epoch; None if it was not measured.
        seconds: Duration of the training.
        epochs: Number of epochs.
        history: The log, one entry per epoch.
        measured_on: Name of the validation images and their number.
        published: Address of its model repository, if it was pushed.
    """

    accuracy: float | None
    seconds: float
    epochs: int
    history: list[dict[str, float]]
    measured_on: str | None = None
    published: str | None = None


def train_student(
    job: StudentJob,
    on_epoch: Advance | None = None,
    on_estimate: Callable[[float], None] | None = None,
    group: Group = ALONE,
) -> StudentResult:
    """Train one student and write its checkpoint and log. An interrupted training resumes to the same weights.

    Args:
        job: The training.
        on_epoch: Called with the number of epochs done since the last call.
        on_estimate: Called once, after 20 measured steps, with the expected remaining seconds.
        group: The ranks that train the student together; rank 0 writes the files.

    Raises:
        OtherRun: Another process is writing the same checkpoint.
        Diverged: The loss is not finite.
        RankLost: Another rank failed.
    """
    with ExitStack() as stack:
        if group.leads:
            stack.enter_context(locked(job.checkpoint, "training", {"key": job.result_key}, wait=False))
        stack.enter_context(threads(_threads(job, group)))
        return interleave([_training(job, on_epoch, on_estimate, group)], torch.device(job.device))[0]


def _threads(job: StudentJob, group: Group) -> int:
    """Return the CPU threads of a single student: those of the training it resumes, else as many as measurably help.

    Ranks keep the number that torchrun or OMP_NUM_THREADS gave them.
    """
    most = torch.get_num_threads()
    if not job.device.startswith("cpu") or not group.alone:
        return most
    state = UnitFile(job.state, job.result_key)
    if state.is_good():
        return int(state.metadata().get("threads", most))
    manifest = read_manifest(job.directory)
    classes, size = len(job.outputs(manifest)), manifest.views.size
    batch = job.spec.batch_for(job.images(manifest))

    def measure() -> int:
        return best_threads(lambda: check_network(job.arch, classes, size), job.spec, batch, size, most)

    return STATE.keep("threads of a student", (job.arch, classes, size, batch, most), measure, most=8)


def _training(
    job: StudentJob,
    on_epoch: Advance | None = None,
    on_estimate: Callable[[float], None] | None = None,
    group: Group = ALONE,
) -> Interleaved[StudentResult]:
    began = time.perf_counter()
    manifest, device = read_manifest(job.directory), torch.device(job.device)
    images, outputs = job.images(manifest), len(job.outputs(manifest))
    supervision = _supervision(job, manifest, job.spec.batch_for(images), device, group)
    network = seeded_network(
        lambda: build_network(job.arch, outputs, manifest.views.size), job.seed, "student", job.arch
    )
    measure = _measure(job, manifest, device, group)
    fit_job = Fit(
        spec=job.spec, epochs=job.spec.epochs_for(images), steps_an_epoch=supervision.steps,
        batches=supervision.batches, loss=supervision.loss, seed=job.seed, device=device, state=job.state,
        key=job.result_key, log=job.log, measure=measure.accuracy if measure and job.measure_every else None,
        measure_every=job.measure_every, on_epoch=on_epoch, on_estimate=on_estimate,
        group=group,
    )  # fmt: skip
    history = yield from fitting(network, fit_job)
    percent = None
    if measure is not None:
        percent = history[-1]["accuracy"] if job.measure_every else measure.accuracy(network, "measuring")
    if group.leads:
        save_checkpoint(job.checkpoint, network, _checkpoint_spec(job, manifest, percent, measure))
        write_bytes(job.log, "".join(json.dumps(entry) + "\n" for entry in history).encode())
        job.state.unlink(missing_ok=True)
    seconds = round(sum(entry["seconds"] for entry in history), 2) or round(time.perf_counter() - began, 2)
    return StudentResult(percent, seconds, len(history), history, None if measure is None else measure.name)


def _checkpoint_spec(
    job: StudentJob, manifest: Manifest, percent: float | None, measure: _Measure | None
) -> TeacherSpec:
    """Return the metadata of a student's checkpoint; `percent` is its accuracy, None if it was not measured."""
    classes = job.outputs(manifest)
    return TeacherSpec(
        arch=job.arch,
        num_classes=len(classes),
        image_size=manifest.views.size,
        mean=manifest.normalisation.mean,
        std=manifest.normalisation.std,
        classes=tuple(c.name for c in classes),
        class_ids=tuple(c.id for c in classes) if any(c.id for c in classes) else None,
        accuracy=None if percent is None else round(percent, 2),
        measured_on=None if measure is None else measure.name,
        eval=EvalTransform(resize=manifest.eval.resize, crop=manifest.eval.crop),
    )


# ------------------------------------------------------------------ students as units


@dataclass(frozen=True, kw_only=True)
class StudentGroup:
    """Students that are trained interleaved on one device. Finished ones are read from their result files.

    Attributes:
        jobs: The trainings.
        needs: Ids of the jobs that have to be done before.
    """

    jobs: tuple[StudentJob, ...]
    needs: frozenset[str] = frozenset()
    gpu_share = 1.0

    @property
    def id(self) -> str:
        """Id of the first student."""
        return self.jobs[0].out

    @property
    def files(self) -> tuple[UnitFile, ...]:
        """The files of the results."""
        return tuple(UnitFile(job.result, job.result_key) for job in self.jobs)

    def run(self) -> None:
        """Train the students without a result, waiting for those that another process is training."""
        with ExitStack() as stack:
            for out in sorted({job.checkpoint for job in self.jobs}):  # sorted, so that processes cannot deadlock
                stack.enter_context(locked(out, "training"))
            interleave([_recorded(job) for job in self.jobs], torch.device(self.jobs[0].device))

    def results(self) -> list[StudentResult]:
        """Return the results of trained students.

        Raises:
            IntegrityError: A result disappeared.
        """
        found = [file.read_json() for file in self.files]
        if missing := [str(file.path) for file, result in zip(self.files, found) if result is None]:
            raise IntegrityError(f"{missing[0]} disappeared after the training; run the same command again")
        return [StudentResult(**result) for result in found]


def _recorded(job: StudentJob) -> Interleaved[None]:
    """Train a student and write its result, unless it has one."""
    file = UnitFile(job.result, job.result_key)
    if file.read_json() is None:
        file.write_json(asdict((yield from _training(job))))


# ------------------------------------------------------------------ training data and validation


@dataclass(frozen=True)
class _Supervision:
    """Training data and loss of a student.

    Attributes:
        steps: Steps per epoch.
        batches: epoch -> (inputs, target) pairs.
        loss: (logits, target) -> scalar.
    """

    steps: int
    batches: Callable[[int], Iterable[Example]]
    loss: Callable[[Tensor, Tensor], Tensor]


def _supervision(job: StudentJob, manifest: Manifest, batch: int, device: torch.device, group: Group) -> _Supervision:
    """Return training data and loss for stored, hard or online labels."""
    hard = job.labels == "hard" or job.spec.loss == "ce"

    def with_target(batches: Iterable[Any]) -> Iterable[Example]:
        return ((inputs, labels if hard else logits) for inputs, logits, labels in batches)

    loss = cross_entropy if hard else _soft_loss(job.spec)
    if job.labels == "stored":
        replay = ReplayLoader(
            manifest, batch_size=batch, device=device, ipc=job.ipc, seed=job.seed, rank=group.rank,
            world_size=group.world_size, allow_empty=True, temperature=1.0 if hard else job.spec.temperature,
            classes=job.classes,
        )  # fmt: skip

        def replayed(epoch: int) -> Iterable[Example]:
            replay.set_epoch(epoch)
            return with_target(replay)

        return _Supervision(len(replay), replayed, loss)
    teacher = None
    policy = replace(job.policy, mix="none")
    if job.labels == "online":
        if job.classes is not None:
            raise OptionError("labels=online mixes images of all classes; train on some classes with stored labels")
        if job.teacher is None:
            raise OptionError("--labels online needs the teacher: give --teacher")
        teacher, policy = Teacher.load(job.teacher, device, job.order), job.policy
    fresh = FreshLoader(
        manifest, replace(policy, count=1), batch_size=batch, device=device, ipc=job.ipc, seed=job.seed,
        label=teacher.logits if teacher else None, group=group, classes=job.classes,
    )  # fmt: skip
    return _Supervision(len(fresh), lambda epoch: with_target(fresh.epoch(epoch)), loss)


def _soft_loss(spec: TrainSpec) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the protocol's loss on the teacher's logits."""
    factor = spec.temperature**2 if spec.loss == "kl-t2" else 1.0
    return lambda logits, target: factor * soft_label_loss(logits, target, spec.temperature)


@dataclass(frozen=True)
class _Measure:
    """Validation images, uint8 [n,3,S,S], with labels, int64 [n], and the name that results give them."""

    images: Tensor
    labels: Tensor
    name: str
    manifest: Manifest
    device: torch.device
    group: Group

    def accuracy(self, network: nn.Module, title: str = "") -> float:
        """Return the top-1 accuracy of `network` in percent; `title` is that of a progress bar."""
        seen = self.manifest.normalisation
        return accuracy(network, self.images, self.labels, seen.mean, seen.std, self.device, title, self.group)


def _measure(job: StudentJob, manifest: Manifest, device: torch.device, group: Group) -> _Measure | None:
    """Return the validation images of a student, loaded once per process; None if it has none."""
    if job.val is None:
        return None
    ref = job.val

    def load() -> tuple[Tensor, Tensor, str]:
        validation = ref.open(manifest.classes, manifest.source)
        return *validation.load(manifest.eval), validation.name

    key = (ref, job.measured, manifest.eval.resize, manifest.eval.crop, tuple(manifest.class_names))
    images, labels, name = STATE.keep("validation images", key, load)
    if job.classes is not None:
        output = torch.full((len(manifest.classes),), -1)
        output[list(job.classes)] = torch.arange(len(job.classes))
        images, labels = images[output[labels] >= 0], output[labels][output[labels] >= 0]
    return _Measure(images, labels, f"{name} ({len(labels)} images)", manifest, device, group)
