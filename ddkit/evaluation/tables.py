"""Evaluates sets x networks x seeds as one table (`ddkit evaluate`); finished students are loaded, not retrained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ddkit import hub
from ddkit.core.console import note, watched_progress
from ddkit.core.device import hardware, pick_device
from ddkit.core.locks import locked
from ddkit.core.worker_state import STATE
from ddkit.engine import Engine, select_engine
from ddkit.engine.interleaving import group_jobs
from ddkit.errors import OptionError, SetError
from ddkit.evaluation.baselines import BASELINES, DEFAULT, REFERENCES, baseline_names
from ddkit.evaluation.cells import Cell, TableRow, make_cell, table_rows
from ddkit.evaluation.entries import accuracy_entry, compared
from ddkit.evaluation.measured_tables import MeasuredTable, Trained
from ddkit.evaluation.measures import asks_all, find_measures, measure_config
from ddkit.evaluation.measures.interface import Measure
from ddkit.evaluation.students import StudentOptions, default_validation
from ddkit.evaluation.tracking import RUNS, check_tracker, track_student
from ddkit.format.manifest import Manifest
from ddkit.format.manifest_file import read_manifest, write_manifest
from ddkit.format.measurements import merged_measurements
from ddkit.format.results import EvalReport, ResultEntry, merged_results, with_earlier_differences
from ddkit.pipeline.options import check_counts
from ddkit.pipeline.record import check_work, work_dir
from ddkit.publishing.rendering import publish_files
from ddkit.sources.validation import ValidationRef
from ddkit.students.training import StudentGroup, StudentJob, StudentResult

OWN = "own"  # as a protocol: the one that each set recommends


def evaluate(
    directories: str | Path | Sequence[str | Path],
    *,
    val: str | ValidationRef | None = None,
    data: str | None = None,
    archs: Sequence[str] = (),
    runs: int = 3,
    protocol: str | Sequence[str] | None = None,
    ipc: int | None = None,
    epochs: int | None = None,
    labels: str = "stored",
    teacher: str | None = None,
    baseline: str | Sequence[str] | None = DEFAULT,
    measure: str | Sequence[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    curve: bool = False,
    device: str = "auto",
    workers: int | None = None,
    track: str | None = None,
    command: str = "ddkit.evaluate",
) -> EvalReport:
    """Train students of each network on each set and measure them.

    The results are written into each set's manifest, where they replace those of the same measurement, and its card
    is rendered again. The score is the accuracy after the last epoch.

    Args:
        directories: One set, or several; sets that differ only in seed share a row.
        val: Images to measure on. Default: the holdout.
        data: The source, for baselines and measures, if OUT.work does not record it.
        archs: Networks. Default: the teacher's.
        runs: Students per set and network, with seeds 0 to runs - 1.
        protocol: A protocol's name or TOML file, or several, as a list or separated by commas; "own" is the one that
            each set recommends, and the default.
        ipc: Train on the first images per class, a prefix of the set.
        epochs: Number of epochs. Default: the protocol's.
        labels: "stored", "hard" or "online".
        teacher: Teacher for online labels, for relabelling sets whose views do not match `protocol`, and for baselines
            and measures if OUT.work does not record it.
        baseline: Any of "random", "hard", "equal-bytes" and "labeller" (`evaluation.baselines`), "teacher" (the teacher
            itself) and "full" (the networks trained on the whole source), as a list or separated by commas; None: no
            baseline. Those that need a source or teacher that is not at hand are left out, with a note.
        measure: Measures beside the accuracy (`evaluation.measures`), names or Python files, as a list or separated by
            commas; "all": every one that the sets are fit for. Their results are written to `measurements.json` in
            OUT.work, and their summaries into the manifest.
        settings: Settings of measures that differ from the defaults, by dotted key, as in "corruptions.images".
        curve: Also measure accuracies during the training. They are shown, never used: students are trained anew, to
            the same weights.
        device: "auto" or a torch device name.
        workers: Number of processes. Default: the number of cores.
        track: Log learning curves to "tensorboard" (event files in ./runs), "trackio" or "wandb" as well.
        command: The command that was called, recorded in the results.

    Returns:
        One ResultEntry per row of the table: each set (or sets that differ only in seed), followed by its baselines.

    Raises:
        InputError, IntegrityError.
    """
    check_counts(ipc=ipc, workers=workers, runs=runs)
    check_tracker(track)
    baselines, measures, settings = baseline_names(baseline), find_measures(measure), settings or {}
    for one in measures.values():
        measure_config(one, settings)
    _check_settings(settings, [one.name for one in measures.values()])
    STATE.drop()
    sets, where = _open_sets([directories] if isinstance(directories, str | Path) else directories), pick_device(device)
    ref = ValidationRef(data=val) if isinstance(val, str) else val or default_validation(sets[0])
    if ref is None:
        raise OptionError(f"{sets[0].root} has no holdout available; give images to measure on with --val SOURCE")
    kinds = [name for name in baselines if name in BASELINES]
    options = StudentOptions(labels=labels, ipc=ipc, epochs=epochs, teacher=teacher, val=ref, device=str(where))
    rows = _rows(sets, options, _protocols(protocol), kinds, data, workers)
    make = partial(
        make_cell, seeds=range(runs), measures=measures, settings=settings, curve=curve, skip_unfit=asks_all(measure)
    )
    cells = [make(row, arch) for row in rows for arch in dict.fromkeys(archs or [sets[0].recommended.arch])]
    _note_costs(cells, list(measures.values()))
    trained = Trained.of(cells)
    engine = select_engine("local", device=where, workers=workers, devices=None, work=Path("."))
    results = run_students(trained.jobs, engine)
    found = {job.result_key: results[job.out] for job in trained.jobs}
    if track is not None:
        _track(track, cells, found)
    made_on = hardware(where)
    table = MeasuredTable(
        cells=cells, trained=trained, measures=measures, settings=settings, val=ref, device=where, engine=engine,
        references=tuple(name for name in baselines if name in REFERENCES), command=command, hardware=made_on,
    )  # fmt: skip
    entries = [_entry(cell, found, command, made_on) for cell in cells]
    report = [*_compared(cells, entries), *table.reference_entries()]
    table.measure()
    _write_results(sets, cells, report, table, found)
    return tuple(report)


def _check_settings(settings: Mapping[str, Any], measures: Sequence[str]) -> None:
    """Refuse settings of measures that were not asked for. Raises OptionError."""
    for key in settings:
        if key.partition(".")[0] not in measures:
            raise OptionError(
                f"--set {key} belongs to none of the measures ({', '.join(measures) or 'none asked for'}); "
                "write MEASURE.KEY=VALUE"
            )


def _protocols(asked: str | Sequence[str] | None) -> list[str | None]:
    """Return the protocols that were asked for; None: the one that each set recommends."""
    names = [asked] if isinstance(asked, str) else list(asked or [OWN])
    names = [part.strip() for name in names for part in name.split(",")]
    return [None if name == OWN else name for name in dict.fromkeys(names)]


def _rows(
    sets: Sequence[Manifest], options: StudentOptions, protocols: Sequence[str | None], baselines: Sequence[str],
    data: str | None, workers: int | None,
) -> list[TableRow]:  # fmt: skip
    """Return the rows of the table under every protocol; a set's own may be another one that was asked for."""
    rows: dict[Any, TableRow] = {}
    for name in protocols:
        for row in table_rows(sets, replace(options, protocol=name), baselines, data, workers):
            rows.setdefault(row.place, row)
    return list(rows.values())


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


