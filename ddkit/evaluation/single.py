"""One student from one distilled set: `ddkit train`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from ddkit.core.console import note, progress
from ddkit.core.device import pick_device
from ddkit.core.serialization import fingerprint, to_plain
from ddkit.errors import OptionError
from ddkit.format.manifest import Manifest
from ddkit.networks.registry import check_network
from ddkit.pipeline.record import load_record
from ddkit.pipeline.relabelling import demand_law
from ddkit.sets.opening import open_set
from ddkit.sources.tables import at_hand
from ddkit.sources.validation import open_validation
from ddkit.specs import DatasetSpec
from ddkit.students.training import StudentJob, StudentResult, ValidationRef, train_student
from ddkit.teachers.resolving import find_teacher, match_teacher

LABELS = ("stored", "hard", "online")


def plan_student(
    manifest: Manifest,
    *,
    arch: str | None,
    protocol: str | None,
    labels: str,
    ipc: int | None,
    epochs: int | None,
    seed: int,
    out: Path,
    device: str,
    val: ValidationRef | None,
    teacher: str | None = None,
    measure_every: int = 0,
) -> StudentJob:
    """A student's job, checked: network, protocol, view law, teacher. Raises OptionError, SetError, TeacherError."""
    if labels not in LABELS:
        raise OptionError(f"--labels is {labels!r}; valid: {', '.join(LABELS)}")
    arch = arch or manifest.data["recommended"]["arch"]
    check_network(arch, len(manifest.classes), manifest.size)
    loaded = manifest.protocol(protocol)
    spec = loaded.train_spec(ipc=ipc or manifest.ipc, arch=arch, dataset=manifest.dataset, epochs=epochs)
    law = loaded.view_spec(patches=manifest.patches, dataset=manifest.dataset)
    manifest.shards(ipc)
    path, order, labeller = None, None, None
    if labels == "stored":
        demand_law(manifest, loaded)
    elif labels == "online":
        if teacher is None:
            raise OptionError("--labels online needs the teacher: give --teacher FILE")
        path = find_teacher(teacher, None, size=manifest.size, seed=0, device=pick_device(device))
        found, order = match_teacher(path, manifest.classes, str(manifest.root))
        labeller = [found.hash, list(found.mean), list(found.std), list(order or ())]
    measured = ""
    if val is not None:
        validation, _ = open_validation(
            val.data, manifest.classes, split=val.split, source=source_spec(manifest), image_column=val.image_column,
            label_column=val.label_column, same_order=val.same_order,
        )  # fmt: skip
        measured = fingerprint(
            [
                validation.source.fingerprint,
                to_plain(replace(validation.source.ref, data="")),
                validation.labels.tolist(),
            ]
        )
    data = manifest.data
    seen = [data["content"], data["classes"], data["image"], data["views"], data["normalisation"], data["eval"]]
    key = fingerprint(
        [seen, arch, to_plain(spec), None if labels == "stored" else to_plain(law), labels, labeller, ipc, seed,
         torch.device(device).type]
    )  # fmt: skip
    return StudentJob(
        directory=str(manifest.root), ipc=ipc, arch=arch, spec=spec, law=law, labels=labels, seed=seed, out=str(out),
        device=device, val=val, teacher=None if path is None else str(path), order=order, measure_every=measure_every,
        key=key, measured=measured,
    )  # fmt: skip


def source_spec(manifest: Manifest) -> DatasetSpec:
    """What a set was made from."""
    source = manifest.data["source"]
    return DatasetSpec(**{key: source[key] for key in ("id", "split", "fingerprint", "holdout")})


def default_validation(manifest: Manifest) -> ValidationRef | None:
    """The holdout, where one was made and OUT.work still knows where the source is; else None."""
    if manifest.repo is not None or manifest.data["source"]["holdout"] is None:
        return None
    record = load_record(manifest.root)
    if record is None or "data" in record.unnamed() or not at_hand(record.data):
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
    on_estimate: Callable[[float], None] | None = None,
) -> tuple[StudentJob, StudentResult]:
    """Train a student from the distilled set `source` (a directory, or ORG/NAME on the Hub) alone; returns its job and
    its result.

    arch, protocol: default the teacher's network and the manifest's recommended protocol; val: a source to measure on
    (default: the holdout, else nothing is measured); labels: stored, hard or online; out: the checkpoint, default
    ./NAME-ARCH[-LABELS][-sSEED].safetensors, with .jsonl beside it. A training that was stopped goes on only where
    nothing that decides its weights has changed. Raises InputError, OtherRun, IntegrityError, Diverged.
    """
    manifest = open_set(source, ipc, labels=labels == "stored", images=labels != "stored")
    where = pick_device(device)
    ref = ValidationRef(data=val) if isinstance(val, str) else val or default_validation(manifest)
    name = arch or manifest.data["recommended"]["arch"]
    other = f"{'' if labels == 'stored' else f'-{labels}'}{f'-s{seed}' if seed else ''}"
    default = f"{manifest.data['name']}-{name.replace(':', '-').replace('/', '-')}{other}.safetensors"
    path = Path(default if out is None else out)
    if path.suffix != ".safetensors":
        raise OptionError(f"--out is {path}; a checkpoint is a .safetensors file")
    if path.is_file():
        note(f"{path} is there and will be replaced; --out gives another name")
    job = plan_student(
        manifest, arch=arch, protocol=protocol, labels=labels, ipc=ipc, epochs=epochs, seed=seed,
        out=path.with_suffix(""), device=str(where), val=ref, teacher=teacher,
    )  # fmt: skip
    with progress(f"student {job.arch}", job.spec.epochs_for(manifest.rows(ipc)), "epochs") as advance:
        result = train_student(job, on_epoch=advance, on_estimate=on_estimate)
    return job, result
