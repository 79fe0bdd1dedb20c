"""Pictures: the distilled images class by class, views, learning curves."""

from __future__ import annotations

import io
import math
import re
import textwrap
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ddkit.core.console import note
from ddkit.core.files import atomic_file
from ddkit.core.worker_state import STATE
from ddkit.errors import first_few
from ddkit.format.damage import open_images
from ddkit.format.images import decode_image
from ddkit.format.manifest import Manifest
from ddkit.replay.loader import ReplayLoader
from ddkit.text import one_printable_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT, PAPER = "#1f2430", "#8a90a0", "#ffffff"
LEFT_TO_RIGHT = "\u200e"  # zero-width mark around a name, which may be Arabic or Hebrew
COLOURS = ("#3b6fb6", "#d1663a", "#3f9b63", "#8d5bb5", "#b63b64", "#6f7683")


def thumbnails(manifest: Manifest, per_class: int, classes: int) -> dict[int, list[np.ndarray]]:
    """Return the first images of evenly spaced classes: label -> list of uint8 [3, H, W].

    Args:
        manifest: The set.
        per_class: Images per class.
        classes: Largest number of classes.
    """
    total = len(manifest.classes)
    chosen = set(np.unique(np.linspace(0, total - 1, min(classes, total)).astype(int)).tolist())
    found: dict[int, list[np.ndarray]] = {label: [] for label in sorted(chosen)}
    for shard in manifest.shards:
        for record, image in open_images(manifest, shard):
            if record.label in chosen and len(found[record.label]) < per_class:
                where = f"{shard.path} row {record.row}"
                found[record.label].append(decode_image(image, manifest.image.codec, where, manifest.image.size))
        if all(len(images) == per_class for images in found.values()):
            break
    return found


