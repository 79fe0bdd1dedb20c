"""What the page shows, collected from manifests, measurements in OUT.work, and the sets themselves."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ddkit.core.files import read_limited, refuse_links
from ddkit.core.serialization import strict_json, to_plain
from ddkit.errors import IntegrityError
from ddkit.format.manifest import Manifest
from ddkit.format.manifest_file import work_beside
from ddkit.format.measurements import Measurements, StoredFigure, read_measurements
from ddkit.publishing.page.images import PageImage, ShownImages, are_heavy, as_uri, label_temperature
from ddkit.publishing.pictures import source_name, title
from ddkit.sources.classes import unique_names

LARGEST_FIGURE = 8 * 2**20  # bytes


@dataclass(frozen=True)
class PageSet:
    """One set of the page, as JSON values.

    Attributes:
        name: Name that tells it from the others of the page.
        title: What it is.
        facts: Name and value of what the first table shows.
        classes: Class names, each of them once.
        temperature: Temperature of its labels.
        results, measurements, curves: As in the manifest and in OUT.work.
        figures: Measure, name, caption, of, and `image` (a data URI) or `spec` (Vega-Lite).
        cost: Seconds by part.
        size: Side of an image, pixels.
        view_size: Side of a view, pixels.
        images: The shown images.
    """

    name: str
    title: str
    facts: list[tuple[str, str]]
    classes: list[str]
    temperature: float
    results: list[dict[str, Any]]
    measurements: list[dict[str, Any]]
    curves: list[dict[str, Any]]
    figures: list[dict[str, Any]]
    cost: dict[str, float]
    size: int
    view_size: int
    images: list[PageImage]


def page_sets(manifests: Sequence[Manifest], *, private: bool = True) -> list[PageSet]:
    """Collect what the page shows.

    Args:
        manifests: The sets, in directories.
        private: Whether to show figures with real images, which are never published.

    Raises:
        IntegrityError: A set, or what was measured of it, is damaged.
    """
    shown = [ShownImages.of(m, len(manifests)) for m in manifests]
    heavy = are_heavy(shown)
    return [
        _page_set(m, name, one.page_images(heavy=heavy), private=private)
        for m, name, one in zip(manifests, _names(manifests), shown)
    ]


def _names(manifests: Sequence[Manifest]) -> list[str]:
    """Return names that tell the sets apart: those of their directories, or what comes before them too."""
    names = [m.root.resolve().name for m in manifests]
    return [
        name if names.count(name) == 1 else f"{m.root.resolve().parent.name}/{name}"
        for name, m in zip(names, manifests)
    ]


def _page_set(manifest: Manifest, name: str, images: list[PageImage], *, private: bool) -> PageSet:
    work = work_beside(manifest.root)
    measured = read_measurements(work)
    if measured is None or measured.content != manifest.content:
        measured = Measurements(content=manifest.content, measurements=manifest.measurements)
    cost = {key: float(value) for key, value in to_plain(manifest.cost).items() if isinstance(value, float)}
    return PageSet(
        name=name, title=title(manifest), facts=_facts(manifest), classes=unique_names(manifest.classes),
        temperature=label_temperature(manifest), results=[_brief(one) for one in manifest.results],
        measurements=[_brief(one) for one in measured.measurements], curves=[to_plain(one) for one in measured.curves],
        figures=[
            found for figure in measured.figures if private or not figure.private if (found := _figure(work, figure))
        ],
        cost={part: cost[part] for part in ("teach", "select", "recover", "relabel", "student") if cost.get(part)},
        size=manifest.image.size, view_size=manifest.views.size, images=images,
    )  # fmt: skip


def _facts(m: Manifest) -> list[tuple[str, str]]:
    """Return what the first table says of a set."""
    accuracy = "" if m.teacher.accuracy is None else f", {m.teacher.accuracy:g} %"
    return [
        ("images", f"{m.rows()} of {len(m.classes)} classes, {m.ipc} per class, {m.image.size} px"),
        ("method", f"{m.method}, recipe {m.recipe.name}, seed {m.seed}"),
        ("source", source_name(m)),
        ("teacher", f"{m.teacher.arch}{accuracy}"),
        ("views", f"{m.views.count} per image, protocol {m.views.protocol}, labels {m.labels.codec}"),
        ("size", f"{m.total_bytes() / 1e6:.2f} MB"),
        ("real pixels", m.real_pixels),
        ("licence", m.license.id if m.license else "none given"),
        ("made with", ", ".join(f"{key} {m.created_by[key]}" for key in ("ddkit", "torch") if key in m.created_by)),
        ("content", m.content[:16]),
    ]


def _brief(one: Any) -> dict[str, Any]:
    """Return an entry as JSON values, without what the page does not show."""
    plain: dict[str, Any] = to_plain(one)
    return {key: value for key, value in plain.items() if key not in ("hardware", "unknown_keys")}


# ------------------------------------------------------------------ figures


def _figure(work: Path, figure: StoredFigure) -> dict[str, Any] | None:
    """Return a figure with its content; None if its file is gone. Raises IntegrityError if it is not what it says."""
    path = work / figure.file
    refuse_links(work, figure.file.split("/"))
    if not path.is_file():
        return None
    content = read_limited(path, LARGEST_FIGURE)
    if content is None:
        raise IntegrityError(f"{path} is larger than a figure can be; delete it and run `ddkit evaluate` again")
    plain: dict[str, Any] = {key: getattr(figure, key) for key in ("measure", "name", "caption", "of", "arch")}
    if figure.kind == "png":
        with Image.open(io.BytesIO(content), formats=("PNG",)) as picture:
            picture.verify()
        return plain | {"image": as_uri("png", content)}
    try:
        spec = strict_json(content)
    except ValueError as error:
        raise IntegrityError(f"{path} is damaged ({error}); delete it and run `ddkit evaluate` again") from error
    if _loads_something(spec):
        raise IntegrityError(f"{path} is a chart that loads data from elsewhere; a chart holds its data")
    return plain | {"spec": spec}


def _loads_something(spec: Any) -> bool:
    """Whether a chart names an address or a signal expression anywhere."""
    if isinstance(spec, dict):
        refused = {"url", "href", "usermeta", "signal", "loader"} & spec.keys()
        return bool(refused) or any(_loads_something(value) for key, value in spec.items() if key != "values")
    return isinstance(spec, list) and any(_loads_something(value) for value in spec)


def as_json(sets: Sequence[PageSet]) -> str:
    """Return the sets as JSON that can stand in a script element of HTML.

    Args:
        sets: The sets.
    """
    text = json.dumps([to_plain(one) for one in sets], separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
