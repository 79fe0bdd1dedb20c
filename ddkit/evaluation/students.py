"""Trains one student on one distilled set: `ddkit train`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ddkit.core.console import note, progress
from ddkit.core.distributed import open_group, rank_device
from ddkit.core.serialization import fingerprint, to_plain
from ddkit.errors import OptionError
from ddkit.evaluation.tracking import RUNS, check_tracker, track_student
from ddkit.format.codecs.registry import find_codec
from ddkit.format.manifest import Manifest
from ddkit.networks.registry import check_network
from ddkit.pipeline.record import load_record
from ddkit.pipeline.relabelling import require_policy
from ddkit.publishing.model_repositories import check_model, push_model, student_description
from ddkit.publishing.pictures import curves
from ddkit.sets.opening import open_set
from ddkit.sources.tables import is_available
from ddkit.sources.validation import ValidationRef
from ddkit.specs import TrainSpec, ViewSpec, protocol_label
from ddkit.students.training import StudentJob, StudentResult, train_student
from ddkit.teachers.resolving import ResolvedTeacher, resolve_teacher

LABELS = ("stored", "hard", "online")


@dataclass(frozen=True, kw_only=True)
class StudentOptions:
    """How students of a set are trained; None: the default of `train`.

    Attributes:
        arch: The network.
        protocol: A protocol's name or TOML file.
        labels: "stored", "hard" or "online".
        ipc: Images per class, a prefix of the set.
        epochs: Number of epochs.
        teacher: Teacher of online labels.
        val: Source to measure on.
        device: A torch device name.
        measure_every: Epochs between logged accuracies; 0: only after the last one.
        classes: Label indices of the classes they are trained on, in the order of their outputs; None: all.
    """

    arch: str | None = None
    protocol: str | None = None
    labels: str = "stored"
    ipc: int | None = None
    epochs: int | None = None
    teacher: str | None = None
    val: ValidationRef | None = None
    device: str = "cpu"
    measure_every: int = 0
    classes: tuple[int, ...] | None = None


def plan_students(manifest: Manifest, options: StudentOptions, seeds: Sequence[int], out: Path) -> list[StudentJob]:
    """Return the jobs of students that differ in their seed, after checking network, protocol, views, teacher and val.

    Args:
        manifest: The set.
        options: How they are trained.
        seeds: Seed of each student.
        out: Path of their checkpoint, without suffix.

    Raises:
        OptionError, SetError, TeacherError, SourceError, ClassesError.
    """
    labels, ipc = options.labels, options.ipc
    if labels not in LABELS:
        raise OptionError(f"--labels is {labels!r}; valid: {', '.join(LABELS)}")
    arch = options.arch or manifest.recommended.arch
    check_network(arch, len(options.classes or manifest.classes), manifest.views.size)
    loaded, dataset = manifest.protocol(options.protocol), manifest.recipe.dataset
    spec = loaded.train_spec(ipc=ipc or manifest.ipc, arch=arch, dataset=dataset, epochs=options.epochs)
    codec = find_codec(manifest.labels.codec)
    if labels == "stored" and (usual := codec.usual_temperature(spec.temperature)) != spec.temperature:
        note(f"labels of codec {codec.name}: students learn at temperature {usual:g} instead of {spec.temperature:g}")
        spec = replace(spec, temperature=usual)
    policy = loaded.view_spec(patches=manifest.image.patches, dataset=dataset)
    manifest.shards_of(ipc)
    found = None
    if labels == "stored":
        require_policy(manifest, loaded)
    elif labels == "online":
        if options.teacher is None:
            raise OptionError("--labels online needs the teacher: give --teacher FILE")
        found = resolve_teacher(options.teacher, manifest.classes, str(manifest.root), size=manifest.views.size)
    val = options.val
    measured = "" if val is None else val.open(manifest.classes, manifest.source).fingerprint
    decisive = _decisive(manifest, arch, spec, None if labels == "stored" else policy, labels, found, ipc)
    decisive += [] if options.classes is None else [list(options.classes)]
    kind = torch.device(options.device).type
    return [
        StudentJob(
            directory=str(manifest.root), ipc=ipc, arch=arch, spec=spec, policy=policy, labels=labels, seed=seed,
            out=str(out), device=options.device, val=val, teacher=None if found is None else str(found.path),
            order=None if found is None else found.order, measure_every=options.measure_every,
            key=fingerprint([*decisive, seed, kind]), measured=measured, classes=options.classes,
        )
        for seed in seeds
    ]  # fmt: skip


def _decisive(
    manifest: Manifest, arch: str, spec: TrainSpec, policy: ViewSpec | None, labels: str,
    teacher: ResolvedTeacher | None, ipc: int | None,
) -> list[Any]:  # fmt: skip
    """Return everything that determines a student's weights except seed and device, as JSON values."""
    m = manifest
    seen = [m.content, *map(to_plain, (m.classes, m.image, m.views, m.normalisation, m.eval))]
    labeller = None
    if teacher is not None:
        labeller = [teacher.spec.hash, list(teacher.spec.mean), list(teacher.spec.std), list(teacher.order or ())]
    return [seen, arch, to_plain(spec), None if policy is None else to_plain(policy), labels, labeller, ipc]


