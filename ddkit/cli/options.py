"""Options shared by several commands, each with one help text."""

from __future__ import annotations

from typing import Annotated

import typer

from ddkit.errors import OptionError

SOURCE = (
    "digits, a folder of class folders, a folder or file of parquet or tar shards, or ORG/NAME[@REVISION] on the Hub"
)

SetOrId = Annotated[str, typer.Argument(help="a distilled set: a directory, or ORG/NAME[@REVISION] on the Hub")]
Data = Annotated[str | None, typer.Option("--data", help=f"the source: {SOURCE}")]
Method = Annotated[str | None, typer.Option("--method", help="see `ddkit list methods`; or ./mine.py")]
NewIpc = Annotated[int | None, typer.Option("--ipc", help="images per class (default 10)")]
Recipe = Annotated[str | None, typer.Option("--recipe", help="see `ddkit list recipes`; or a TOML file")]
Settings = Annotated[list[str] | None, typer.Option("--set", help="one setting of the method, as KEY=VALUE")]
Prefixes = Annotated[str | None, typer.Option("--prefixes", help="nested sets, as in 5,10,20 (default: the IPC)")]
ImageFormat = Annotated[
    str | None, typer.Option("--image-format", help="png (default); webp: lossless; jpg: quality 75, lossy")
]
Split = Annotated[
    str | None, typer.Option("--split", help="which split (default: train to distil, the first labelled to measure)")
]
ImageColumn = Annotated[str | None, typer.Option("--image-column", help="where it cannot be inferred")]
LabelColumn = Annotated[str | None, typer.Option("--label-column", help="where it cannot be inferred")]
Classes = Annotated[
    str | None,
    typer.Option("--classes", help="a,b,c, a file, or a list: imagenette, imagewoof, imagenet-10, imagenet-100"),
]
Holdout = Annotated[
    float | None,
    typer.Option("--holdout", help="share of images kept for measuring (default 0.1 where there is no labelled split)"),
]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="leave out images that do not decode, and count them")]
Rehash = Annotated[
    bool, typer.Option("--rehash", help="hash every file of the source again instead of using the cache")
]
Size = Annotated[int | None, typer.Option("--size", help="pixels (default: the teacher's, else by the source)")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, mps")]
Workers = Annotated[
    int | None, typer.Option("--workers", help="worker processes (default: one per core); results do not depend on it")
]
Engine = Annotated[
    str | None, typer.Option("--engine", help="local, ranks (default under torchrun, srun and job arrays), or ray")
]
Devices = Annotated[str | None, typer.Option("--devices", help="GPUs to use: all (default), or as in 0,1")]
Submit = Annotated[
    str | None,
    typer.Option("--submit", help="slurm[:TASKS]: write a job array that does this; with --yes submit it"),
]
Seed = Annotated[int | None, typer.Option("--seed", help="default 0")]
Protocol = Annotated[str | None, typer.Option("--protocol", help="see `ddkit list protocols`; or a TOML file")]
Views = Annotated[int | None, typer.Option("--views", help="views stored per image (default: the protocol's)")]
Codec = Annotated[str | None, typer.Option("--codec", help="how soft labels are stored: see `ddkit list codecs`")]
Budget = Annotated[
    str | None,
    typer.Option("--budget", help="size of labels (40x: that much smaller) or set (300MB); above 100 classes 40x"),
]
LabelPrecision = Annotated[
    str | None, typer.Option("--label-precision", help="arithmetic of the teacher: float32 (default) or bfloat16")
]
Teacher = Annotated[
    str | None,
    typer.Option("--teacher", help="FILE.safetensors, timm:NAME[@FILE], torchvision:NAME[@FILE] or train[:ARCH]"),
]
Val = Annotated[str | None, typer.Option("--val", help="images to measure on (default: the holdout, if available)")]
SameOrder = Annotated[bool, typer.Option("--same-order", help="trust the order of --val's classes, not their names")]
Ipc = Annotated[int | None, typer.Option("--ipc", help="only the first N images per class (a prefix of the set)")]
Epochs = Annotated[int | None, typer.Option("--epochs", help="instead of the protocol's")]
Labels = Annotated[str, typer.Option("--labels", help="stored, hard, or online (needs --teacher)")]
PushTo = Annotated[
    str | None,
    typer.Option("--push-to", help="publish the network as the public model repository ORG/NAME (timm networks only)"),
]
Track = Annotated[
    str | None, typer.Option("--track", help="also log to tensorboard (./runs), trackio or wandb, if installed")
]
Yes = Annotated[bool, typer.Option("--yes", help="continue above an hour or 20 GB")]


def numbers(text: str | None, option: str) -> tuple[int, ...] | None:
    """Parse `5,10,20` as (5, 10, 20).

    Args:
        text: Value of the option, or None.
        option: Name of the option, for messages.

    Raises:
        OptionError: The value is not a list of numbers.
    """
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise OptionError(f"{option} is {text!r}; give comma-separated numbers such as 5,10,20") from error


def only_with_val(val: str | None, **given: object) -> None:
    """Check that options about `--val` are given only together with it.

    Args:
        val: Value of `--val`.
        given: Values of the other options by name.

    Raises:
        OptionError: One is given without `--val`.
    """
    if val is None and (names := [name for name, value in given.items() if value]):
        raise OptionError(
            f"--{names[0].replace('_', '-')} says how to read --val, which is not given; give --val SOURCE"
        )
