"""Evaluates sets x networks x seeds as one table (`ddkit evaluate`); finished students are loaded, not retrained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ddkit import engine, hub
from ddkit.core.console import note, watched_progress
from ddkit.core.device import cores, hardware, pick_device
from ddkit.core.files import locked
from ddkit.core.serialization import fingerprint, to_plain
from ddkit.core.worker_state import STATE
from ddkit.distillers import recorded_settings
from ddkit.engine.interleaving import group_jobs
from ddkit.errors import OptionError, SetError
from ddkit.evaluation.baselines import make_baseline
from ddkit.evaluation.measures.accuracy import accuracy_entry, compared
from ddkit.evaluation.students import StudentOptions, default_validation, plan_students
from ddkit.format.manifest import Manifest
from ddkit.format.manifest_file import read_manifest, write_manifest
from ddkit.format.results import EvalReport, ResultEntry, merged_results
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
    baseline: str | None = "random",
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
        data: The source, for the baseline, if OUT.work does not record it.
        archs: Networks. Default: the teacher's.
        runs: Students per set and network, with seeds 0 to runs - 1.
        protocol: A protocol's name or TOML file. Default: the one the set recommends.
        ipc: Train on the first images per class, a prefix of the set.
        epochs: Number of epochs. Default: the protocol's.
        labels: "stored", "hard" or "online".
        teacher: Teacher for online labels, and for relabelling sets whose views do not match `protocol`.
        baseline: "random", or None.
        device: "auto" or a torch device name.
        workers: Number of processes. Default: the number of cores.
        command: The command that was called, recorded in the results.

    Returns:
        One ResultEntry per row of the table.

    Raises:
        InputError, IntegrityError.
    """
    check_counts(ipc=ipc, workers=workers, runs=runs)
    if baseline not in (None, "random"):
        raise OptionError(f"--baseline is {baseline!r}; valid: random")
    STATE.drop()
    sets, where = _open_sets([directories] if isinstance(directories, str | Path) else directories), pick_device(device)
    ref = ValidationRef(data=val) if isinstance(val, str) else val or default_validation(sets[0])
    if ref is None:
        raise OptionError(f"{sets[0].root} has no holdout available; give images to measure on with --val SOURCE")
    rows = [_labelled_for(row, protocol, labels, teacher) for row in _rows(sets, baseline, data, teacher)]
    options = StudentOptions(
        protocol=protocol, labels=labels, ipc=ipc, epochs=epochs, teacher=teacher, val=ref, device=str(where)
    )
    cells = [
        _Cell(row, arch, [_students(m, replace(options, arch=arch), range(runs)) for m in row.sets])
        for row in rows
        for arch in archs or [sets[0].recommended.arch]
    ]
    unique = {job.out: job for cell in cells for seeds in cell.jobs for job in seeds}
    found = run_students(list(unique.values()), (workers or cores()) if where.type == "cpu" else 1)
    measured_on = ref.open(sets[0].classes, sets[0].source)
    entries = [
        cell.entry(found, options, val=measured_on, command=command,
                   hardware=hardware(where))
        for cell in cells
    ]  # fmt: skip
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
    """One row of the table: sets that differ only in seed.

    of: "this" or "random"; about: the given sets that the row belongs to; labels: "relabelled", or None for the
    labels that were asked for.
    """

    of: str
    sets: list[Manifest]
    about: list[Path]
    labels: str | None = None


@dataclass(frozen=True)
class _Cell:
    """One row of the table for one network. jobs: its students, by set and seed."""

    row: _Row
    arch: str
    jobs: list[list[StudentJob]]

    def entry(
        self,
        found: Mapping[str, StudentResult],
        options: StudentOptions,
        *,
        val: Validation,
        command: str,
        hardware: str,
    ) -> ResultEntry:
        """Return the result of its students. found: their results by `job.out`."""
        first = self.row.sets[0]
        return accuracy_entry(
            [[found[job.out] for job in seeds] for seeds in self.jobs], of=self.row.of, ipc=options.ipc or first.ipc,
            arch=self.arch, protocol=protocol_label(first.protocol(options.protocol).name, options.epochs),
            labels=self.row.labels or options.labels, val=val.name, val_images=val.used,
            seeds=[job.seed for job in self.jobs[0]],
            total_bytes=first.total_bytes(options.ipc), command=command, hardware=hardware,
        )  # fmt: skip