def _entry(cell: Cell, found: Mapping[str, StudentResult], command: str, hardware: str) -> ResultEntry:
    """Return the result of a cell's students. found: their results by key."""
    first, val = cell.row.data[0], cell.row.validation
    return accuracy_entry(
        [[found[job.result_key] for job in seeds] for seeds in cell.jobs], of=first.of, ipc=cell.row.ipc,
        arch=cell.arch, protocol=cell.row.protocol, labels=first.labels, val=val.name, val_images=val.used,
        seeds=[job.seed for job in cell.jobs[0]], images=first.manifest.rows(first.ipc),
        total_bytes=first.total_bytes, command=command, hardware=hardware,
    )  # fmt: skip


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
        images = job.images(manifest)
        total += job.spec.epochs_for(images)
        sizes.append(job.spec.batch_for(images) * manifest.views.size**2)
    groups = [StudentGroup(jobs=tuple(group)) for group in group_jobs(jobs, sizes, jobs[0].device)]

    def epochs_done() -> int:
        return sum(job.log.read_bytes().count(b"\n") for job in jobs if job.log.is_file())

    with watched_progress(f"{len(jobs)} students", total, "epochs", epochs_done):
        return {job.out: result for group in engine.run(groups) for job, result in zip(group.jobs, group.results())}


