"""Interface of distillers: what a method receives and returns. CONTRIBUTING.md has a complete example."""

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
    """The increment of one prefix: IPC ranks `first` to `last` - 1 of every class.

    Attributes:
        config: The method's Config.
        classes: Names of the classes.
        counts: Number of source images of each class.
        first: IPC of the previous prefix; 0 for the first prefix.
        last: IPC of this prefix.
        size: Side of the images to make, pixels.
        seed: Seed of the run.
        prefixes: IPC of all prefixes up to this one, ending in `last`.
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
        """IPC ranks of the increment."""
        return range(self.first, self.last)

    @property
    def images(self) -> int:
        """Number of images in the increment."""
        return len(self.ranks) * len(self.classes)

    def need_images(self, needed: int, why: str) -> None:
        """Raise ClassesError if a class has fewer source images than needed.

        Args:
            needed: Number of images that each class needs.
            why: What needs the images; the message starts with it.

        Raises:
            ClassesError: Names up to five of the classes and how many images each has.
        """
        short = [(name, n) for name, n in zip(self.classes, self.counts) if n < needed]
        if short:
            named = ", ".join(f"{name} has {n}" for name, n in short[:5])
            more = f" and {len(short) - 5} more classes" if len(short) > 5 else ""
            raise ClassesError(f"{why} needs {needed} images in each class: {named}{more}; lower --ipc or add images")


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A unit of work of a method, as plain data.

    Attributes:
        id: KIND-PREFIX-N.
        kind: prepare, select, student or recover.
        needs: Ids of the units, also of earlier prefixes, whose results it reads.
        labels: Classes of the images it makes.
        ranks: IPC ranks of the images it makes.
        steps: Length of the unit, in the steps that it reports to `context.progress`.
        threads: CPU threads that the unit sets for itself.
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
    """A synthesised image.

    Attributes:
        pixels: uint8 [3,H,W] with H = W = size.
        label: Its class.
        rank: Its IPC rank within the class.
        origin: What it was made from.
        patches: Number of patches it is stitched from; 1: not stitched.
        initial: Real pixels it was initialised with, uint8 [3,H,W]. They are kept in OUT.work only.
    """

    pixels: np.ndarray
    label: int
    rank: int
    origin: Origin
    patches: int = 1
    initial: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What `costs` can use for its estimates.

    Attributes:
        teacher: The teacher, or an untrained network of its architecture.
        size: Side of the images, pixels.
        workers: Number of units that a device runs in parallel.
        each: Seconds of a teacher pass over one image on one worker.
        devices: Number of devices that share the units of an increment.
        stated: Seconds of such a pass by precision, on a device whose speed is stated; None: on this machine, where a
            method can measure more.
        measured: The results of `once`.
    """

    teacher: Teacher
    size: int
    workers: int
    each: float
    devices: int = 1
    stated: Mapping[str, float] | None = None
    measured: dict[Any, float] = field(default_factory=dict)

    def spread(self, seconds: float, units: int, threads: int = 1) -> float:
        """Return when the last of some independent units is done, in seconds.

        Args:
            seconds: What all of them take together, one after the other.
            units: Their number. They are taken to be equally long.
            threads: CPU threads of a unit.
        """
        at_once = self.devices * max(1, self.workers // threads)
        return seconds * -(-units // at_once) / units

    def pass_with(self, threads: int) -> float:
        """Return the seconds of a teacher pass over one image in a unit of several CPU threads.

        Args:
            threads: CPU threads of the unit. Only on a CPU they make a difference.
        """
        if threads == 1 or self.stated is not None or self.teacher.device.type != "cpu":
            return self.each
        return self.once(("pass", threads), lambda: passes.seconds_a_pass(self.teacher, self.size, threads))

    def once(self, what: Any, measure: Callable[[], float]) -> float:
        """Return a measurement, which is made once and kept.

        Args:
            what: Names the measurement; hashable.
            measure: Makes it.
        """
        if what not in self.measured:
            self.measured[what] = measure()
        return self.measured[what]


@dataclass(frozen=True, kw_only=True)
class Context:
    """Everything that a unit may use.

    Attributes:
        config: The method's Config.
        source: The real images.
        size: Side of the images to make, pixels.
        seed: Seed of the run.
        device: The device.
        teacher: The teacher.
        earlier: Origins of the images of earlier prefixes, by class.
        result: Id of a unit -> its result.
        replay: Opens a ReplayLoader over the packed shards of all earlier prefixes. For units of kind `student`.
        once: (name, compute) -> tensors, computed once for the source and cached.
        student: The network of the `student` unit that this unit needs; None if it needs none.
        progress: Progress, checkpoints and losses of the unit.
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
        """Return the random generator of the run that `path` names."""
        return rng(self.seed, *path)

    def used_rows(self, label: int) -> set[int]:
        """Return the rows of the source that earlier prefixes used for the class `label`."""
        return {int(row) for origin in self.earlier.get(label, []) for row in origin.rows}

    def predictions(self, net: Teacher) -> Tensors:
        """Return the predictions of `net` on the source (`passes.predictions`), computed once and cached."""
        return self.once(
            f"predictions-{net.spec.hash}", lambda: passes.predictions(self.source, net, self.progress.advance)
        )

    def features(self, net: Teacher) -> np.ndarray:
        """Return the penultimate features of `net` on the source, float32 [n,F], computed once and cached."""
        name = f"features-{net.spec.hash}"
        return self.once(name, lambda: passes.features(self.source, net, self.progress.advance))["features"]

    def class_moments(self) -> Tensors:
        """Return the teacher's BatchNorm statistics by class (`passes.class_moments`), computed once and cached."""
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
    """A method: what its module defines, with defaults for the hooks it lacks.

    `run` returns named tensors for `prepare`, `select` and `student` units and yields Synthetic images for `recover`
    units. It may yield None, outside any `with`, after launching kernels: on a GPU units are interleaved, each on
    its own stream, so they must not share GPU tensors.

    Attributes:
        name: NAME of the module.
        paper: PAPER of the module.
        cost: COST of the module.
        config_type: `Config` of the module, a frozen dataclass.
        units: Returns the units of an increment; called once for each prefix.
        run: Runs one unit.
        prefixes: (config, ipc) -> the prefixes to make if the user gives none, ending in `ipc`.
        patches: config -> number of patches an image is stitched from.
        real_pixels: config -> what the card says about real pixels: whole, crops, initial or none. None: decided by the
            origins of the images.
        costs: (plan, probe) -> expected seconds by part of the manifest's cost.
        log: (plan, result) -> what the manifest records of the prefix; None: nothing.
        code: sha256 of the method's file; None for an installed method.
        shipped: Whether the method is part of ddkit.
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
    """Return `recover` units of a few classes each, which make all ranks of the increment.

    For methods that make the images of each class independently.

    Args:
        plan: The increment.
        classes_a_unit: Classes per unit.
        needs: Ids of the units that each unit needs.
    """
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