def _rows(sets: Sequence[Manifest], baseline: str | None, data: str | None, teacher: str | None) -> list[_Row]:
    """Return the rows of the table: the given sets grouped by `_groups`, then their baselines."""
    rows = [_Row("this", group, [m.root for m in group]) for group in _groups(sets)]
    baselines = [make_baseline(m, data, teacher) for m in sets] if baseline else []
    by_root = {m.root: b for m, b in zip(sets, baselines) if b is not None and b.root != m.root}
    return rows + [
        _Row("random", [by_root[r] for r in row.about], row.about) for row in rows if by_root.keys() >= {*row.about}
    ]


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


def _labelled_for(row: _Row, protocol: str | None, labels: str, teacher: str | None) -> _Row:
    """Return the row with its sets relabelled in OUT.work if their views do not match the protocol."""
    if labels != "stored" or protocol is None:
        return row
    problems = [problem for m in row.sets if (problem := policy_problem(m, m.protocol(protocol)))]
    if not problems:
        return row
    if teacher is None:
        root = row.sets[0].root
        raise SetError(
            f"{root}: {problems[0]}; give --teacher T to relabel it here, or run "
            f"`ddkit relabel {root} OUT --protocol {protocol} --teacher T`"
        )
    relabelled = []
    for m in row.sets:
        asked, spec = m.protocol(protocol), resolve_teacher(teacher, m.classes, str(m.root)).spec
        key = fingerprint([m.content, to_plain(asked), spec.hash, list(spec.mean), list(spec.std)])[:12]
        out = work_dir(m.root) / f"relabelled-{asked.name}-{key}"
        relabelled.append(relabel(m.root, out, teacher=teacher, protocol=protocol))
    return replace(row, sets=relabelled, labels="relabelled")


def _students(manifest: Manifest, options: StudentOptions, seeds: Sequence[int]) -> list[StudentJob]:
    """Return the jobs of some students; files in OUT.work/students, named by the hash of their inputs."""
    jobs = []
    for job in plan_students(manifest, options, seeds, Path(".")):
        arch = job.arch.replace(":", "-").replace("/", "-")
        name = f"{job.labels}-{arch}-{job.seed}-{job.result_key[:16]}"
        jobs.append(replace(job, out=str(work_dir(manifest.root) / "students" / name)))
    return jobs


def run_students(jobs: Sequence[StudentJob], workers: int) -> dict[str, StudentResult]:
    """Train students in parallel, on a GPU interleaved.

    Args:
        jobs: The students.
        workers: Number of processes.

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
        done = engine.run(groups, workers=workers)
        return {job.out: result for group, results in done for job, result in zip(group.jobs, results)}


def _compared(cells: Sequence[_Cell], entries: Sequence[ResultEntry]) -> list[ResultEntry]:
    """Return the entries, each with its paired difference to its baseline."""
    baselines = {
        (tuple(cell.row.about), cell.arch): entry for cell, entry in zip(cells, entries) if cell.row.of == "random"
    }
    return [
        compared(entry, baselines.get((tuple(cell.row.about), cell.arch)) if cell.row.of == "this" else None)
        for cell, entry in zip(cells, entries)
    ]


def _write_results(sets: Sequence[Manifest], cells: Sequence[_Cell], report: Sequence[ResultEntry]) -> None:
    """Write the entries into the current manifest and card of every set they belong to."""
    for measured in sets:
        with locked(measured.root, "writing results"):
            manifest = read_manifest(measured.root)
            if manifest.content != measured.content:
                note(f"{measured.root} changed while it was measured; the results are not written into it")
                continue
            mine = [entry for cell, entry in zip(cells, report) if measured.root in cell.row.about]
            results = merged_results(mine, manifest.results)
            publish_files(write_manifest(manifest.root, manifest.changed(results=results)))
