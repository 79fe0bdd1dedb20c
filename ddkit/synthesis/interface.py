"""What a distiller is given and gives back (CONTRIBUTING.md shows a whole one)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ddkit.core.seeds import rng
from ddkit.errors import ClassesError
from ddkit.format.entries import Origin
from ddkit.synthesis import passes
from ddkit.synthesis.unit_progress import UnitProgress

if TYPE_CHECKING:
    import torch

    from ddkit.replay.loader import ReplayLoader
    from ddkit.sources.images import Source
    from ddkit.teachers.teacher import Teacher

KINDS = ("prepare", "select", "student", "recover")

Tensors = dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The increment of one prefix: IPC ranks first .. last-1 of every class.

    config: the method's Config; classes: their names; counts: source images of each class; size: side of the images to
    make, pixels; prefixes: all up to this one, ending in `last`.
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
        """The IPC ranks of the increment."""
        return range(self.first, self.last)

    @property
    def images(self) -> int:
        """How many images the increment has."""
        return len(self.ranks) * len(self.classes)

    def need_images(self, needed: int, why: str) -> None:
        """Raise ClassesError naming up to five classes with fewer than `needed` images, what each has and needs.

        why: what needs them, as the beginning of the message.
        """
        short = [(name, n) for name, n in zip(self.classes, self.counts) if n < needed]
        if short:
            named = ", ".join(f"{name} has {n}" for name, n in short[:5])
            more = f" and {len(short) - 5} more classes" if len(short) > 5 else ""
            raise ClassesError(f"{why} needs {needed} images in each class: {named}{more}; lower --ipc or add images")


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A piece of work, only data.

    id: KIND-PREFIX-N; kind: prepare, select, student or recover; needs: ids of units whose results it reads, also of
    earlier prefixes; labels and ranks: which images it makes; steps: how long it is, as it reports to
    `context.progress`; threads: CPU threads it sets for itself.
    """

    id: str
    kind: str
    needs: tuple[str, ...] = ()
    labels: tuple[int, ...] = ()
    ranks: tuple[int, ...] = ()
    steps: int = 1
    threads: int = 1


@dataclass(frozen=True, kw_only=True)
class Synthetic:
    """One made image.

    pixels: uint8 [3,H,W], H = W = size; label: its class; rank: IPC rank within the class; origin: where it comes from;
    patches: N of a stitched grid, 1 = none; initial: the real pixels it began as, uint8 [3,H,W]; they stay in OUT.work.
    """

    pixels: np.ndarray
    label: int
    rank: int
    origin: Origin
    patches: int = 1
    initial: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What `costs` may measure with.

    size: of the images, pixels; workers: units that run side by side; each: seconds that a teacher pass over one image
    takes on one worker.
    """

    teacher: Teacher
    size: int
    workers: int
    each: float


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a unit may use, and nothing else.

    config: the method's Config; source: the real images; size: of the images to make, pixels; earlier: origins of the
    images made so far, by class; result: id -> what that unit returned; replay: opens a ReplayLoader over the packed
    shards of all earlier prefixes; once: (name, compute) -> tensors, computed once for the source and kept; student:
    the network of the `student` unit that this one needs; progress: for long units.
    """

    config: Any
    source: Source
    size: int
    seed: int
    device: torch.device
    teacher: Teacher
    earlier: Mapping[int, list[Origin]]
    result: Callable[[str], Tensors]
    replay: Callable[..., ReplayLoader]
    once: Callable[[str, Callable[[], Tensors]], Tensors]
    student: Teacher | None = None
    progress: UnitProgress = field(default_factory=UnitProgress)

    def rng(self, *path: str | int) -> np.random.Generator:
        """The run's randomness, named by a path."""
        return rng(self.seed, *path)

    def used_rows(self, label: int) -> set[int]:
        """Rows of the source that earlier prefixes used for a class."""
        return {int(row) for origin in self.earlier.get(label, []) for row in origin.rows}

    def predictions(self, net: Teacher) -> Tensors:
        """What a network says of every image of the source (`passes.predictions`): one pass, kept."""
        return self.once(
            f"predictions-{net.spec.hash}", lambda: passes.predictions(self.source, net, self.progress.advance)
        )

    def features(self, net: Teacher) -> np.ndarray:
        """The penultimate features of the source, float32 [n,F]: one pass, kept."""
        name = f"features-{net.spec.hash}"
        return self.once(name, lambda: passes.features(self.source, net, self.progress.advance))["features"]

    def class_moments(self) -> Tensors:
        """The teacher's BatchNorm statistics of each class (`passes.class_moments`): one pass, kept."""
        name = f"moments-{self.teacher.spec.hash}"
        return self.once(name, lambda: passes.class_moments(self.source, self.teacher))


def _one_prefix(config: Any, ipc: int) -> tuple[int, ...]:
    return (ipc,)


def _no_patches(config: Any) -> int:
    return 1


def _no_costs(plan: Plan, probe: Probe) -> dict[str, float]:
    return {}


@dataclass(frozen=True, kw_only=True)
class Distiller:
    """A method: what its module resolves to, once, with defaults for the hooks it does not have.

    name, paper, cost: NAME, PAPER and COST of the module; config_type: its `Config`, a frozen dataclass; units: the
    units of an increment, asked once for each prefix; run: does one unit. `prepare`, `select` and `student` units
    return named tensors; `recover` units yield Synthetic images, and may yield None, outside any `with`, where their
    work so far is launched: on a GPU other units go on beside it, each on a stream of its own, so they share no GPU
    tensors.

    Hooks: prefixes: (config, ipc) -> the nested sets made where none are asked for, ending in ipc; patches: N of a
    stitched grid; real_pixels: whole, crops, initial or none, what the card says of real pixels, None: decided by the
    origins of the images; costs: (plan, probe) -> part of the manifest's cost -> expected seconds; log: (plan, result)
    -> what the manifest records of the prefix, None: nothing.

    code: sha256 of its file, None of an installed one; shipped: whether it is part of ddkit.
    """

    name: str
    paper: str
    cost: str
    config_type: type
    units: Callable[[Plan], list[Unit]]
    run: Callable[[Unit, Context], Tensors | Iterator[Synthetic | None]]
    prefixes: Callable[[Any, int], tuple[int, ...]] = _one_prefix
    patches: Callable[[Any], int] = _no_patches
    real_pixels: Callable[[Any], str] | None = None
    costs: Callable[[Plan, Probe], dict[str, float]] = _no_costs
    log: Callable[[Plan, Callable[[str], Tensors]], dict[str, Any]] | None = None
    code: str | None = None
    shipped: bool = True


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
