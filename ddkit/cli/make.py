"""Commands of the panel "Make": demo, distill, teach, relabel, import."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ddkit.cli import options as o
from ddkit.cli.output import command, document, next_step, say, table
from ddkit.core.serialization import parse_settings
from ddkit.errors import OptionError


@command("Make")
def demo() -> None:
    """Run every step on handwritten digits in the current folder: distil, train, compare, draw. Two minutes."""
    from ddkit.evaluation.demonstration import run_demo

    result = run_demo(Path("demo"))
    say("")
    say(table(result.header, result.rows))
    say("")
    say(f"picture: {result.picture}")
    document({"rows": [dict(zip(result.header, row)) for row in result.rows], "picture": str(result.picture)})
    next_step("ddkit distill mine --data YOUR_FOLDER --size 64 --teacher train:convnet4   (one folder a class)")


@command("Make")
def distill(
    out: Annotated[str, typer.Argument(help="the directory to create; run again to continue")],
    data: o.Data = None,
    method: o.Method = None,
    ipc: o.NewIpc = None,
    teacher: o.Teacher = None,
    recipe: o.Recipe = None,
    settings: o.Settings = None,
    protocol: o.Protocol = None,
    views: o.Views = None,
    size: o.Size = None,
    classes: o.Classes = None,
    holdout: o.Holdout = None,
    prefixes: o.Prefixes = None,
    seed: o.Seed = None,
    codec: o.Codec = None,
    budget: o.Budget = None,
    label_precision: o.LabelPrecision = None,
    image_format: o.ImageFormat = None,
    split: o.Split = None,
    image_column: o.ImageColumn = None,
    label_column: o.LabelColumn = None,
    skip_bad: o.SkipBad = False,
    rehash: o.Rehash = False,
    device: o.Device = "auto",
    workers: o.Workers = None,
    engine: o.Engine = None,
    devices: o.Devices = None,
    yes: o.Yes = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace another ddkit set or run in OUT")] = False,
    baseline: Annotated[
        bool,
        typer.Option("--baseline", help="also make `random` with the same teacher, views and seed, in OUT.work"),
    ] = False,
    submit: o.Submit = None,
) -> None:
    """Distil a source into OUT: a directory that load_dataset opens. A larger --ipc extends an existing set."""
    from ddkit.core.console import size_words
    from ddkit.evaluation.baselines import make_baseline
    from ddkit.pipeline import distill as run

    options = dict(
        data=data, method=method, ipc=ipc, teacher=teacher, recipe=recipe,
        settings=parse_settings(settings or []), protocol=protocol, views=views, size=size, classes=classes,
        holdout=holdout, prefixes=o.numbers(prefixes, "--prefixes"), seed=seed, codec=codec,
        budget=budget, label_precision=label_precision, image_format=image_format, split=split,
        image_column=image_column, label_column=label_column, skip_bad=skip_bad, rehash=rehash, device=device,
        workers=workers, engine=engine, devices=devices, yes=yes, overwrite=overwrite,
    )  # fmt: skip
    if submit is not None:
        _submit(submit, Path(out), options)
        return
    manifest = run(out, **options)
    if baseline:
        make_baseline(manifest)
    total = manifest.total_bytes()
    say(f"{out}: {manifest.rows()} images, {manifest.views.policy.count} views each, {size_words(total)}, verified")
    say(f"picture: {Path(out) / 'preview.png'}")
    document({"out": out, "content": manifest.content, "rows": manifest.rows(), "bytes": total})
    next_step(f"ddkit train {out}")


def _submit(where: str, out: Path, options: dict[str, Any]) -> None:
    """Write a job array that runs this command, and submit it if the options say yes."""
    from ddkit.engine.slurm import JobArray
    from ddkit.pipeline.options import DistillOptions
    from ddkit.pipeline.record import work_dir

    asked = DistillOptions.of(options | {"device": "cpu"})
    for name in ("engine", "overwrite"):
        if options[name]:
            raise OptionError(f"--{name} does not go with --submit, whose tasks share one run; leave it out")
    words = iter(sys.argv[1:])
    command = [word for word in words if not (word == "--submit" and next(words)) and not word.startswith("--submit=")]
    command += [] if asked.yes else ["--yes"]
    array = JobArray.of(
        where, [sys.executable, "-m", "ddkit", *command], out=out, work=work_dir(out),
        on_gpu=None if options["device"] == "auto" else options["device"].startswith("cuda"),
    )  # fmt: skip
    array.write()
    say(array.script)
    submitted = array.submit() if asked.yes else None
    document({"script": str(array.path), "submitted": submitted})
    if submitted is None:
        next_step(f"sbatch {array.path}   (or the same command with --yes)")
    else:
        say(submitted)
        next_step(f"squeue --me; ddkit inspect {out} when it is done")


@command("Make")
def teach(
    out: Annotated[str, typer.Argument(help="the checkpoint to write (.safetensors)")],
    data: Annotated[str, typer.Option("--data", help=f"the source: {o.SOURCE}")],
    arch: Annotated[str | None, typer.Option("--arch", help="see `ddkit list networks`")] = None,
    init: Annotated[
        str | None,
        typer.Option("--init", help="fine-tune a trained one: timm:NAME[@FILE], torchvision:NAME[@FILE] or FILE"),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option("--recipe", help="digits, small, large, finetune, or a TOML file")
    ] = None,
    size: o.Size = None,
    epochs: o.Epochs = None,
    seed: o.Seed = None,
    split: o.Split = None,
    image_column: o.ImageColumn = None,
    label_column: o.LabelColumn = None,
    classes: o.Classes = None,
    holdout: o.Holdout = None,
    skip_bad: o.SkipBad = False,
    rehash: o.Rehash = False,
    device: o.Device = "auto",
    yes: o.Yes = False,
    push_to: o.PushTo = None,
) -> None:
    """Train a teacher on a source, or fine-tune a trained network (--init). An interrupted training continues."""
    from ddkit.core.distributed import leads
    from ddkit.core.serialization import to_plain
    from ddkit.pipeline.costs import time_limit
    from ddkit.publishing.model_repositories import check_model, push_model, teacher_description
    from ddkit.teachers.teaching import teach as run

    if push_to is not None:
        if arch is None and init is None:
            raise OptionError("--push-to needs a network of timm: give --arch timm:NAME, or --init timm:NAME")
        check_model(arch, 2, size or 224, push_to)
    spec = run(
        out, data=data, arch=arch, init=init, recipe=recipe, size=size, epochs=epochs, seed=seed or 0, split=split,
        image_column=image_column, label_column=label_column, classes=classes, holdout=holdout, skip_bad=skip_bad,
        rehash=rehash, device=device, on_estimate=time_limit("teacher", yes),
    )  # fmt: skip
    if not leads():
        return
    measured = (
        f"{spec.accuracy:.2f} % on {spec.measured_on}"
        if spec.accuracy is not None
        else "not measured, no labelled split"
    )
    say(f"{out}: {spec.arch}, {spec.num_classes} classes, {spec.image_size} px: {measured}")
    published = push_model(out, push_to, teacher_description(spec, data)) if push_to is not None else None
    if published:
        say(f"published: {published}")
    document(to_plain(spec) | {"out": out, "published": published})
    next_step(f"ddkit distill OUT --data {data} --teacher {out}")


@command("Make")
def relabel(
    directory: Annotated[str, typer.Argument(help="a distilled set")],
    out: Annotated[str, typer.Argument(help="the new set")],
    teacher: Annotated[
        str, typer.Option("--teacher", help="FILE.safetensors, timm:NAME[@FILE], torchvision:NAME[@FILE]")
    ],
    protocol: o.Protocol = None,
    views: o.Views = None,
    codec: o.Codec = None,
    label_precision: o.LabelPrecision = None,
    mix_within: Annotated[
        str | None,
        typer.Option("--mix-within", help="mix only within groups of classes: 5x200:SEED, or a file CLASS<tab>GROUP"),
    ] = None,
    seed: o.Seed = None,
    device: o.Device = "auto",
    workers: o.Workers = None,
    engine: o.Engine = None,
    devices: o.Devices = None,
) -> None:
    """Make a set from the images of another, with new views and labels: another protocol, teacher or view count."""
    from ddkit.pipeline import relabel as run

    manifest = run(
        directory, out, teacher=teacher, protocol=protocol, views=views, codec=codec, mix_within=mix_within,
        label_precision=label_precision, seed=seed, device=device, workers=workers,
        engine=engine, devices=devices,
    )  # fmt: skip
    say(f"{out}: {manifest.rows()} images, {manifest.views.policy.count} views each, verified")
    document({"out": out, "content": manifest.content, "rows": manifest.rows()})
    next_step(f"ddkit train {out}")


@command("Make", "import")
def import_(
    source: Annotated[str, typer.Argument(help="class folders, zips of them, parquet, tar, or ORG/NAME")],
    out: Annotated[str, typer.Argument(help="the new set; run again to continue")],
    method: Annotated[str, typer.Option("--method", help="the method that made the images, such as sre2l")],
    teacher: Annotated[
        str, typer.Option("--teacher", help="FILE.safetensors, timm:NAME[@FILE], torchvision:NAME[@FILE]")
    ],
    protocol: o.Protocol = None,
    views: o.Views = None,
    labels: Annotated[
        str | None,
        typer.Option("--labels", help="directory of published soft labels in FKD's layout: epoch_E/batch_B.tar"),
    ] = None,
    labels_seed: Annotated[int, typer.Option("--labels-seed", help="seed of the sampler of --labels")] = 42,
    codec: o.Codec = None,
    reencode: Annotated[
        bool, typer.Option("--reencode", help="convert all images to upright, square PNGs of --size pixels")
    ] = False,
    size: o.Size = None,
    seed: o.Seed = None,
    split: o.Split = None,
    image_column: o.ImageColumn = None,
    label_column: o.LabelColumn = None,
    device: o.Device = "auto",
    workers: o.Workers = None,
    engine: o.Engine = None,
    devices: o.Devices = None,
) -> None:
    """Make a set of finished synthetic images: keep their bytes, label them under a protocol, and pack them."""
    from ddkit.pipeline import import_images as run

    manifest = run(
        source, out, method=method, teacher=teacher, protocol=protocol or "common", views=views, labels=labels,
        labels_seed=labels_seed, codec=codec or "fp16", reencode=reencode, size=size, seed=seed or 0, split=split,
        image_column=image_column, label_column=label_column, device=device, workers=workers,
        engine=engine, devices=devices,
    )  # fmt: skip
    say(f"{out}: {manifest.rows()} images, {manifest.views.policy.count} views each, verified")
    document({"out": out, "content": manifest.content, "rows": manifest.rows()})
    next_step(f"ddkit train {out}")
