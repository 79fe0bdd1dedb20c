"""Sets x networks x seeds -> one table (`ddkit evaluate`). Students run side by side; finished ones are read back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ddkit import engine, hub
from ddkit.core.console import note, watched_progress
from ddkit.core.device import cores, hardware, pick_device
from ddkit.core.files import locked
from ddkit.core.serialization import fingerprint, to_plain
from ddkit.distillers import recorded_settings
from ddkit.engine.interleaving import together
from ddkit.errors import OptionError, SetError
from ddkit.evaluation.single import default_validation, plan_student, source_spec
from ddkit.evaluation.statistics import mean_std, paired_difference
from ddkit.format.manifest import Manifest, merged_results, read_manifest, write_manifest
from ddkit.networks.checkpoints import load_checkpoint
from ddkit.pipeline.distilling import distill
from ddkit.pipeline.record import check_counts, check_work, load_record, work_dir
from ddkit.pipeline.relabelling import law_problem, relabel
from ddkit.publishing.card import publish_files
from ddkit.sources.tables import at_hand
from ddkit.sources.validation import open_validation
from ddkit.specs import EvalReport, Result, protocol_label
from ddkit.students.training import StudentJob, StudentResult, ValidationRef, student_units
from ddkit.teachers.resolving import find_teacher


def evaluate(
    directories: Sequence[str | Path],
    *,
    val: str | ValidationRef | None = None,
    data: str | None = None,
    archs: Sequence[str] = (),
    runs: int = 3,
    protocol: str | None = None,
    ipc: int | None = None,
    epochs: int | None = None,
    labels: str = "stored",
    teacher: str | None = None,
    baseline: str | None = "random",
    device: str = "auto",
    workers: int | None = None,
    command: str = "ddkit.evaluate",
) -> EvalReport:
    """Train `runs` students (seeds 0 … runs-1) of each network on each set and measure them; one Result a row.

    Sets that differ only in seed are one row. val: default the holdout. data: the source, for the baseline, where
    OUT.work does not know it; baseline: `random` or None. teacher: relabels sets whose views do not serve `protocol`.
    Results replace those of the same key in every set's manifest; its card is rendered anew.
    Raises InputError, IntegrityError.
    """
    if runs < 1:
        raise OptionError(f"--runs is {runs}; at least 1 is needed")
    check_counts({"ipc": ipc, "workers": workers})
    if baseline not in (None, "random"):
        raise OptionError(f"--baseline is {baseline!r}; valid: random")
    if away := [d for d in directories if hub.parse_id(str(d))]:
        raise SetError(f"{away[0]} is no directory; results are written into the set: `ddkit pull {away[0]} DIR` first")
    different = {Path(directory).resolve(): directory for directory in directories}  # one named twice counts once
    sets = [read_manifest(directory) for directory in different.values()]
    for manifest in sets:
        check_work(work_dir(manifest.root))
    where = pick_device(device)
    ref = ValidationRef(data=val) if isinstance(val, str) else val or default_validation(sets[0])
    if ref is None:
        raise OptionError(f"{sets[0].root} has no holdout at hand; give images to measure on with --val SOURCE")
    rows = [_Row("this", group, [m.root for m in group]) for group in _groups(sets)]
    baselines = [make_baseline(m, data, teacher) for m in sets] if baseline else []
    by_root = {m.root: b for m, b in zip(sets, baselines) if b is not None and b.root != m.root}
    rows += [
        _Row("random", [by_root[r] for r in row.about], row.about) for row in rows if by_root.keys() >= {*row.about}
    ]
    rows = [_labelled_for(row, protocol, labels, teacher) for row in rows]
    cells = [
        _Cell(row, arch, [
            [_student(m, arch, protocol, labels, ipc, epochs, seed, ref, teacher, str(where)) for seed in range(runs)]
            for m in row.sets
        ])
        for row in rows
        for arch in archs or [sets[0].data["recommended"]["arch"]]
    ]  # fmt: skip
    unique = {job.out: job for cell in cells for seeds in cell.jobs for job in seeds}
    found = run_students(list(unique.values()), (workers or cores()) if where.type == "cpu" else 1)
    validation, _ = open_validation(
        ref.data, sets[0].classes, split=ref.split, source=source_spec(sets[0]), image_column=ref.image_column,
        label_column=ref.label_column, same_order=ref.same_order,
    )  # fmt: skip
    compared = _compare([
        (cell.row, cell.result(
            found, ipc=ipc or cell.row.sets[0].ipc, labels=cell.row.labels or labels, val=validation.name,
            protocol=protocol_label(cell.row.sets[0].protocol(protocol).name, epochs), command=command,
            hardware=hardware(where),
        ))
        for cell in cells
    ])  # fmt: skip
    _record(sets, compared)
    return tuple(result for _, result in compared)


@dataclass(frozen=True)
class _Row:
    """One line of the table: sets that differ only in seed. about: the given sets it says something of."""

    of: str
    sets: list[Manifest]
    about: list[Path]
    labels: str | None = None


@dataclass(frozen=True)
class _Cell:
    """One line of the table for one network. jobs: its students, by set and seed."""

    row: _Row
    arch: str
    jobs: list[list[StudentJob]]

    def result(self, found: Mapping[str, StudentResult], *, ipc: int, **conditions: str) -> Result:
        """What its students reached, not compared with a baseline yet. found: by `job.out`; conditions: labels,
        protocol, val, command and hardware of the Result."""
        students = [[found[job.out] for job in seeds] for seeds in self.jobs]
        values = tuple(tuple(float(student.accuracy or 0.0) for student in seeds) for seeds in students)
        mean, std = mean_std([value for seeds in values for value in seeds])
        return Result(
            of=self.row.of, ipc=ipc, arch=self.arch, seeds=tuple(job.seed for job in self.jobs[0]),
            n_sets=len(students), n_students=sum(map(len, students)), values=values, mean=round(mean, 2),
            std=round(std, 2), difference=None,
            total_bytes=sum(shard["bytes"] for shard in self.row.sets[0].shards(ipc)),
            seconds=round(sum(student.seconds for seeds in students for student in seeds), 2), **conditions,
        )  # fmt: skip


def _groups(sets: Sequence[Manifest]) -> list[list[Manifest]]:
    """Sets that differ only in seed, together, whichever version made them."""
    groups: dict[str, list[Manifest]] = {}
    for m in sets:
        data = m.data
        recipe = data["recipe"] | {"config": recorded_settings(data["method"], data["recipe"]["config"])}
        key = fingerprint(
            [data["method"], recipe, to_plain(m.view_spec), data["labels"]["codec"], m.prefixes, data["image"],
             data["source"]["fingerprint"], [t["hash"] for t in data["teachers"]]]
        )  # fmt: skip
        groups.setdefault(key, []).append(m)
    return list(groups.values())


def make_baseline(manifest: Manifest, data: str | None = None, teacher: str | None = None) -> Manifest | None:
    """`random` with the set's teacher, views and seed, in OUT.work; None where source or teacher are not at hand.

    data, teacher: where OUT.work does not know them. What is made with another source or teacher than the set is no
    baseline of it.
    """
    record = load_record(manifest.root)
    unnamed = record.unnamed() if record else []
    data = data or (record.data if record and "data" not in unnamed else None)
    if record and "teacher" not in unnamed:
        teacher = record.teacher
    if data is None or teacher is None or not at_hand(data):
        lacking = " and ".join(f"--{name}" for name, value in (("data", data), ("teacher", teacher)) if value is None)
        note(f"{manifest.root}: no baseline random, {f'for want of {lacking}' if lacking else f'{data} is not there'}")
        return None
    if manifest.data["method"] == "random":
        return manifest
    note(f"{manifest.root}: baseline random, same teacher, views and seed")
    kept = ("split", "image_column", "label_column", "classes", "holdout", "skip_bad")
    same: dict[str, Any] = {key: getattr(record, key) or None for key in kept} if record else {}
    law = manifest.protocol(manifest.data["views"]["protocol"])
    made = distill(
        work_dir(manifest.root) / "baseline",
        data=data, method="random", ipc=manifest.ipc, prefixes=tuple(manifest.prefixes), seed=manifest.data["seed"],
        protocol=law, views=manifest.view_spec.count, size=manifest.image_size,
        teacher=teacher, codec=manifest.data["labels"]["codec"], image_format=manifest.image_codec, yes=True,
        **same,
    )  # fmt: skip
    for what in (("source", "fingerprint"), ("teachers", "hash")):
        ours, theirs = (m.data[what[0]] if what[0] == "source" else m.data[what[0]][0] for m in (manifest, made))
        if ours[what[1]] != theirs[what[1]]:
            note(f"{manifest.root}: no baseline random, the {what[0].removesuffix('s')} at hand is not the set's own")
            return None
    return made


def _labelled_for(row: _Row, protocol: str | None, labels: str, teacher: str | None) -> _Row:
    """The row's sets, relabelled in OUT.work where their views do not serve the protocol and a teacher is given."""
    if labels != "stored" or protocol is None or all(law_problem(m, m.protocol(protocol)) is None for m in row.sets):
        return row
    if teacher is None:
        problem = next(p for m in row.sets if (p := law_problem(m, m.protocol(protocol))))
        root = row.sets[0].root
        raise SetError(
            f"{root}: {problem}; give --teacher T to relabel it here, or run "
            f"`ddkit relabel {root} OUT --protocol {protocol} --teacher T`"
        )
    where = find_teacher(teacher, None, size=None, seed=0, device=torch.device("cpu"))
    spec = load_checkpoint(where)[1]
    relabelled = []
    for m in row.sets:
        asked = m.protocol(protocol)
        key = fingerprint([m.data["content"], to_plain(asked), spec.hash, list(spec.mean), list(spec.std)])[:12]
        out = work_dir(m.root) / f"relabelled-{asked.name}-{key}"
        relabelled.append(relabel(m.root, out, teacher=teacher, protocol=protocol))
    return replace(row, sets=relabelled, labels="relabelled")


