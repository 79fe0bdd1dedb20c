"""Shows a set: its manifest, pictures and card."""

from __future__ import annotations

from pathlib import Path

from ddkit.core.files import write_bytes
from ddkit.core.locks import locked
from ddkit.format.manifest import Manifest
from ddkit.format.manifest_file import read_manifest
from ddkit.publishing.diagnostics import losses_picture, origins_picture
from ddkit.publishing.pictures import preview_grid, view_strip
from ddkit.publishing.rendering import publish_files
from ddkit.sets.opening import open_manifest, open_set


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
