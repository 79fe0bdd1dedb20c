"""Commands of the panel "Look": inspect, preview, list, env."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ddkit.cli import options as o
from ddkit.cli.output import command, document, say, table

if TYPE_CHECKING:
    from ddkit.format.manifest import Manifest
    from ddkit.format.results import ResultEntry


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


@command("Look", "list")
def list_(
    what: Annotated[str | None, typer.Argument(help="methods, recipes, protocols, networks or codecs")] = None,
) -> None:
    """List the available methods, recipes, protocols, networks or codecs."""
    from ddkit.publishing.looking import KINDS
    from ddkit.publishing.looking import list_ as run

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
