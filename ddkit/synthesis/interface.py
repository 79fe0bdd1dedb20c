"""What a distiller is given and gives back (CONTRIBUTING.md shows a whole one).

A distiller is a module with NAME, PAPER, COST, a frozen dataclass `Config`, `units(plan) -> list[Unit]` (called once a
prefix) and `run(unit, context)`. `recover` units yield Synthetic images; `prepare`, `select` and `student` units return
a dict of named tensors, kept in OUT.work. Optional: `patches(config)`, the N of a stitched grid; `passes(plan)`, how
many images go through the teacher (for the cost question); `log(plan)`, what the manifest should record of the plan;
REAL_PIXELS: whole, crops, initial or none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ddkit.errors import ClassesError
from ddkit.seeds import rng

if TYPE_CHECKING:
    import torch

    from ddkit.replay.loader import ReplayLoader
    from ddkit.sources.images import Source
    from ddkit.sources.teacher import Teacher

KINDS = ("prepare", "select", "student", "recover")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One prefix's increment: IPC ranks first .. last-1 of every class.

    config: the distiller's Config; counts: source images of each class; size: side of the images to make, pixels.
    """

    config: Any
    classes: tuple[str, ...]
    counts: tuple[int, ...]
    first: int
    last: int
    size: int
    seed: int

    @property
    def ranks(self) -> range:
        return range(self.first, self.last)

    def need_images(self, needed: int, why: str) -> None:
        """Raises ClassesError naming up to five classes with fewer than `needed` images, what each has and needs."""
        short = [(name, n) for name, n in zip(self.classes, self.counts) if n < needed]
        if short:
            named = ", ".join(f"{name} has {n}" for name, n in short[:5])
            more = f" and {len(short) - 5} more classes" if len(short) > 5 else ""
            raise ClassesError(f"{why} needs {needed} images in each class: {named}{more}; lower --ipc or add images")


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A piece of work, only data. id: KIND-PREFIX-N; needs: ids of units whose results it reads, also of earlier
    prefixes; labels and ranks: which images it makes."""

    id: str
    kind: str
    needs: tuple[str, ...] = ()
    labels: tuple[int, ...] = ()
    ranks: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Synthetic:
    """One made image. pixels: uint8 [3,H,W], H = W = size; rank: IPC rank within its class; origin: format.md's
    {"kind": noise|real|patches|import, "rows": […]}; patches: N of a stitched grid, 1 = none."""

    pixels: np.ndarray
    label: int
    rank: int
    origin: dict[str, Any]
    patches: int = 1


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a unit may use, and nothing else.

    earlier: origins of the images made so far, by class; student: the last stage's network, None in the first;
    result: id -> what that unit returned; replay: a ReplayLoader over the packed shards of all earlier prefixes.
    """

    config: Any
    source: Source
    size: int
    seed: int
    device: torch.device
    teacher: Teacher
    earlier: Mapping[int, list[dict[str, Any]]]
    result: Callable[[str], dict[str, np.ndarray]]
    replay: Callable[..., ReplayLoader]
    student: Any = field(default=None)

    def rng(self, *path: str | int) -> np.random.Generator:
        """The run's randomness, named by a path."""
        return rng(self.seed, *path)


def class_units(plan: Plan, classes_a_unit: int = 1) -> list[Unit]:
    """One `recover` unit for every few classes, each making all ranks of the increment: for methods that treat each
    class by itself."""
    labels = range(len(plan.classes))
    return [
        Unit(
            id=f"recover-{plan.last}-{n}",
            kind="recover",
            labels=tuple(labels[start : start + classes_a_unit]),
            ranks=tuple(plan.ranks),
        )
        for n, start in enumerate(range(0, len(labels), classes_a_unit))
    ]
