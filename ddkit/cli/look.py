"""Panel Look: inspect, preview, list, env."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ddkit.cli import options as o
from ddkit.cli.output import command, document, say, table
from ddkit.errors import unknown

if TYPE_CHECKING:
    from ddkit.format.manifest import Manifest
    from ddkit.format.results import ResultEntry


@command("Look")
def inspect(directory: o.SetOrId) -> None:
    """What the manifest says of a set; on the Hub nothing else is fetched."""
    from ddkit.sets.opening import open_manifest

    manifest = open_manifest(directory)
    say(table(("what", "value"), _facts(manifest)))
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
    """Two pictures: the images class by class, and what the views of some look like with their soft labels.

    With --origins or --losses one picture of what OUT.work keeps of the making.
    """
    from ddkit.core.files import write_bytes
    from ddkit.publishing.diagnostics import losses_picture, origins_picture
    from ddkit.publishing.pictures import preview_grid, view_strip
    from ddkit.sets.opening import open_set

    manifest = open_set(directory)
    if origins or losses:
        chosen = [("origins", origins_picture)] * origins + [("losses", losses_picture)] * losses
        made = {}
        for name, draw in chosen:
            made[name] = Path(out if out and len(chosen) == 1 else f"{manifest.name}-{name}.png")
            draw(manifest, made[name])
            say(f"{name}: {made[name]}")
        document({name: str(path) for name, path in made.items()})
        return
    grid = Path(out or f"{manifest.name}-preview.png")
    strip = grid.with_name(f"{grid.stem}-views{grid.suffix}")
    write_bytes(grid, preview_grid(manifest))
    view_strip(manifest, strip)
    say(f"images: {grid}")
    say(f"views: {strip}")
    document({"images": str(grid), "views": str(strip)})


@command("Look", "list")
def list_(
    what: Annotated[str, typer.Argument(help="methods, recipes, protocols, networks or codecs")],
) -> None:
    """What there is: methods, recipes, protocols, networks, codecs."""
    rows = _listing(what)
    say(table(("name", "about"), rows))
    document([{"name": name, "about": about} for name, about in rows])


@command("Look")
def env() -> None:
    """Versions and hardware, for a bug report."""
    from ddkit.core.device import device_class, hardware, pick_device, versions
    from ddkit.core.files import cache_dir

    device = pick_device("auto")
    facts = versions() | {"device": device_class(device), "hardware": hardware(device), "cache": str(cache_dir())}
    say(table(("what", "value"), list(facts.items())))
    document(facts)


def _facts(m: Manifest) -> list[tuple[str, str]]:
    """What a manifest says, in lines for people."""
    from ddkit.core.console import one_line, size_words
    from ddkit.distillers import recorded_settings

    settings = one_line(recorded_settings(m.method, m.recipe.config))  # all of a method that is not here
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


def _listing(what: str) -> list[tuple[str, str]]:
    from ddkit.core.serialization import PACKAGE
    from ddkit.specs import Protocol, Recipe

    if what == "methods":
        from ddkit.distillers import distiller_names, find_distiller

        distillers = [find_distiller(name) for name in distiller_names()]
        return [(d.name, f"{d.paper}; cost: {d.cost}") for d in distillers]
    if what == "recipes":
        texts = {r.name: (PACKAGE / "recipes" / f"{r.name}.toml").read_text().splitlines() for r in Recipe.shipped()}
        return [(name, " ".join(line[2:] for line in lines if line.startswith("# "))) for name, lines in texts.items()]
    if what == "protocols":
        names = sorted(path.stem for path in (PACKAGE / "protocols").glob("*.toml"))
        return [(name, Protocol.load(name).about) for name in names]
    if what == "networks":
        from ddkit.networks.registry import network_names

        own = [(name, "built in") for name in network_names()]
        return [*own, ("timm:NAME[@FILE]", "any of timm"), ("torchvision:NAME[@FILE]", "any of torchvision")]
    if what == "codecs":
        from ddkit.format.codecs import codec_names

        return list(codec_names().items())
    raise unknown("list", what, ("methods", "recipes", "protocols", "networks", "codecs"))
