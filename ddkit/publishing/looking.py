"""What people look at: a set's manifest, pictures and card, and what there is to choose from."""

from __future__ import annotations

from pathlib import Path

from ddkit.core.files import locked, write_bytes
from ddkit.core.serialization import PACKAGE
from ddkit.distillers import distiller_names, find_distiller
from ddkit.errors import unknown
from ddkit.format.codecs import codec_names
from ddkit.format.manifest import Manifest
from ddkit.format.manifest_file import read_manifest
from ddkit.networks.registry import network_names
from ddkit.publishing.diagnostics import losses_picture, origins_picture
from ddkit.publishing.pictures import preview_grid, view_strip
from ddkit.publishing.rendering import publish_files
from ddkit.sets.opening import open_manifest, open_set
from ddkit.specs import Protocol, Recipe

KINDS = ("methods", "recipes", "protocols", "networks", "codecs")


def inspect(directory: str | Path, revision: str | None = None) -> Manifest:
    """What the manifest says of a set; of one on the Hub nothing else is fetched.

    directory: a directory, or "ORG/NAME" on the Hub; revision: a branch, tag or commit there. Raises SetError,
    HubAccess, HubError, IntegrityError, FormatVersion.
    """
    return open_manifest(directory, revision)


def preview(
    directory: str | Path, out: str | Path | None = None, *, origins: bool = False, losses: bool = False
) -> dict[str, Path]:
    """Draw pictures of a set: its images class by class, and what views look like with their soft labels.

    directory: a directory, or "ORG/NAME" on the Hub; out: the picture, default ./NAME-preview.png; origins, losses:
    instead the real images it began as beside the results, or the loss curves, which stay beside a set where it was
    made. Returns the pictures by what they show. Raises SetError, IntegrityError, HubAccess, HubError.
    """
    manifest = open_set(directory)
    if origins or losses:
        chosen = [("origins", origins_picture)] * origins + [("losses", losses_picture)] * losses
        made = {}
        for name, draw in chosen:
            made[name] = Path(out if out and len(chosen) == 1 else f"{manifest.name}-{name}.png")
            draw(manifest, made[name])
        return made
    grid = Path(out or f"{manifest.name}-preview.png")
    strip = grid.with_name(f"{grid.stem}-views{grid.suffix}")
    write_bytes(grid, preview_grid(manifest))
    view_strip(manifest, strip)
    return {"images": grid, "views": strip}


def card(directory: str | Path) -> Path:
    """Render README.md, `_info.json` and preview.png of a set from its manifest; what people wrote on the card stays.

    directory: of the set. Returns the card. Raises SetError, IntegrityError, DiskError.
    """
    with locked(Path(directory), "rendering its card"):
        manifest = read_manifest(directory)
        publish_files(manifest)
    return manifest.root / "README.md"


def list_(what: str) -> dict[str, str]:
    """What there is, by name, with a line about each.

    what: methods, recipes, protocols, networks or codecs. Raises OptionError.
    """
    if what == "methods":
        distillers = [find_distiller(name) for name in distiller_names()]
        return {d.name: f"{d.paper}; cost: {d.cost}" for d in distillers}
    if what == "recipes":
        texts = {r.name: (PACKAGE / "recipes" / f"{r.name}.toml").read_text().splitlines() for r in Recipe.shipped()}
        return {name: " ".join(line[2:] for line in lines if line.startswith("# ")) for name, lines in texts.items()}
    if what == "protocols":
        names = sorted(path.stem for path in (PACKAGE / "protocols").glob("*.toml"))
        return {name: Protocol.load(name).about for name in names}
    if what == "networks":
        own = dict.fromkeys(network_names(), "built in")
        return own | {"timm:NAME[@FILE]": "any of timm", "torchvision:NAME[@FILE]": "any of torchvision"}
    if what == "codecs":
        return codec_names()
    raise unknown("list", what, KINDS)
