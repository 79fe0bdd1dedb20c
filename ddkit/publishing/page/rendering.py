"""Renders the page: a template, style and script of ours, and Vega-Lite, all in one file that requests nothing."""

from __future__ import annotations

import importlib.resources
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from ddkit import __version__
from ddkit.core.files import write_bytes
from ddkit.format.manifest_file import read_manifest, work_beside
from ddkit.format.measurements import FILE
from ddkit.publishing.page.data import as_json, page_sets

PAGE = "page.html"
SCRIPTS = ("elements", "subjects", "charts", "results", "measures", "curves", "images", "page")  # in this order


def render_page(directories: Sequence[str | Path], *, private: bool = True) -> str:
    """Return the page of some sets as HTML.

    Args:
        directories: The sets.
        private: Whether to show figures with real images, which are never published.

    Raises:
        SetError, IntegrityError.
    """
    manifests = [read_manifest(directory) for directory in directories]
    assets = importlib.resources.files("ddkit.publishing.page") / "assets"

    def asset(name: str) -> str:
        lines = (assets / name).read_text(encoding="utf-8").splitlines()
        return "\n".join(line for line in lines if not line.startswith("//# sourceMappingURL="))

    environment = Environment(undefined=StrictUndefined, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    sets = page_sets(manifests, private=private)
    return environment.from_string(asset("page.html.j2")).render(
        title=sets[0].title if len(sets) == 1 else f"{len(sets)} distilled sets", version=__version__,
        style=asset("page.css"), script="\n".join(asset(f"{name}.js") for name in SCRIPTS), vega=asset("vega.min.js"),
        vega_lite=asset("vega-lite.min.js"), data=as_json(sets),
    )  # fmt: skip


def report(directories: str | Path | Sequence[str | Path], out: str | Path = PAGE) -> Path:
    """Write one HTML page of everything that was measured of some sets.

    The page needs no network and no other file. It shows what `ddkit evaluate` measured, so run that before.

    Args:
        directories: One set, or several.
        out: The file.

    Returns:
        Its path.

    Raises:
        SetError, IntegrityError, DiskError.
    """
    chosen = [directories] if isinstance(directories, str | Path) else list(directories)
    write_bytes(Path(out), render_page(chosen).encode())
    return Path(out)


def current_page(directory: str | Path) -> Path:
    """Return the page of a set in OUT.work, written again if the set or its measurements are newer.

    Args:
        directory: The set.

    Raises:
        SetError, IntegrityError, DiskError.
    """
    manifest = read_manifest(directory)
    work = work_beside(manifest.root)
    page, made_from = work / PAGE, [manifest.root / "ddkit.json", work / FILE]
    newest = max(path.stat().st_mtime_ns for path in made_from if path.is_file())
    if not page.is_file() or page.stat().st_mtime_ns < newest:
        work.mkdir(exist_ok=True)
        report(directory, page)
    return page
