"""Evaluates sets x networks x seeds as one table (`ddkit evaluate`); finished students are loaded, not retrained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ddkit import hub
from ddkit.core.console import note, watched_progress
from ddkit.core.device import hardware, pick_device
from ddkit.core.locks import locked
from ddkit.core.serialization import fingerprint, to_plain
from ddkit.core.worker_state import STATE
from ddkit.distillers import recorded_settings
from ddkit.engine import Engine, select_engine
from ddkit.engine.interleaving import group_jobs
from ddkit.errors import OptionError, SetError
from ddkit.evaluation.baselines import BASELINES, DEFAULT, Subject, baseline_names
from ddkit.evaluation.entries import accuracy_entry, compared
from ddkit.evaluation.students import StudentOptions, default_validation, plan_students
from ddkit.evaluation.training_data import TrainingData
from ddkit.format.manifest import Manifest
from ddkit.format.manifest_file import read_manifest, write_manifest
from ddkit.format.results import EvalReport, ResultEntry, merged_results, with_earlier_differences
from ddkit.pipeline.options import check_counts
from ddkit.pipeline.record import check_work, work_dir
from ddkit.pipeline.relabelling import policy_problem, relabel
from ddkit.publishing.rendering import publish_files
from ddkit.sources.validation import Validation, ValidationRef
from ddkit.specs import protocol_label
from ddkit.students.training import StudentGroup, StudentJob, StudentResult
from ddkit.teachers.resolving import resolve_teacher


def evaluate(
    directories: str | Path | Sequence[str | Path],
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
    baseline: str | Sequence[str] | None = DEFAULT,
    device: str = "auto",
    workers: int | None = None,
    command: str = "ddkit.evaluate",
) -> EvalReport:
    """Train students of each network on each set and measure them.

    The results are written into each set's manifest, where they replace those of the same measurement, and its card
    is rendered again.

    Args:
        directories: One set, or several; sets that differ only in seed share a row.
        val: Images to measure on. Default: the holdout.
        data: The source, for baselines, if OUT.work does not record it.
        archs: Networks. Default: the teacher's.
        runs: Students per set and network, with seeds 0 to runs - 1.
        protocol: A protocol's name or TOML file. Default: the one the set recommends.
        ipc: Train on the first images per class, a prefix of the set.
        epochs: Number of epochs. Default: the protocol's.
        labels: "stored", "hard" or "online".
        teacher: Teacher for online labels, for relabelling sets whose views do not match `protocol`, and for baselines
            if OUT.work does not record it.
        baseline: Any of "random", "hard", "equal-bytes" and "labeller" (`evaluation.baselines`), as a list or separated
            by commas; None: no baseline. Those that need a source or teacher that is not at hand are left out, with a
            note.
        device: "auto" or a torch device name.
        workers: Number of processes. Default: the number of cores.
        command: The command that was called, recorded in the results.

    Returns:
        One ResultEntry per row of the table: each set (or sets that differ only in seed), followed by its baselines.

    Raises:
        InputError, IntegrityError.
    """
    check_counts(ipc=ipc, workers=workers, runs=runs)
    baselines = baseline_names(baseline)
    STATE.drop()
    sets, where = _open_sets([directories] if isinstance(directories, str | Path) else directories), pick_device(device)
    ref = ValidationRef(data=val) if isinstance(val, str) else val or default_validation(sets[0])
    if ref is None:
        raise OptionError(f"{sets[0].root} has no holdout available; give images to measure on with --val SOURCE")
    options = StudentOptions(
        protocol=protocol, labels=labels, ipc=ipc, epochs=epochs, teacher=teacher, val=ref, device=str(where)
    )
    cells = [
        _Cell(row, arch, [_students(one, replace(options, arch=arch), range(runs)) for one in row.data])
        for row in _rows(sets, options, baselines, data, workers)
        for arch in archs or [sets[0].recommended.arch]
    ]
    _note_costs(cells)
    unique = {job.out: job for cell in cells for seeds in cell.jobs for job in seeds}
    engine = select_engine("local", device=where, workers=workers, devices=None, work=Path("."))
    found = run_students(list(unique.values()), engine)
    measured_on = ref.open(sets[0].classes, sets[0].source)
    entries = [cell.entry(found, options, val=measured_on, command=command, hardware=hardware(where)) for cell in cells]
    report = _compared(cells, entries)
    _write_results(sets, cells, report)
    return tuple(report)


def _open_sets(directories: Sequence[str | Path]) -> list[Manifest]:
    """Read the manifests of the sets, without duplicates. Raises SetError for a Hub id."""
    if away := [d for d in directories if hub.parse_id(str(d))]:
        raise SetError(
            f"{away[0]} is not a directory; results are written into the set, so run `ddkit pull {away[0]} DIR` first"
        )
    different = {Path(directory).resolve(): directory for directory in directories}
    sets = [read_manifest(directory) for directory in different.values()]
    for manifest in sets:
        check_work(work_dir(manifest.root))
    return sets


@dataclass(frozen=True)
class _Row:
    """One row of the table.

    data: one for each of some sets that differ only in seed; about: these sets; ipc: theirs, or of their prefix.
    """

    data: tuple[TrainingData, ...]
    about: tuple[Path, ...]
    ipc: int

    @property
    def baseline(self) -> str | None:
        """Name of the baseline; None for the sets themselves."""
        return self.data[0].baseline

    @property
    def title(self) -> str:
        """What students are trained on, for notes."""
        return self.baseline or f"this ({self.data[0].labels} labels)"


@dataclass(frozen=True)
class _Cell:
    """One row of the table for one network. jobs: its students, by set and seed."""

    row: _Row
    arch: str
    jobs: list[list[StudentJob]]

    def entry(
        self, found: Mapping[str, StudentResult], options: StudentOptions, *, val: Validation, command: str,
        hardware: str,
    ) -> ResultEntry:  # fmt: skip
        """Return the result of its students. found: their results by `job.out`."""
        first = self.row.data[0]
        return accuracy_entry(
            [[found[job.out] for job in seeds] for seeds in self.jobs], of=first.of, ipc=self.row.ipc, arch=self.arch,
            protocol=protocol_label(first.manifest.protocol(options.protocol).name, options.epochs),
            labels=first.labels, val=val.name, val_images=val.used, seeds=[job.seed for job in self.jobs[0]],
            images=first.manifest.rows(first.ipc), total_bytes=first.total_bytes, command=command, hardware=hardware,
        )  # fmt: skip


def _rows(
    sets: Sequence[Manifest], options: StudentOptions, baselines: Sequence[str], data: str | None, workers: int | None
) -> list[_Row]:
    """Return the rows of the table: the given sets grouped by `_groups`, each group followed by its baselines.

    A group has a baseline only if every set of it has.
    """
    rows: list[_Row] = []
    for group in _groups(sets):
        about, ipc = tuple(m.root for m in group), options.ipc or group[0].ipc
        own = _labelled_for(group, options)
        rows.append(_Row(own, about, ipc))
        subjects = [
            Subject(given=m, data=mine, source=data, teacher=options.teacher, device=options.device, workers=workers)
            for m, mine in zip(group, own)
        ]
        for name in baselines:
            made = [BASELINES[name](subject) for subject in subjects]
            kinds = [one.baseline for one in max(made, key=len)]
            for kind in kinds:
                theirs = tuple(one for ones in made for one in ones if one.baseline == kind)
                if len(theirs) == len(group):
                    rows.append(_Row(theirs, about, ipc))
    return rows


def _groups(sets: Sequence[Manifest]) -> list[list[Manifest]]:
    """Group sets that differ only in seed (and in the ddkit version that made them)."""
    groups: dict[str, list[Manifest]] = {}
    for m in sets:
        recipe = to_plain(m.recipe) | {"config": recorded_settings(m.method, m.recipe.config)}
        key = fingerprint(
            [m.method, recipe, to_plain(m.views.policy), m.labels.codec, list(m.prefixes), to_plain(m.image),
             m.source.fingerprint, [t.hash for t in m.teachers]]
        )  # fmt: skip
        groups.setdefault(key, []).append(m)
    return list(groups.values())


def _labelled_for(group: Sequence[Manifest], options: StudentOptions) -> tuple[TrainingData, ...]:
    """Return the training data of some sets, relabelled in OUT.work if their views do not match the protocol."""
    labels, teacher, protocol = options.labels, options.teacher, options.protocol
    if labels == "online" and teacher is not None:
        m = group[0]
        teacher = str(resolve_teacher(teacher, m.classes, str(m.root), size=m.views.size).path)
    problems = [
        problem
        for m in group
        if labels == "stored" and protocol and (problem := policy_problem(m, m.protocol(protocol)))
    ]
    if not problems:
        used = teacher if labels == "online" else None
        return tuple(TrainingData(of="this", labels=labels, manifest=m, ipc=options.ipc, teacher=used) for m in group)
    if teacher is None:
        root = group[0].root
        raise SetError(
            f"{root}: {problems[0]}; give --teacher T to relabel it here, or run "
            f"`ddkit relabel {root} OUT --protocol {protocol} --teacher T`"
        )
    relabelled = []
    for m in group:
        asked, spec = m.protocol(protocol), resolve_teacher(teacher, m.classes, str(m.root)).spec
        key = fingerprint([m.content, to_plain(asked), spec.hash, list(spec.mean), list(spec.std)])[:12]
        out = work_dir(m.root) / f"relabelled-{asked.name}-{key}"
        relabelled.append(relabel(m.root, out, teacher=teacher, protocol=protocol))
    return tuple(TrainingData(of="this", labels="relabelled", manifest=m, ipc=options.ipc) for m in relabelled)


def _students(data: TrainingData, options: StudentOptions, seeds: Sequence[int]) -> list[StudentJob]:
    """Return the jobs of some students; files in OUT.work/students, named by the hash of their inputs."""
    jobs = []
    mine = replace(options, labels=data.mode, ipc=data.ipc, teacher=data.teacher)
    for job in plan_students(data.manifest, mine, seeds, Path(".")):
        arch = job.arch.replace(":", "-").replace("/", "-")
        name = f"{job.labels}-{arch}-{job.seed}-{job.result_key[:16]}"
        jobs.append(replace(job, out=str(work_dir(data.manifest.root) / "students" / name)))
    return jobs


def run_students(jobs: Sequence[StudentJob], engine: Engine) -> dict[str, StudentResult]:
    """Train students in parallel, on a GPU interleaved.

    Args:
        jobs: The students.
        engine: Where they are trained.

    Returns:
        The results by `job.out`.
    """
    total, sizes = 0, []
    for job in jobs:
        Path(job.out).parent.mkdir(parents=True, exist_ok=True)
        manifest = read_manifest(job.directory)
        images = manifest.rows(job.ipc)
        total += job.spec.epochs_for(images)
        sizes.append(job.spec.batch_for(images) * manifest.views.size**2)
    groups = [StudentGroup(jobs=tuple(group)) for group in group_jobs(jobs, sizes, jobs[0].device)]

    def epochs_done() -> int:
        return sum(job.log.read_bytes().count(b"\n") for job in jobs if job.log.is_file())

    with watched_progress(f"{len(jobs)} students", total, "epochs", epochs_done):
        return {job.out: result for group in engine.run(groups) for job, result in zip(group.jobs, group.results())}


def _compared(cells: Sequence[_Cell], entries: Sequence[ResultEntry]) -> list[ResultEntry]:
    """Return the entries, those of the given sets with their paired differences to their baselines."""
    baselines: dict[Any, dict[str, ResultEntry]] = {}
    for cell, entry in zip(cells, entries):
        if cell.row.baseline is not None:
            baselines.setdefault((cell.row.about, cell.arch), {})[cell.row.baseline] = entry
    return [
        compared(entry, baselines.get((cell.row.about, cell.arch), {})) if cell.row.baseline is None else entry
        for cell, entry in zip(cells, entries)
    ]


def _note_costs(cells: Sequence[_Cell]) -> None:
    """Print how many students are trained, and on how many images for how many epochs in each row."""
    parts = []
    for cell in cells:
        job, data = cell.jobs[0][0], cell.row.data[0]
        images = data.manifest.rows(data.ipc)
        parts.append(f"{cell.arch} on {cell.row.title}, {images} images x {job.spec.epochs_for(images)} epochs")
    note(f"{sum(len(seeds) for cell in cells for seeds in cell.jobs)} students: {'; '.join(parts)}")


def _write_results(sets: Sequence[Manifest], cells: Sequence[_Cell], report: Sequence[ResultEntry]) -> None:
    """Write the entries into the current manifest and card of every set they belong to."""
    for measured in sets:
        with locked(measured.root, "writing results"):
            manifest = read_manifest(measured.root)
            if manifest.content != measured.content:
                note(f"{measured.root} changed while it was measured; the results are not written into it")
                continue
            mine = [entry for cell, entry in zip(cells, report) if measured.root in cell.row.about]
            mine = [with_earlier_differences(entry, manifest.results) for entry in mine]
            results = merged_results(mine, manifest.results)
            publish_files(write_manifest(manifest.root, manifest.changed(results=results)))