def _student(
    manifest: Manifest,
    arch: str,
    protocol: str | None,
    labels: str,
    ipc: int | None,
    epochs: int | None,
    seed: int,
    val: ValidationRef,
    teacher: str | None,
    device: str,
) -> StudentJob:
    """A student's job, kept in OUT.work/students under a name made of all that decides it."""
    job = plan_student(
        manifest, arch=arch, protocol=protocol, labels=labels, ipc=ipc, epochs=epochs, seed=seed, out=Path("."),
        device=device, val=val, teacher=teacher,
    )  # fmt: skip
    name = f"{labels}-{arch.replace(':', '-').replace('/', '-')}-{seed}-{job.result_key[:16]}"
    return replace(job, out=str(work_dir(manifest.root) / "students" / name))


def run_students(jobs: Sequence[StudentJob], workers: int) -> dict[str, StudentResult]:
    """Train students side by side, one CPU thread each, or some together on a GPU; returns results by `job.out`."""
    total, sizes = 0, []
    for job in jobs:
        Path(job.out).parent.mkdir(parents=True, exist_ok=True)
        manifest = read_manifest(job.directory)
        images = manifest.rows(job.ipc)
        total += job.spec.epochs_for(images)
        sizes.append(job.spec.batch_for(images) * manifest.size**2)
    groups = together(jobs, sizes, jobs[0].device)

    def epochs_done() -> int:
        return sum(job.log.read_bytes().count(b"\n") for job in jobs if job.log.is_file())

    with watched_progress(f"{len(jobs)} students", total, "epochs", epochs_done):
        done = engine.run(student_units, groups, workers=workers)
        return {job.out: result for group, results in done for job, result in zip(group, results)}


def _compare(report: list[tuple[_Row, Result]]) -> list[tuple[_Row, Result]]:
    """Fill in the paired difference of every row to its baseline's."""
    baselines = {(tuple(row.about), result.arch): result for row, result in report if row.of == "random"}
    compared = []
    for row, result in report:
        theirs = baselines.get((tuple(row.about), result.arch)) if row.of == "this" else None
        if theirs is not None:
            result = replace(result, difference=paired_difference(result.values, theirs.values))
        compared.append((row, result))
    return compared


def _record(sets: Sequence[Manifest], report: list[tuple[_Row, Result]]) -> None:
    """Write the rows into the manifest and the card of every set they are about, as it is now."""
    for measured in sets:
        with locked(measured.root, "writing results"):
            manifest = read_manifest(measured.root)
            if manifest.data["content"] != measured.data["content"]:
                note(f"{measured.root} was changed while it was measured; its results are not written into it")
                continue
            mine = [to_plain(result) for row, result in report if measured.root in row.about]
            data: dict[str, Any] = dict(manifest.data) | {"results": merged_results(mine, manifest.data["results"])}
            publish_files(write_manifest(manifest.root, data))
