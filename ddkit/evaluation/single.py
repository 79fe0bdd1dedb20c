"""One student from one distilled set: `ddkit train`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from ddkit.errors import OptionError
from ddkit.format.manifest import Manifest
from ddkit.format.remote import open_set
from ddkit.pipeline.record import RECORD, work_dir
from ddkit.pipeline.relabels import demand_law
from ddkit.replay.student import StudentJob, StudentResult, ValidationRef, train_student
from ddkit.runtime import note, pick_device, progress
from ddkit.sources.finding import find_teacher, match_teacher
from ddkit.sources.networks import check_network
from ddkit.sources.tables import at_hand
from ddkit.sources.validation import open_validation
from ddkit.specs import DatasetSpec

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
    path, order = None, None
    if labels == "stored":
        demand_law(manifest, loaded)
    elif labels == "online":
        if teacher is None:
            raise OptionError("--labels online needs the teacher: give --teacher FILE")
        path = find_teacher(teacher, None, size=manifest.size, seed=0, device=pick_device(device))
        _, order = match_teacher(path, manifest.classes, str(manifest.root))
    if val is not None:
        open_validation(
            val.data, manifest.classes, split=val.split, source=source_spec(manifest), image_column=val.image_column,
            label_column=val.label_column, same_order=val.same_order,
        )  # fmt: skip
    return StudentJob(
        directory=str(manifest.root), ipc=ipc, arch=arch, spec=spec, law=law, labels=labels, seed=seed, out=str(out),
        device=device, val=val, teacher=None if path is None else str(path), order=order, measure_every=measure_every,
    )  # fmt: skip


def source_spec(manifest: Manifest) -> DatasetSpec:
    """What a set was made from."""
    source = manifest.data["source"]
    return DatasetSpec(**{key: source[key] for key in ("id", "split", "fingerprint", "holdout")})


def default_validation(manifest: Manifest) -> ValidationRef | None:
    """The holdout, where one was made and OUT.work still knows where the source is; else None."""
    path = work_dir(manifest.root) / RECORD
    if manifest.data["source"]["holdout"] is None or not path.is_file():
        return None
    record = json.loads(path.read_text(encoding="utf-8"))
    if not at_hand(record["data"]):
        return None
    return ValidationRef(
        data=record["data"], split=record["split"], image_column=record["image_column"],
        label_column=record["label_column"],
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
    ./NAME-ARCH.safetensors, with .jsonl beside it. Raises InputError, IntegrityError, Diverged.
    """
    manifest = open_set(source, ipc, labels=labels == "stored", images=labels != "stored")
    where = pick_device(device)
    ref = ValidationRef(data=val) if isinstance(val, str) else val or default_validation(manifest)
    name = arch or manifest.data["recommended"]["arch"]
    path = Path(out) if out is not None else Path(f"{manifest.data['name']}-{name.replace(':', '-')}.safetensors")
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