def _track(tracker: str, cells: Sequence[Cell], found: Mapping[str, StudentResult]) -> None:
    """Log the learning curve of every student of the table as a run of its own."""
    for cell in cells:
        for data, jobs in zip(cell.row.data, cell.jobs):
            for job in jobs:
                arch, one = cell.arch.replace(":", "-"), job.result_key[:8]  # sets of several seeds have the same name
                run = f"{data.manifest.name}-{data.of}-{data.labels}-{arch}-{cell.row.protocol}-s{job.seed}-{one}"
                config = {
                    "set": data.manifest.name, "content": data.manifest.content, "method": data.manifest.method,
                    "trained on": data.of, "labels": data.labels, "network": cell.arch, "seed": job.seed,
                    "protocol": cell.row.protocol,
                }  # fmt: skip
                track_student(tracker, run, Path(RUNS), config, found[job.result_key])


def _compared(cells: Sequence[Cell], entries: Sequence[ResultEntry]) -> list[ResultEntry]:
    """Return the entries, those of the given sets with their paired differences to their baselines."""
    baselines: dict[Any, dict[str, ResultEntry]] = {}
    for cell, entry in zip(cells, entries):
        if cell.row.baseline is not None:
            baselines.setdefault((cell.row.about, cell.arch, entry.protocol), {})[cell.row.baseline] = entry
    return [
        compared(entry, baselines.get((cell.row.about, cell.arch, entry.protocol), {}))
        if cell.row.baseline is None
        else entry
        for cell, entry in zip(cells, entries)
    ]


def _note_costs(cells: Sequence[Cell], measures: Sequence[Measure]) -> None:
    """Print how many students are trained on how many images for how many epochs, and what measures cost."""
    parts = []
    for cell in cells:
        job, data = cell.jobs[0][0], cell.row.data[0]
        images = data.manifest.rows(data.ipc)
        parts.append(f"{cell.arch} on {cell.row.title}, {images} images x {job.spec.epochs_for(images)} epochs")
        for name, sets in cell.requested.items():
            parts.append(f"{sum(map(len, sets))} more for {name}")
    note(f"{len({job.result_key for cell in cells for job in cell.all_jobs()})} students: {'; '.join(parts)}")
    for measure in measures:
        note(f"measure {measure.name}: {measure.cost}")


def _write_results(
    sets: Sequence[Manifest], cells: Sequence[Cell], report: Sequence[ResultEntry], table: MeasuredTable,
    found: Mapping[str, StudentResult],
) -> None:  # fmt: skip
    """Write the entries into the current manifest and card of every set they belong to, and OUT.work."""
    abouts = [cell.row.about for cell in cells] + table.reference_abouts()
    for measured in sets:
        with locked(measured.root, "writing results"):
            manifest = read_manifest(measured.root)
            if manifest.content != measured.content:
                note(f"{measured.root} changed while it was measured; the results are not written into it")
                continue
            mine = [entry for about, entry in zip(abouts, report) if measured.root in about if entry.of != "full"]
            mine = [with_earlier_differences(entry, manifest.results) for entry in mine]
            results = merged_results(mine, manifest.results)
            summaries = table.write(measured, found)
            measurements = merged_measurements(summaries, manifest.measurements)
            changed = manifest.changed(results=results, measurements=measurements)
            publish_files(write_manifest(manifest.root, changed))
