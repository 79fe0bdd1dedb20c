"""What a distiller is given and gives back (CONTRIBUTING.md shows a whole one).

A distiller is a module with NAME, PAPER, COST, a frozen dataclass `Config`, `units(plan) -> list[Unit]` (called once a
prefix) and `run(unit, context)`. `prepare`, `select` and `student` units return a dict of named tensors, kept in
OUT.work. `recover` units yield Synthetic images, and may yield None, outside any `with`, where their work so far is
launched: on a GPU others go on beside it, each on a stream of its own, so they share no GPU tensors. Optional:

    prefixes(config, ipc)   the nested sets that are made where none are asked for, ending in ipc (CUDD's stages)
    patches(config)         the N of a stitched grid
    real_pixels(config)     whole, crops, initial or none: what the card says of real pixels
    costs(plan, probe)      part of the manifest's cost -> expected seconds, for the cost question
    log(plan, result)       what the manifest should record of the prefix; result: id -> what that unit returned
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ddkit.core.seeds import rng
from ddkit.errors import ClassesError
from ddkit.synthesis import passes
from ddkit.synthesis.checkpoints import Keep

if TYPE_CHECKING:
    import torch

    from ddkit.replay.loader import ReplayLoader
    from ddkit.sources.images import Source
    from ddkit.teachers.teacher import Teacher

KINDS = ("prepare", "select", "student", "recover")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One prefix's increment: IPC ranks first .. last-1 of every class.

    config: the distiller's Config; counts: source images of each class; size: side of the images to make, pixels;
    prefixes: all up to this one, ending in `last`.
    """

    config: Any
    classes: tuple[str, ...]
    counts: tuple[int, ...]
    first: int
    last: int
    size: int
    seed: int
    prefixes: tuple[int, ...]

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
    prefixes; labels and ranks: which images it makes; steps: how long it is, as it tells `context.keep`; threads: CPU
    threads it sets for itself."""

    id: str
    kind: str
    needs: tuple[str, ...] = ()
    labels: tuple[int, ...] = ()
    ranks: tuple[int, ...] = ()
    steps: int = 1
    threads: int = 1


@dataclass(frozen=True, kw_only=True)
class Synthetic:
    """One made image. pixels: uint8 [3,H,W], H = W = size; rank: IPC rank within its class; origin: format.md's
    {"kind": noise|real|patches|import, "rows": […]}; patches: N of a stitched grid, 1 = none; initial: the real pixels
    it began as, uint8 [3,H,W], which stay in OUT.work."""

    pixels: np.ndarray
    label: int
    rank: int
    origin: dict[str, Any]
    patches: int = 1
    initial: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What `costs` may measure with. each: seconds a teacher pass over one image takes on one worker."""

    teacher: Teacher
    size: int
    workers: int
    each: float


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a unit may use, and nothing else.

    earlier: origins of the images made so far, by class; result: id -> what that unit returned; replay: a ReplayLoader
    over the packed shards of all earlier prefixes; once: (name, compute) -> tensors, computed once for the source and
    kept; student: the network of the `student` unit that this one needs; keep: for long units.
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
    once: Callable[[str, Callable[[], dict[str, np.ndarray]]], dict[str, np.ndarray]]
    student: Teacher | None = None
    keep: Keep = field(default_factory=Keep)

    def rng(self, *path: str | int) -> np.random.Generator:
        """The run's randomness, named by a path."""
        return rng(self.seed, *path)

    def predictions(self, net: Teacher) -> dict[str, np.ndarray]:
        """What a network says of every image of the source (`passes.predictions`): one pass, kept."""
        return self.once(
            f"predictions-{net.spec.hash}", lambda: passes.predictions(self.source, net, self.keep.advance)
        )

    def features(self, net: Teacher) -> np.ndarray:
        """float32 [n,F]: the penultimate features of the source: one pass, kept."""
        made = self.once(f"features-{net.spec.hash}", lambda: passes.features(self.source, net, self.keep.advance))
        return made["features"]

    def class_moments(self) -> dict[str, np.ndarray]:
        """The teacher's BatchNorm statistics of each class (`passes.class_moments`): one pass, kept."""
        name = f"moments-{self.teacher.spec.hash}"
        return self.once(name, lambda: passes.class_moments(self.source, self.teacher))


def class_units(plan: Plan, classes_a_unit: int = 1, needs: Sequence[str] = ()) -> list[Unit]:
    """One `recover` unit for every few classes, each making all ranks of the increment: for methods that treat each
    class by itself."""
    labels = range(len(plan.classes))
    return [
        Unit(
            id=f"recover-{plan.last}-{n}",
            kind="recover",
            needs=tuple(needs),
            labels=tuple(labels[start : start + classes_a_unit]),
            ranks=tuple(plan.ranks),
        )
        for n, start in enumerate(range(0, len(labels), classes_a_unit))
    ]
