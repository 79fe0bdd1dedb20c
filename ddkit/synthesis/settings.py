"""Settings of inversion and of patches, with the names of the papers. A recipe's [config] table sets them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


def _at_least(low: float, **values: float) -> None:
    for name, value in values.items():
        if value < low:
            raise ValueError(f"{name} is {value}; it must be at least {low:g}")


@dataclass(frozen=True, kw_only=True)
class Crop:
    """The augmentation of each step, shared by the batch: a RandomResizedCrop, then a flip, then a roll.

    The crop covers a share of the area in [low, 1], with an aspect ratio of 3/4 to 4/3.

    Attributes:
        direction: `global-to-local` lowers low from 1 to `min` (CDA), `reverse` raises it to 1, `constant` keeps
            it at `min`.
        curve: Curve of low over the steps.
        milestone: Share of the steps in which low changes.
        min: Smallest value of low.
        flip: Probability of the flip.
        jitter: Largest roll, pixels.
        both: Whether the roll goes to either side.
        antialias: Whether to antialias when a crop is reduced; false reproduces torchvision 0.14.
    """

    direction: Literal["global-to-local", "reverse", "constant"] = "constant"
    curve: Literal["step", "linear", "cosine"] = "cosine"
    milestone: float = 1.0
    min: float = 0.08
    flip: float = 0.5
    jitter: int = 4
    both: bool = False
    antialias: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.min <= 1 or not 0 <= self.milestone <= 1 or not 0 <= self.flip <= 1:
            raise ValueError(f"min {self.min}, milestone {self.milestone} and flip {self.flip} must be between 0 and 1")
        _at_least(0, jitter=self.jitter)


@dataclass(frozen=True, kw_only=True)
class BatchNorm:
    """Settings of the term that matches BatchNorm statistics (`objectives.batch_norm`).

    Attributes:
        weight: Weight of the term; 0 drops it.
        first: Weight of the first layer.
        norm: How the layers are added, as in `objectives.batch_norm`.
        moment: The second statistic, as in `objectives.batch_norm`.
        targets: Running statistics of the teacher (`global`), statistics by class (`class`, LPLD), or the mean of both
            terms (`both`, EDC).
    """

    weight: float = 0.01
    first: float = 10.0
    norm: Literal["sum", "per-layer-mean"] = "sum"
    moment: Literal["variance", "std"] = "variance"
    targets: Literal["global", "class", "both"] = "global"

    def __post_init__(self) -> None:
        _at_least(0, weight=self.weight, first=self.first)


@dataclass(frozen=True, kw_only=True)
class Regulariser:
    """Settings of the term that keeps an image close to its real image (CUDD).

    Attributes:
        weight: Weight of the term; 0 drops it.
        space: Whether pixels or the teacher's features are compared.
    """

    weight: float = 0.0
    space: Literal["pixel", "feature"] = "pixel"

    def __post_init__(self) -> None:
        _at_least(0, weight=self.weight)


@dataclass(frozen=True, kw_only=True)
class Adversary:
    """Settings of the term that makes the stage's student wrong (CUDD).

    Attributes:
        weight: Weight of the term; 0 drops it.
        mask: The images that count, as in `objectives.adversarial`.
        form: How the logarithm is computed, as in `objectives.adversarial`.
    """

    weight: float = 0.0
    mask: Literal["teacher", "none"] = "teacher"
    form: Literal["stable", "paper"] = "stable"

    def __post_init__(self) -> None:
        _at_least(0, weight=self.weight)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Settings of the batches of images that are optimised together.

    Attributes:
        size: Largest number of images.
        grouping: Whether a batch has images of many classes or of one.
        ipc: Largest number of images of a class in a batch across classes (the papers have 1); 0: as many as fit.
    """

    size: int = 100
    grouping: Literal["across-classes", "one-class"] = "across-classes"
    ipc: int = 0

    def __post_init__(self) -> None:
        _at_least(1, size=self.size)
        _at_least(0, ipc=self.ipc)


@dataclass(frozen=True, kw_only=True)
class Patches:
    """Settings of RDED's patches.

    Attributes:
        pool: Smallest number of real images per class to choose from.
        factor: Patches per side; an image has factor² of them.
        crops: Random crops tried per real image.
        stitch: `ranked` gives every image patches of all qualities, `random` distributes them at random.
    """

    pool: int = 300
    factor: int = 1
    crops: int = 5
    stitch: Literal["ranked", "random"] = "ranked"

    def __post_init__(self) -> None:
        _at_least(1, pool=self.pool, factor=self.factor, crops=self.crops)


@dataclass(frozen=True, kw_only=True)
class Inversion:
    """Settings of the optimisation of images.

    Attributes:
        init: Initialisation: noise, a real image, or the best patches of real images.
        steps: Optimisation steps.
        lr: Peak learning rate of Adam with betas (0.5, 0.9); it follows a cosine to 0 over `steps`.
        weight_decay: L2 penalty in Adam (in CUDD's Table XII, not in its code).
        legacy_init_space: Use real images without normalisation, as the authors' release does (docs/methods.md).
        precision: Arithmetic of the networks, where the device supports it.
        compile: Run the networks through torch.compile. It takes a minute and pays for thousands of steps on a GPU.
        threads: CPU threads of a batch; the resulting bytes depend on it.
        crop: Settings of the augmentation.
        bn: Settings of the BatchNorm term.
        reg: Settings of the regulariser.
        adv: Settings of the adversarial term.
        batch: Settings of the batches.
        patch: Settings of the patches for `init` = `patch`.
    """

    init: Literal["noise", "real", "patch"] = "noise"
    steps: int = 1000
    lr: float = 0.25
    weight_decay: float = 0.0
    legacy_init_space: bool = False
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    compile: bool = False
    threads: int = 1
    crop: Crop = field(default_factory=Crop)
    bn: BatchNorm = field(default_factory=BatchNorm)
    reg: Regulariser = field(default_factory=Regulariser)
    adv: Adversary = field(default_factory=Adversary)
    batch: Batch = field(default_factory=Batch)
    patch: Patches = field(default_factory=Patches)

    def __post_init__(self) -> None:
        _at_least(1, steps=self.steps, threads=self.threads)
        _at_least(0, weight_decay=self.weight_decay)
        if self.lr <= 0:
            raise ValueError(f"lr is {self.lr}; it must be above 0")
        if self.compile and self.reg.weight and self.reg.space == "feature":
            raise ValueError(
                "compile cannot be combined with reg.space=feature, which reads the network's features; drop one"
            )

    @property
    def needs_real(self) -> bool:
        """Whether real images are read."""
        return self.init != "noise" or self.reg.weight > 0
