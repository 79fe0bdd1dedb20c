"""Pictures of how a set was made, from OUT.work. They show real images, so they are never published."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from ddkit.core.files import refuse_links
from ddkit.engine.units import UnitFile
from ddkit.errors import SetError
from ddkit.format.manifest import Manifest
from ddkit.format.manifest_file import work_beside
from ddkit.publishing.pictures import COLOURS, INK, class_labels, new_figure, save_figure, title


def _work_files(manifest: Manifest, folder: str, pattern: str, what: str) -> list[Path]:
    """Return files of OUT.work, sorted by prefix and number. Raises SetError if there are none."""
    beside = work_beside(manifest.root)
    refuse_links(beside.parent, [beside.name])
    work = beside / folder
    found = sorted(work.glob(pattern), key=lambda path: [int(n) for n in re.findall(r"\d+", path.stem)])
    if not found:
        raise SetError(
            f"{manifest.root}: no {what} in {work}; they are kept only where the set was made, and not by every method"
        )
    return found


def origins_picture(manifest: Manifest, path: Path, *, classes: int = 10, per_class: int = 5) -> None:
    """Draw a PNG of the images beside the real images they were initialised from.

    Args:
        manifest: The set.
        path: The PNG to write.
        classes: Number of classes shown.
        per_class: Images shown per class.

    Raises:
        SetError: OUT.work holds no real images.
    """
    pairs: dict[int, list[tuple[int, np.ndarray, np.ndarray]]] = {}
    for file in _work_files(manifest, "units", "recover-*.unit", "real images"):
        tensors = UnitFile(file, None).tensors()
        if "initial" not in tensors:
            raise SetError(f"{manifest.root}: method {manifest.method} did not start from real images")
        for i, label in enumerate(tensors["label"]):
            entry = int(tensors["rank"][i]), tensors["initial"][i], tensors["pixels"][i]
            pairs.setdefault(int(label), []).append(entry)
    chosen = sorted(pairs)[:classes]
    shown = [sorted(pairs[label], key=lambda e: e[0]) for label in chosen]
    last = max(len(mine) for mine in shown)
    ranks = np.unique(np.linspace(0, last - 1, min(per_class, last)).astype(int)).tolist()
    figure = new_figure(2 + 2.2 * len(ranks), 1.15 * len(chosen) + 0.7)
    axes = figure.subplots(len(chosen), 2 * len(ranks), squeeze=False)
    for line, label, mine in zip(axes, chosen, shown):
        for column, rank in enumerate(ranks):
            entry = mine[min(rank, len(mine) - 1)]
            for axis, pixels, text in ((line[2 * column], entry[1], "real"), (line[2 * column + 1], entry[2], "made")):
                axis.imshow(pixels.transpose(1, 2, 0), interpolation="nearest")
                axis.set(xticks=[], yticks=[])
                axis.spines[:].set_visible(False)
                if label == chosen[0]:
                    axis.set_title(f"{text} {entry[0] + 1}", fontsize=9, color=INK)
        name = class_labels(manifest.class_names, 12)[label]
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=10)
    figure.suptitle(
        f"{title(manifest)}: real images and the synthetic images made from them (do not publish)", fontsize=11
    )
    save_figure(figure, path)


def losses_picture(manifest: Manifest, path: Path) -> None:
    """Draw a PNG of the loss curves: one panel per loss term, one line per unit.

    Args:
        manifest: The set.
        path: The PNG to write.

    Raises:
        SetError: OUT.work holds no loss curves.
    """
    files = _work_files(manifest, "losses", "*.unit", "loss curves")
    curves = {file.stem: UnitFile(file, None).tensors() for file in files}
    terms = sorted({name for mine in curves.values() for name in mine})
    prefixes = sorted({int(unit.split("-")[1]) for unit in curves})
    figure = new_figure(4.2 * len(terms), 3.6)
    for axis, term in zip(figure.subplots(1, len(terms), squeeze=False)[0], terms):
        for unit, mine in curves.items():
            if term in mine:
                prefix = int(unit.split("-")[1])
                values = mine[term]
                width = max(1, len(values) // 100)  # moving average over 1 % of the steps: values vary with the crop
                smooth = np.convolve(values, np.ones(width) / width, "valid")
                colour = COLOURS[prefixes.index(prefix) % len(COLOURS)]
                steps = np.arange(len(smooth)) + width
                axis.plot(steps, smooth, color=colour, linewidth=1, alpha=0.8, label=f"ipc {prefix}")
        axis.set_title({"student": "student (by epoch)"}.get(term, term), fontsize=10, loc="left", color=INK)
        axis.set_xlabel("epoch" if term == "student" else "step", fontsize=9)
        axis.grid(color="#e6e8ee", linewidth=0.8)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
        handles, labels = axis.get_legend_handles_labels()
        once = dict(zip(labels, handles))
        axis.legend(once.values(), once.keys(), fontsize=8, frameon=False)
    figure.suptitle(f"{title(manifest)}: loss terms, weighted", fontsize=11)
    save_figure(figure, path)
