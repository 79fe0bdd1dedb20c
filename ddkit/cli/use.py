"""Commands of the panel "Use": train, export."""

from __future__ import annotations

from typing import Annotated

import typer

from ddkit.cli import options as o
from ddkit.cli.output import command, document, next_step, say


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
    track: o.Track = None,
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
        seed=seed or 0, out=out, device=device, push_to=push_to, on_estimate=time_limit("student", yes), track=track,
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
def export(
    source: Annotated[str, typer.Argument(help=f"a distilled set, or {o.SOURCE}")],
    out: Annotated[str, typer.Argument(help="the new folder")],
    as_: Annotated[
        str,
        typer.Option(
            "--as", help="shards, folder (class folders, class names in classes.txt), parquet, or ddranking (of a set)"
        ),
    ] = "shards",
    folder_names: Annotated[
        str, typer.Option("--folder-names", help="name class folders by numbers (label order) or names")
    ] = "numbers",
    image_column: o.ImageColumn = None,
    label_column: o.LabelColumn = None,
) -> None:
    """Write the images and classes of a set or source as tar shards, class folders or parquet; bytes are kept."""
    from ddkit.sources.exporting import export as run

    if as_ == "ddranking":
        from ddkit.evaluation.ddranking import SCORES, export_ddranking

        made = export_ddranking(source, out)
        say(f"{made}: class folders, tensors, preset and scores in DD-Ranking's layout")
        document({"out": out, "scores": str(made / SCORES)})
        next_step(f"cat {made / SCORES}")
        return
    count = run(source, out, as_=as_, folder_names=folder_names, image_column=image_column, label_column=label_column)
    say(f"{out}: {count} images")
    document({"out": out, "images": count})
    next_step(f"ddkit distill OUT --data {out}" if as_ != "folder" else f"ls {out}")
