"""Commands of the panel "Use": train, evaluate, export."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from ddkit.cli import options as o
from ddkit.cli.output import command, document, next_step, push_command, say, table

if TYPE_CHECKING:
    from ddkit.format.results import Difference


@command("Use")
def train(
    directory: o.SetOrId,
    arch: Annotated[
        str | None, typer.Option("--arch", help="see `ddkit list networks` (default: the teacher's)")
    ] = None,
    val: o.Val = None,
    protocol: o.Protocol = None,
    labels: o.Labels = "stored",
    teacher: o.Teacher = None,
    ipc: o.Ipc = None,
    epochs: o.Epochs = None,
    seed: o.Seed = None,
    out: Annotated[
        str | None, typer.Option("--out", help="the checkpoint (default ./NAME-ARCH[-LABELS][-sSEED].safetensors)")
    ] = None,
    split: o.Split = None,
    image_column: o.ImageColumn = None,
    label_column: o.LabelColumn = None,
    same_order: o.SameOrder = False,
    device: o.Device = "auto",
    yes: o.Yes = False,
    push_to: o.PushTo = None,
) -> None:
    """Train a student on a distilled set alone; the weights after the last epoch are the result."""
    from ddkit.core.distributed import leads
    from ddkit.evaluation.students import train as run
    from ddkit.pipeline.costs import time_limit
    from ddkit.sets.opening import is_remote
    from ddkit.sources.validation import ValidationRef

    o.only_with_val(val, split=split, same_order=same_order, image_column=image_column, label_column=label_column)
    ref = None
    if val is not None:
        ref = ValidationRef(
            data=val, split=split, image_column=image_column, label_column=label_column, same_order=same_order
        )  # fmt: skip
    job, result = run(
        directory, arch=arch, val=ref, protocol=protocol, labels=labels, teacher=teacher, ipc=ipc, epochs=epochs,
        seed=seed or 0, out=out, device=device, push_to=push_to, on_estimate=time_limit("student", yes),
    )  # fmt: skip
    if not leads():
        return
    measured = "not measured, give --val" if result.accuracy is None else f"{result.accuracy:.2f} %"
    say(f"{job.checkpoint}: {job.arch}, {result.epochs} epochs in {result.seconds:.0f} s; curves: {job.picture}")
    say(f"accuracy: {measured}" + (f" on {result.measured_on}" if result.measured_on else ""))
    if result.published:
        say(f"published: {result.published}")
    document({"checkpoint": str(job.checkpoint), "accuracy": result.accuracy, "epochs": result.epochs,
              "seconds": result.seconds, "log": str(job.log), "picture": str(job.picture),
              "published": result.published})  # fmt: skip
    of = f" --val {val or 'SOURCE'}" if val or result.accuracy is None else ""
    if is_remote(directory):
        next_step(f"ddkit pull {directory} DIR, then ddkit evaluate DIR{of}")
    else:
        next_step(f"ddkit evaluate {directory}{of}")


@command("Use")
def evaluate(
    directories: Annotated[
        list[str], typer.Argument(help="distilled sets; those that differ only in seed are one row")
    ],
    val: o.Val = None,
    data: o.Data = None,
    arch: Annotated[list[str] | None, typer.Option("--arch", help="may be repeated (default: the teacher's)")] = None,
    runs: Annotated[int, typer.Option("--runs", help="students of each set and network")] = 3,
    protocol: o.Protocol = None,
    ipc: o.Ipc = None,
    epochs: o.Epochs = None,
    labels: o.Labels = "stored",
    teacher: o.Teacher = None,
    baseline: Annotated[
        str,
        typer.Option(
            "--baseline",
            help="any of random, hard (class labels alone), equal-bytes (random JPEGs in the set's bytes), labeller "
            "(labels by the teacher during training), separated by commas; or none",
        ),
    ] = "random,hard",
    split: o.Split = None,
    same_order: o.SameOrder = False,
    device: o.Device = "auto",
    workers: o.Workers = None,
) -> None:
    """Evaluate sets x networks x seeds in one table: mean ± std, paired differences to baselines (95 %), and bytes."""
    from ddkit.core.serialization import to_plain
    from ddkit.evaluation.tables import evaluate as run
    from ddkit.format.manifest_file import read_manifest
    from ddkit.pipeline.record import public_name
    from ddkit.publishing.verdicts import short_name, verdicts
    from ddkit.sources.validation import ValidationRef

    o.only_with_val(val, split=split, same_order=same_order)
    ref = None if val is None else ValidationRef(data=val, split=split, same_order=same_order)
    command = "ddkit " + shlex.join(public_name(argument) for argument in sys.argv[1:])
    report = run(
        directories, val=ref, data=data, archs=arch or [], runs=runs, protocol=protocol, ipc=ipc, epochs=epochs,
        labels=labels, teacher=teacher, baseline=baseline, device=device,
        workers=workers, command=command,
    )  # fmt: skip
    rows = []
    for r in report:
        spread = f" ± {r.std:.2f}" if r.n_students > 1 else ""  # a single student has no spread
        accuracy, students = f"{r.mean:.2f}{spread}", f"{r.n_sets} x {r.n_students // r.n_sets}"
        what = [r.of, r.ipc, r.images, r.arch, r.protocol, r.labels]
        rows.append([*what, accuracy, students, _interval(r.difference), r.total_bytes, f"{r.seconds:.0f}"])
    header = ["trained on", "ipc", "images", "network", "protocol", "labels", "accuracy %", "sets x students",
              "minus random (95 %)", "bytes", "seconds"]  # fmt: skip
    say(table(header, rows))
    for r in report:
        for d in r.differences:
            say(f"{r.of}, {r.arch}, {r.labels} labels, minus {short_name(d.to or '')}: {_interval(d)}")
    for directory in directories:
        results = read_manifest(directory).results
        for sentence in [s for r in results if r.command == command for s in verdicts(r, results)]:
            say(f"{directory}: {sentence}")
    document([to_plain(r) for r in report])
    next_step(push_command(directories[0], read_manifest(directories[0])))


def _interval(difference: Difference | None) -> str:
    """Return a paired difference with its 95 % interval, or "-"."""
    return "-" if difference is None else f"{difference.mean:+.2f} [{difference.low:+.2f}, {difference.high:+.2f}]"


@command("Use")
def export(
    source: Annotated[str, typer.Argument(help=f"a distilled set, or {o.SOURCE}")],
    out: Annotated[str, typer.Argument(help="the new folder")],
    as_: Annotated[
        str, typer.Option("--as", help="shards, folder (class folders, class names in classes.txt) or parquet")
    ] = "shards",
    folder_names: Annotated[
        str, typer.Option("--folder-names", help="name class folders by numbers (label order) or names")
    ] = "numbers",
    image_column: o.ImageColumn = None,
    label_column: o.LabelColumn = None,
) -> None:
    """Write the images and classes of a set or source as tar shards, class folders or parquet; bytes are kept."""
    from ddkit.sources.exporting import export as run

    count = run(source, out, as_=as_, folder_names=folder_names, image_column=image_column, label_column=label_column)
    say(f"{out}: {count} images")
    document({"out": out, "images": count})
    next_step(f"ddkit distill OUT --data {out}" if as_ != "folder" else f"ls {out}")
