"""Commands of the panel "Look": plan, inspect, preview, list, env."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ddkit.cli import options as o
from ddkit.cli.output import command, document, next_step, say, table

if TYPE_CHECKING:
    from ddkit.format.manifest import Manifest
    from ddkit.format.results import ResultEntry
    from ddkit.pipeline.planning import Forecast


@command("Look")
def plan(
    data: o.Data = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset",
            help="not at hand: cifar10, cifar100, tinyimagenet, imagenet-1k, imagenet-21k-p (instead of --data)",
        ),
    ] = None,
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
    codec: o.Codec = None,
    budget: o.Budget = None,
    image_format: o.ImageFormat = None,
    split: o.Split = None,
    image_column: o.ImageColumn = None,
    label_column: o.LabelColumn = None,
    device: o.Device = "auto",
    workers: o.Workers = None,
    devices: Annotated[int, typer.Option("--devices", help="how many devices share the work")] = 1,
    device_speed: Annotated[
        str | None,
        typer.Option(
            "--device-speed", help="h200, h100, a100, 4090 or peak bfloat16 TFLOP/s (default: this machine, measured)"
        ),
    ] = None,
) -> None:
    """Tell what a distill run would take, before starting it: hours, bytes, files, units. Nothing is made.

    Example: ddkit plan --dataset imagenet-1k --method cudd --ipc 10 --device-speed h100 --devices 8
    """
    from ddkit.core.serialization import parse_settings, to_plain
    from ddkit.pipeline.planning import plan as run

    found = run(
        dataset=dataset, devices=devices, device_speed=device_speed, data=data, method=method, ipc=ipc,
        teacher=teacher, recipe=recipe, settings=parse_settings(settings or []), protocol=protocol, views=views,
        size=size, classes=classes, holdout=holdout, prefixes=o.numbers(prefixes, "--prefixes"), codec=codec,
        budget=budget, image_format=image_format, split=split, image_column=image_column, label_column=label_column,
        device=device, workers=workers,
    )  # fmt: skip
    say(table(("what", "value"), _outlook(found)))
    say("")
    say(table(*_stages(found)))
    for line in found.assumed:
        say(f"note: {line}")
    document(to_plain(found))
    next_step(f"ddkit distill OUT --data {data or 'SOURCE'}   (with the same options)")


@command("Look")
def inspect(directory: o.SetOrId) -> None:
    """Show the manifest of a set; for a set on the Hub, nothing else is fetched."""
    from ddkit.publishing.looking import inspect as run

    manifest = run(directory)
    say(table(("what", "value"), _summary(manifest)))
    document(manifest.to_json())


@command("Look")
def preview(
    directory: o.SetOrId,
    origins: Annotated[
        bool, typer.Option("--origins", help="the real images it began as, beside the results (never published)")
    ] = False,
    losses: Annotated[bool, typer.Option("--losses", help="the loss curves, term by term")] = False,
    out: Annotated[str | None, typer.Option("--out", help="the picture (default ./NAME-preview.png)")] = None,
) -> None:
    """Draw two pictures: the images class by class, and some views with their soft labels.

    With --origins or --losses, these are drawn instead, from the data in OUT.work.
    """
    from ddkit.publishing.looking import preview as run

    made = run(directory, out, origins=origins, losses=losses)
    for name, path in made.items():
        say(f"{name}: {path}")
    document({name: str(path) for name, path in made.items()})


@command("Look")
def report(
    directories: Annotated[list[str], typer.Argument(help="distilled sets that were evaluated")],
    out: Annotated[str, typer.Option("--out", help="the HTML file")] = "page.html",
) -> None:
    """Write one HTML page of everything that was measured: tables, charts, figures, images with their labels."""
    from ddkit.core.console import size_words
    from ddkit.publishing.page.rendering import report as run

    path = run(directories, out)
    say(f"{path}: one file that requests nothing, {size_words(path.stat().st_size)}")
    document({"page": str(path), "bytes": path.stat().st_size})
    next_step(f"ddkit push {directories[0]} YOUR_NAME/SET --space YOUR_NAME/PAGE")


@command("Look")
def view(
    directory: Annotated[str, typer.Argument(help="a distilled set")],
    open_: Annotated[bool, typer.Option("--open/--no-open", help="open it in the browser")] = True,
) -> None:
    """Open the page of a set in the browser; it is written to DIRECTORY.work/page.html."""
    import webbrowser

    from ddkit.publishing.page.rendering import current_page

    path = current_page(directory)
    say(f"page: {path}")
    document({"page": str(path)})
    if open_:
        webbrowser.open(path.absolute().as_uri())


@command("Look", "list")
def list_(
    what: Annotated[
        str | None, typer.Argument(help="methods, recipes, protocols, networks, codecs or measures")
    ] = None,
) -> None:
    """List the available methods, recipes, protocols, networks, codecs or measures."""
    from ddkit.listing import KINDS
    from ddkit.listing import list_ as run

    if what is None:
        say("\n".join(f"ddkit list {kind}" for kind in KINDS))
        document(list(KINDS))
        return
    rows = list(run(what).items())
    say(table(("name", "about"), rows))
    document([{"name": name, "about": about} for name, about in rows])


@command("Look")
def env() -> None:
    """Show versions and hardware, for bug reports."""
    from ddkit.core.device import device_class, hardware, pick_device, versions
    from ddkit.core.files import cache_dir

    device = pick_device("auto")
    facts = versions() | {"device": device_class(device), "hardware": hardware(device), "cache": str(cache_dir())}
    say(table(("what", "value"), list(facts.items())))
    document(facts)


def _outlook(found: Forecast) -> list[tuple[str, str]]:
    """Return the rows of the first table that `plan` prints."""
    from ddkit.core.console import duration, size_words

    whole, most = found.footprint, "at most " if found.labels.startswith("budget") else ""
    one, several = duration(found.one_device_seconds), duration(found.seconds)
    files = f"{whole.files}" if whole.files == whole.most_files else f"{whole.files} to {whole.most_files}"
    return [
        ("source", f"{found.data}: {found.source_images} images of {found.classes} classes"),
        ("set", f"{found.ipc * found.classes} images of {found.size} px, {found.views} views each"),
        ("method", f"{found.method}, recipe {found.recipe}, teacher {found.teacher}"),
        ("speed", found.speed),
        ("time", f"{one} on one device" + (f", {several} on {found.devices}" if found.devices > 1 else "")),
        ("units", str(whole.units)),
        ("labels", f"{most}{size_words(whole.label_bytes + whole.view_bytes)} with views, {found.labels}"),
        ("images", f"about {size_words(whole.image_bytes)}, {found.image_format}"),
        ("download", f"{most}about {size_words(whole.download_bytes)}"),
        ("disk for OUT", f"{most}about {size_words(whole.set_bytes)} in {files} files"),
        ("disk for OUT.work", f"{most}about {size_words(whole.work_bytes)}"),
    ]


def _stages(found: Forecast) -> tuple[list[str], list[list[str]]]:
    """Return the header and rows of the second table that `plan` prints: the time of each stage on one device."""
    from ddkit.core.console import duration

    parts = list(dict.fromkeys(part for stage in found.stages for part in stage.one_device))
    several = [f"{found.devices} devices"] if found.devices > 1 else []
    rows = []
    if found.teach_seconds:
        taught = duration(found.teach_seconds)
        rows.append(["teacher", "", "", *[""] * len(parts), taught, *[taught] * len(several)])
    for stage in found.stages:
        times = [duration(stage.one_device.get(part, 0.0)) for part in parts]
        total = [sum(stage.one_device.values()), sum(stage.seconds.values())][: 1 + len(several)]
        rows.append([f"ipc{stage.ipc}", str(stage.images), str(stage.units), *times, *map(duration, total)])
    return ["stage", "images", "units", *parts, "one device", *several], rows


def _summary(m: Manifest) -> list[tuple[str, str]]:
    """Return the rows of the table that `inspect` prints."""
    from ddkit.core.console import one_line, size_words
    from ddkit.distillers import recorded_settings

    settings = one_line(recorded_settings(m.method, m.recipe.config))  # of a method that is not installed, all settings
    return [
        ("name", m.name),
        ("images", f"{m.rows()} of {len(m.classes)} classes, {m.image.size} px"),
        ("prefixes", ", ".join(f"ipc{p}" for p in m.prefixes)),
        ("method", f"{m.method}, recipe {m.recipe.name}, seed {m.seed}"),
        ("settings", settings or "defaults of the method"),
        ("views", f"{m.views.count} of {m.views.size} px, protocol {m.views.protocol}"),
        ("labels", f"{m.labels.codec}, top-1 agreement {m.labels.fidelity.top1_agreement:.4f}"),
        ("teacher", f"{m.teacher.arch}, {m.teacher.accuracy} %, {m.teacher.hash[:12]}"),
        ("source", f"{m.source.id} {m.source.split}, {m.source.fingerprint[:12]}"),
        ("real pixels", m.real_pixels),
        ("size", f"{size_words(m.total_bytes())} in {len(m.shards)} shards"),
        ("content", m.content),
        ("licence", m.license.id if m.license else "none given"),
        *((f"{r.of}, ipc{r.ipc}, {r.labels}", _score(r)) for r in m.results),
    ]


def _score(r: ResultEntry) -> str:
    spread = f" ± {r.std:.2f}" if r.n_students > 1 else ""
    return f"{r.mean:.2f}{spread} % ({r.arch}, {r.protocol}, {r.n_sets} sets, {r.n_students} students)"