def preview_grid(manifest: Manifest, *, per_class: int = 10, classes: int = 20, heading: bool = True) -> bytes:
    """Draw a PNG with the first images of each class, class names on the left.

    Args:
        manifest: The set.
        per_class: Largest number of images per class.
        classes: Largest number of classes; half as many for images of 96 px or more.
        heading: Draw the set's title above.

    Returns:
        The bytes of the PNG.
    """
    scale = 2 if manifest.image.size >= 96 else 1  # large images at twice the size, for high-resolution screens
    images = thumbnails(manifest, min(per_class, manifest.ipc), classes // scale)
    side, gap = 64 * scale, 4 * scale
    font, large = (ImageFont.truetype(font_file(), points * scale) for points in (13, 15))
    names = class_labels(manifest.class_names)
    left = int(max(font.getlength(names[label]) for label in images)) + 24 * scale
    columns = max(len(mine) for mine in images.values())
    blocks = max(1, min(4, 10 // columns, len(images)))  # few images per class: several classes side by side
    lines, block = math.ceil(len(images) / blocks), left + columns * (side + gap) + gap
    total = len(manifest.classes)
    more = "" if len(images) == total else f"{len(images)} of {total} classes"
    headline = drawable(" · ".join(part for part in (title(manifest) if heading else "", more) if part))
    top = 40 * scale if headline else gap
    width = max(blocks * block, int(large.getlength(headline)) + 24 * scale)
    canvas = Image.new("RGB", (width, top + lines * (side + gap) + gap), PAPER)
    pen = ImageDraw.Draw(canvas)
    pen.text((12 * scale, 11 * scale), headline, INK, font=large)
    for number, (label, mine) in enumerate(images.items()):
        x, y = number // lines * block, top + number % lines * (side + gap)
        pen.text((x + 12 * scale, y + side // 2 - 9 * scale), names[label], INK, font=font)
        for column, pixels in enumerate(mine):
            canvas.paste(_enlarged(pixels, side), (x + left + column * (side + gap), y))
    buffer = io.BytesIO()
    canvas.save(buffer, "PNG")
    return buffer.getvalue()


def _enlarged(pixels: np.ndarray, side: int) -> Image.Image:
    image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    method = Image.Resampling.NEAREST if side >= image.width else Image.Resampling.LANCZOS
    return image.resize((side, side), method)


def short_name(name: str, longest: int = 22) -> str:
    """Shorten a class name for a label: the first lemma, without a leading WordNet id.

    Args:
        name: The class name.
        longest: Largest number of characters.
    """
    name = unicodedata.normalize("NFC", one_printable_line(name))
    name = re.sub(r"^n\d{8}[_ -]", "", name.split(",")[0]).replace("_", " ")
    return name if len(name) <= longest else name[: longest - 1] + "…"


def class_labels(names: Sequence[str], longest: int = 22) -> list[str]:
    """Return the label of each class in pictures: its short name, or `class 7` if the font lacks a character of it.

    A note lists the replaced names, once per process and set of names.

    Args:
        names: Names of all classes, in label order.
        longest: Largest number of characters of a short name.
    """
    missing = [label for label, name in enumerate(names) if drawable(short := short_name(name)) != short]
    if missing:
        STATE.keep("undrawable names", tuple(names), lambda: _note_undrawable(names, missing))  # once per process
    labels = [short_name(name, longest) for name in names]
    for label in missing:
        labels[label] = f"class {label}"
    return labels


def _note_undrawable(names: Sequence[str], missing: Sequence[int]) -> None:
    what = "1 class name has" if len(missing) == 1 else f"{len(missing)} class names have"
    listed = first_few(f"class {label} ({short_name(names[label])})" for label in missing)
    note(f"{what} characters that the font of pictures lacks; pictures show the class number instead: {listed}")


def drawable(text: str) -> str:
    """Replace each character that the font of pictures lacks by `?`.

    Args:
        text: Any text.
    """
    known = STATE.constant("drawable characters", _font_characters)
    return "".join(c if c in known else "?" for c in text)


def _font_characters() -> frozenset[str]:
    from matplotlib.ft2font import FT2Font

    return frozenset("\n") | {chr(code) for code in FT2Font(font_file()).get_charmap()}


def font_file() -> str:
    """Return the font of all pictures: matplotlib's DejaVu Sans (Latin, Greek, Cyrillic and more, no CJK)."""
    import matplotlib

    return str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"))


METHOD_NAMES = {
    "cudd": "CUDD",
    "cda": "CDA",
    "sre2l": "SRe2L",
    "rded": "RDED",
    "random": "Random real images",
    "herding": "Herding",
    "kcenter": "k-center greedy",
    "kmeans": "k-means",
}


def title(manifest: Manifest) -> str:
    """Return the title of a set, as in `RDED · CIFAR-10 · 10 images per class`.

    Args:
        manifest: The set.
    """
    method = METHOD_NAMES.get(manifest.method, manifest.method)
    images = "image" if manifest.ipc == 1 else "images"
    return one_printable_line(f"{method} · {source_name(manifest)} · {manifest.ipc} {images} per class")


def source_name(manifest: Manifest) -> str:
    """Return the display name of a set's source.

    Args:
        manifest: The set.
    """
    imagenet = len(manifest.classes) == 1000 and all(c.id for c in manifest.classes)
    if imagenet and manifest.recipe.name == "imported":
        return "ImageNet-1K"  # clearer than the name of the imported archive
    return dataset_name(manifest.source.id)


DATASET_NAMES = {
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "tinyimagenet": "Tiny-ImageNet",
    "imagenet1k": "ImageNet-1K",
    "imagenet21kp": "ImageNet-21K-P",
    "imagenette": "Imagenette",
    "imagewoof": "Imagewoof",
    "digits": "Digits",
    "mnist": "MNIST",
    "fashionmnist": "Fashion-MNIST",
    "svhn": "SVHN",
}


def dataset_name(source: str) -> str:
    """Return the display name of a source: `uoft-cs/cifar10` is CIFAR-10; an unknown one is its last path part.

    Args:
        source: A path or Hub id.
    """
    last = source.rstrip("/").split("/")[-1].removesuffix(".zip")
    return DATASET_NAMES.get(re.sub(r"[^a-z0-9]", "", last.lower()), last)


def view_strip(manifest: Manifest, path: Path, *, rows: int = 6, views: int = 6) -> None:
    """Draw a PNG of some rows: the stored image with its crop boxes, then its first views.

    Above a view are the classes that the teacher finds most likely (T = 1), below it the class mixed in by CutMix.

    Args:
        manifest: The set.
        path: The PNG to write.
        rows: Largest number of rows.
        views: Largest number of views per row.
    """
    loader = ReplayLoader(manifest, batch_size=1, rank=0, world_size=1, temperature=1.0)
    views = min(views, loader.views)
    chosen = np.unique(np.linspace(0, loader.rows - 1, min(rows, loader.rows)).astype(int))
    names, short_names = (class_labels(loader.classes, longest) for longest in (16, 12))
    legend = "stored image with crop boxes; views: above, the teacher's most likely classes"
    if any(loader.partner(int(row), v) is not None for row in chosen for v in range(views)):
        legend += "; below, the class mixed in (CutMix)"
    width = 2.1 + 1.7 * views
    heading = [line for text in (title(manifest), legend) for line in textwrap.wrap(text, int(11 * width))]
    figure = new_figure(width, (width / (views + 1) + 0.6) * len(chosen) + 0.2 * len(heading) + 0.1)
    figure.suptitle("\n".join(heading), fontsize=11)
    axes = figure.subplots(len(chosen), views + 1, squeeze=False)
    for line, row in zip(axes, chosen):
        stored, boxes, label = loader.stored(int(row))
        line[0].imshow(stored.transpose(1, 2, 0))
        line[0].set_title(names[label], fontsize=8, color=INK)
        for v, axis in enumerate(line[1:]):
            colour = COLOURS[v % len(COLOURS)]
            t, left, h, w = (int(x) for x in boxes[v])
            line[0].add_patch(_rectangle(left - 0.5, t - 0.5, w, h, colour))
            _draw_view(axis, loader, int(row), v, short_names)
            for spine in axis.spines.values():
                spine.set(color=colour, linewidth=2)
        for axis in line:
            axis.set(xticks=[], yticks=[])
    save_figure(figure, path)


def _draw_view(axis: Axes, loader: ReplayLoader, row: int, view: int, names: Sequence[str]) -> None:
    """Draw one view, with its three most likely classes above and the class mixed in below."""
    pixels, logits = loader.view(row, view)
    axis.imshow(pixels.transpose(1, 2, 0))
    p = np.exp(logits - logits.max())
    p /= p.sum()
    best = np.argsort(-p, kind="stable")[:3]
    lines = [f"{LEFT_TO_RIGHT}{names[c]}{LEFT_TO_RIGHT}: {100 * p[c]:.0f} %" for c in best]
    axis.set_title("\n".join(lines), fontsize=7, color=INK)
    partner = loader.partner(row, view)
    if partner is not None:
        axis.set_xlabel(f"{LEFT_TO_RIGHT}+ {names[partner]}", fontsize=7, color=INK, labelpad=2)


def _rectangle(x: float, y: float, w: float, h: float, colour: str) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((x, y), w, h, fill=False, edgecolor=colour, linewidth=1.3)


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure that needs no display.

    Args:
        width: Inches.
        height: Inches.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=120, layout="constrained", facecolor=PAPER)
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, atomically.

    Text is drawn literally: `$` starts no formula, and `?` replaces characters that the font lacks.

    Args:
        figure: The figure.
        path: The PNG to write.
    """
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        font = text.get_fontproperties().copy()
        font.set_file(font_file())
        text.set_fontproperties(font)
        text.set_parse_math(False)
        text.set_text(drawable(text.get_text()))
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png")


def _plot_curves(axis: Any, histories: Mapping[str, Sequence[Mapping[str, float]]], key: str, ylabel: str) -> None:
    ends: list[tuple[float, float, str]] = []
    for (name, history), colour in zip(histories.items(), COLOURS * math.ceil(len(histories) / len(COLOURS))):
        points = [(entry["epoch"], entry[key]) for entry in history if key in entry]
        if points:
            xs, ys = zip(*points)
            axis.plot(xs, ys, color=colour, linewidth=1.6, label=name, marker="o" if len(xs) < 30 else "", markersize=3)
            if key == "accuracy":
                ends.append((ys[-1], xs[-1], colour))
    low, high = axis.get_ylim()
    place = low
    for value, x, colour in sorted(ends):  # the last values beside their curves, without overlap
        place = max(value, place)
        axis.text(x * 1.012, place, f"{value:.1f}", fontsize=8, color=colour, va="center")
        place += (high - low) * 0.045
    axis.set_xlabel("epoch", fontsize=9)
    axis.set_title(ylabel, fontsize=10, loc="left", color=INK)
    axis.grid(color="#e6e8ee", linewidth=0.8)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)
    if len(histories) > 1:
        axis.legend(fontsize=8, frameon=False)


def curves(histories: Mapping[str, Sequence[Mapping[str, float]]], path: Path) -> None:
    """Draw learning curves: training loss and, if it was measured, accuracy.

    Args:
        histories: Name of the curve -> log entries of the training.
        path: The PNG to write.
    """
    measured = any("accuracy" in entry for history in histories.values() for entry in history)
    figure = new_figure(10 if measured else 6, 3.6)
    axes = figure.subplots(1, 2 if measured else 1, squeeze=False)[0]
    _plot_curves(axes[0], histories, "loss", "training loss")
    if measured:
        _plot_curves(axes[1], histories, "accuracy", "accuracy on held-out images, %")
    save_figure(figure, path)


def demo_picture(
    manifest: Manifest,
    histories: Mapping[str, Sequence[Mapping[str, float]]],
    rows: Sequence[Sequence[str]],
    path: Path,
) -> None:
    """Draw the demo's picture: the distilled images class by class, the students' accuracy, and the table.

    Args:
        manifest: The distilled set.
        histories: Name of the student -> log entries of its training.
        rows: The table, header first.
        path: The PNG to write.
    """
    images = thumbnails(manifest, min(10, manifest.ipc), 10)
    names = class_labels(manifest.class_names, 12)
    figure = new_figure(14, 6.6)
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.05), squeeze=False)[0]
    left.suptitle(f"{title(manifest)}: what was made", fontsize=11, color=INK)
    grid = left.subplots(len(images), max(len(mine) for mine in images.values()), squeeze=False)
    for line, (label, mine) in zip(grid, images.items()):
        for axis in line:
            axis.set_axis_off()
        for axis, pixels in zip(line, mine):
            axis.imshow(pixels.transpose(1, 2, 0), interpolation="nearest")
        line[0].set_axis_on()
        line[0].set(xticks=[], yticks=[])
        line[0].set_ylabel(names[label], rotation=0, ha="right", va="center", fontsize=10)
        line[0].spines[:].set_visible(False)
    top, bottom = right.subfigures(2, 1, height_ratios=(2.2, 1), squeeze=False)[:, 0]
    _plot_curves(top.subplots(), histories, "accuracy", "accuracy on held-out images while training, %")
    axis = bottom.subplots()
    axis.set_axis_off()
    table = axis.table(cellText=[list(r) for r in rows[1:]], colLabels=list(rows[0]), loc="center", cellLoc="left")
    table.auto_set_font_size(False)
    table.set_fontsize(9)
    table.scale(1, 1.35)
    for cell in table.get_celld().values():
        cell.set_edgecolor("#d8dbe3")
    save_figure(figure, path)
