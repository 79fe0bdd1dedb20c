"""Shows sets and options: a set's manifest, pictures and card, and the lists of methods, recipes and protocols."""

from __future__ import annotations

from pathlib import Path

from ddkit.core.files import write_bytes
from ddkit.core.locks import locked
from ddkit.core.serialization import PACKAGE
from ddkit.distillers import distiller_names, find_distiller
from ddkit.errors import unknown
from ddkit.format.codecs.registry import codec_names
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
    """Return the manifest of a set; for a set on the Hub, no other file is fetched.

    Args:
        directory: A directory, or "ORG/NAME" on the Hub.
        revision: A branch, tag or commit on the Hub.

    Raises:
        SetError, HubAccess, HubError, IntegrityError, FormatVersion.
    """
    return open_manifest(directory, revision)


def preview(
    directory: str | Path, out: str | Path | None = None, *, origins: bool = False, losses: bool = False
) -> dict[str, Path]:
    """Draw pictures of a set: its images class by class, and some views with their soft labels.

    With `origins` or `losses`, these pictures are drawn instead; their data exists only where the set was made.

    Args:
        directory: A directory, or "ORG/NAME" on the Hub.
        out: The picture. Default ./NAME-preview.png.
        origins: Draw the images beside the real images they were initialised from.
        losses: Draw the loss curves.

    Returns:
        Kind of picture ("images", "views", "origins", "losses") -> path.

    Raises:
        SetError, IntegrityError, HubAccess, HubError.
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
    """Render README.md, `_info.json` and preview.png of a set from its manifest, keeping user content of the card.

    Args:
        directory: The set.

    Returns:
        The path of README.md.

    Raises:
        SetError, IntegrityError, DiskError.
    """
    with locked(Path(directory), "rendering its card"):
        manifest = read_manifest(directory)
        publish_files(manifest)
    return manifest.root / "README.md"


def list_(what: str) -> dict[str, str]:
    """Return the available options of a kind: name -> one-line description.

    Args:
        what: "methods", "recipes", "protocols", "networks" or "codecs".

    Raises:
        OptionError: `what` is another word.
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