def default_validation(manifest: Manifest) -> ValidationRef | None:
    """Return the holdout of a set; None if it has none or OUT.work does not record an available source.

    Args:
        manifest: The set.
    """
    if manifest.location.hub_id is not None or manifest.source.holdout is None:
        return None
    record = load_record(manifest.root)
    if record is None or "data" in record.unnamed() or not is_available(record.data):
        return None
    return ValidationRef(
        data=record.data, split=record.split, image_column=record.image_column, label_column=record.label_column,
    )  # fmt: skip


def train(
    source: str | Path,
    *,
    arch: str | None = None,
    val: str | ValidationRef | None = None,
    protocol: str | None = None,
    labels: str = "stored",
    teacher: str | None = None,
    ipc: int | None = None,
    epochs: int | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    device: str = "auto",
    push_to: str | None = None,
    on_estimate: Callable[[float], None] | None = None,
    track: str | None = None,
) -> tuple[StudentJob, StudentResult]:
    """Train a student on a distilled set alone.

    An interrupted training is resumed only if everything that determines its weights is unchanged. The processes that
    torchrun started train it together; each returns the result, and rank 0 writes the files.

    Args:
        source: The set: a directory, or "ORG/NAME" on the Hub.
        arch: The network. Default: the teacher's.
        val: A source to measure on. Default: the holdout if its source is available, else nothing is measured.
        protocol: A protocol's name or TOML file. Default: the one the set recommends.
        labels: "stored", "hard" (classes only, new views without mixing) or "online" (new views, labelled by
            `teacher`).
        teacher: Teacher of online labels: a checkpoint, "timm:NAME[@FILE]" or "torchvision:NAME[@FILE]".
        ipc: Train on the first images per class, a prefix of the set. Default: all.
        epochs: Number of epochs. Default: the protocol's.
        seed: Seed of the student's initialisation and of the row order.
        out: The checkpoint, with `.jsonl` and `.png` beside it. Default ./NAME-ARCH[-LABELS][-sSEED].safetensors.
        device: "auto" or a torch device name.
        push_to: Publish the student as this model repository "ORG/NAME" (timm networks only).
        on_estimate: Called with the expected seconds after 20 steps.
        track: Log the learning curve to "tensorboard" (event files in ./runs), "trackio" or "wandb" as well.

    Returns:
        The student's job, with the paths of its files, and its result.

    Raises:
        InputError, OtherRun, IntegrityError, Diverged, RankLost.
    """
    check_tracker(track)
    where = rank_device(device)
    with open_group(where) as group:
        manifest = open_set(source, ipc, labels=labels == "stored", images=labels != "stored")
        ref = ValidationRef(data=val) if isinstance(val, str) else val or default_validation(manifest)
        name = arch or manifest.recommended.arch
        other = f"{'' if labels == 'stored' else f'-{labels}'}{f'-s{seed}' if seed else ''}"
        default = f"{manifest.name}-{name.replace(':', '-').replace('/', '-')}{other}.safetensors"
        path = Path(default if out is None else out)
        if path.suffix != ".safetensors":
            raise OptionError(f"--out is {path}; a checkpoint is a .safetensors file")
        if path.is_file():
            note(f"{path} exists and will be replaced; use --out for another name")
        options = StudentOptions(
            arch=arch, protocol=protocol, labels=labels, ipc=ipc, epochs=epochs, teacher=teacher, val=ref,
            device=str(where),
        )  # fmt: skip
        (job,) = plan_students(manifest, options, [seed], path.with_suffix(""))
        if push_to is not None:
            check_model(job.arch, len(manifest.classes), manifest.views.size, push_to)
        with progress(f"student {job.arch}", job.spec.epochs_for(manifest.rows(ipc)), "epochs") as advance:
            result = train_student(job, on_epoch=advance, on_estimate=on_estimate, group=group)
    if not group.leads:
        return job, result
    curves({job.arch: result.history}, job.picture)
    if track is not None:
        config = {
            "set": manifest.name,
            "content": manifest.content,
            "network": job.arch,
            "labels": labels,
            "seed": seed,
        }
        track_student(track, path.stem, Path(RUNS), config, result)
    if push_to is not None:
        label = protocol_label(manifest.protocol(protocol).name, epochs)
        address = push_model(job.checkpoint, push_to, student_description(manifest, job, result, label))
        result = replace(result, published=address)
    return job, result
