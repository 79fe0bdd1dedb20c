"""The command evaluate."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ddkit.cli import options as o
from ddkit.cli.output import command, document, next_step, push_command, say, table

if TYPE_CHECKING:
    from ddkit.format.measurements import Measurement
    from ddkit.format.results import Difference, ResultEntry


@command("Use")
def evaluate(
    directories: Annotated[
        list[str], typer.Argument(help="distilled sets; those that differ only in seed are one row")
    ],
    val: o.Val = None,
    data: o.Data = None,
    arch: Annotated[list[str] | None, typer.Option("--arch", help="may be repeated (default: the teacher's)")] = None,
    runs: Annotated[int, typer.Option("--runs", help="students of each set and network")] = 3,
    protocol: Annotated[
        str | None, typer.Option("--protocol", help="see `ddkit list protocols`, own, or several as in own,common")
    ] = None,
    ipc: o.Ipc = None,
    epochs: o.Epochs = None,
    labels: o.Labels = "stored",
    teacher: o.Teacher = None,
    baseline: Annotated[
        str,
        typer.Option(
            "--baseline",
            help="any of random, hard (class labels alone), equal-bytes (random JPEGs in the set's bytes), labeller "
            "(labels by the teacher during training), teacher (itself), full (trained on the whole source), separated "
            "by commas; or none",
        ),
    ] = "random,hard,teacher",
    measure: Annotated[
        str | None,
        typer.Option("--measure", help="see `ddkit list measures`: names or ./mine.py, separated by commas; or all"),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="one setting of a measure, as in corruptions.images=500")
    ] = None,
    curve: Annotated[
        bool, typer.Option("--curve", help="also measure during the training, to show; the last epoch is the score")
    ] = False,
    split: o.Split = None,
    same_order: o.SameOrder = False,
    device: o.Device = "auto",
    workers: o.Workers = None,
    track: o.Track = None,
) -> None:
    """Evaluate sets x networks x seeds in one table: mean ± std, paired differences to baselines (95 %), and bytes."""
    from ddkit.core.serialization import parse_settings, to_plain
    from ddkit.evaluation.tables import evaluate as run
    from ddkit.format.manifest_file import read_manifest
    from ddkit.pipeline.record import public_name
    from ddkit.sources.validation import ValidationRef

    o.only_with_val(val, split=split, same_order=same_order)
    ref = None if val is None else ValidationRef(data=val, split=split, same_order=same_order)
    command = "ddkit " + shlex.join(public_name(argument) for argument in sys.argv[1:])
    report = run(
        directories, val=ref, data=data, archs=arch or [], runs=runs, protocol=protocol, ipc=ipc, epochs=epochs,
        labels=labels, teacher=teacher, baseline=baseline, measure=measure,
        settings=parse_settings(settings or []), curve=curve, device=device, workers=workers, track=track,
        command=command,
    )  # fmt: skip
    _say_results(directories, report, command)
    measured = _say_measurements(directories, command)
    results = [to_plain(r) for r in report]
    document(results if measure is None else {"results": results, "measurements": measured})
    next_step(push_command(directories[0], read_manifest(directories[0])))


def _say_measurements(directories: Sequence[str], command: str) -> dict[str, Any]:
    """Print the table of measures; return the measurements of each directory as JSON values."""
    from ddkit.core.serialization import to_plain
    from ddkit.format.measurements import read_measurements
    from ddkit.pipeline.record import work_dir

    measured = [read_measurements(work_dir(Path(directory))) for directory in directories]
    mine = [[m for m in found.measurements if m.command == command] if found else [] for found in measured]
    if header_and_rows := measure_table(directories, mine):
        say(table(*header_and_rows))
    return {directory: [to_plain(m) for m in some] for directory, some in zip(directories, mine)}


def _say_results(directories: Sequence[str], report: Sequence[ResultEntry], command: str) -> None:
    """Print the table of accuracies, the differences to baselines, and what is better than a set."""
    from ddkit.format.manifest_file import read_manifest
    from ddkit.publishing.verdicts import short_name, verdicts

    results = {directory: read_manifest(directory).results for directory in directories}
    named: list[tuple[str, ResultEntry]] = []
    for directory in directories:
        mine = [r for r in results[directory] if r.command == command and r not in (known for _, known in named)]
        named += [(directory, r) for r in mine]
    named += [("", r) for r in report if r.of == "full"]  # not in manifests
    rows = []
    for directory, r in named:
        spread = f" ± {r.std:.2f}" if r.n_students > 1 else ""  # a single student has no spread
        accuracy, students = f"{r.mean:.2f}{spread}", f"{r.n_sets} x {r.n_students // r.n_sets}"
        what = [directory, r.of, r.ipc, r.images or "-", r.arch, r.protocol, r.labels]
        rows.append([*what, accuracy, students, _interval(r.difference), r.total_bytes, f"{r.seconds:.0f}"])
    header = ["set", "trained on", "ipc", "images", "network", "protocol", "labels", "accuracy %", "sets x students",
              "minus random (95 %)", "bytes", "seconds"]  # fmt: skip
    say(table(header, rows))
    for directory, r in named:
        for d in r.differences:
            say(f"{directory}: {r.of}, {r.arch}, {r.labels} labels, minus {short_name(d.to or '')}: {_interval(d)}")
    for directory in directories:
        for sentence in [
            s for r in results[directory] if r.command == command for s in verdicts(r, results[directory])
        ]:
            say(f"{directory}: {sentence}")


def _interval(difference: Difference | None, number: Callable[[float], str] = "{:.2f}".format) -> str:
    """Return a paired difference with its 95 % interval, or "-"."""
    if difference is None:
        return "-"
    mean, low, high = (
        f"{'+' if v >= 0 else ''}{number(v)}" for v in (difference.mean, difference.low, difference.high)
    )
    return f"{mean} [{low}, {high}]"


def measure_table(
    directories: Sequence[str], measured: Sequence[Sequence[Measurement]]
) -> tuple[list[str], list[list[object]]] | None:
    """Return header and rows of the table of measures: their summaries, one row for each metric.

    Args:
        directories: The sets.
        measured: Measurements of each.

    Returns:
        The table; None if nothing was measured.
    """
    shown = [[m for m in some if not m.condition] for some in measured]
    varying = {
        title: name
        for title, name in (("images per class", "ipc"), ("protocol", "protocol"))
        if len({getattr(m, name) for some in shown for m in some} - {None}) > 1
    }
    header = ["set", "trained on", "network", "labels", *varying]
    header += ["measure", "metric", "value", "minus random (95 %)", "n"]
    rows: list[list[object]] = []
    for directory, some in zip(directories, shown):
        for m in some:
            count = sum(map(len, m.values))
            value = _number(m.mean) + (f" ± {_number(m.std)}" if count > 1 else "") + (f" {m.unit}" if m.unit else "")
            difference = next((d for d in m.differences if d.to == "random"), None)
            rows.append([
                directory, m.of, m.arch or "-", m.labels or "-",
                *(getattr(m, name) or "-" for name in varying.values()),
                m.measure, m.title, value, _interval(difference, _number), m.n or "-",
            ])  # fmt: skip
    return (header, rows) if rows else None


def _number(value: float) -> str:
    return f"{value:.2f}" if 1 <= abs(value) < 1000 else f"{value:.4g}"
