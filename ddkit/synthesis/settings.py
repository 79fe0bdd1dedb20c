"""Settings of the inversion engine and of patches, with the papers' names; a recipe's [config] fills them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


def _at_least(low: float, **values: float) -> None:
    for name, value in values.items():
        if value < low:
            raise ValueError(f"{name} is {value}; it must be at least {low:g}")


@dataclass(frozen=True, kw_only=True)
class Crop:
    """The crop shared by the batch at each step: RandomResizedCrop of scale [low, 1], ratio 3/4 to 4/3; then a flip
    with probability `flip`; then a roll by up to `jitter` pixels (both: to either side).

    low falls from 1 to `min` along `curve` in the first `milestone` of the steps (CDA, `global-to-local`), rises
    (`reverse`), or is `min` throughout (`constant`). antialias: false is what torchvision 0.14 did.
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
            raise ValueError(
                f"min {self.min}, milestone {self.milestone} and flip {self.flip} are shares between 0 and 1"
            )
        _at_least(0, jitter=self.jitter)


@dataclass(frozen=True, kw_only=True)
class BatchNorm:
    """Matching of BatchNorm statistics; as in `objectives.batch_norm`. targets: the trained statistics of all images,
    those of each class (LPLD), or half of each (EDC)."""

    weight: float = 0.01
    first: float = 10.0
    norm: Literal["sum", "per-layer-mean"] = "sum"
    moment: Literal["variance", "std"] = "variance"
    targets: Literal["global", "class", "both"] = "global"

    def __post_init__(self) -> None:
        _at_least(0, weight=self.weight, first=self.first)


@dataclass(frozen=True, kw_only=True)
class Regulariser:
    """Staying near the real image, in pixels or in the teacher's features (CUDD)."""

    weight: float = 0.0
    space: Literal["pixel", "feature"] = "pixel"

    def __post_init__(self) -> None:
        _at_least(0, weight=self.weight)


@dataclass(frozen=True, kw_only=True)
class Adversary:
    """Making the last stage's student wrong; as in `objectives.adversarial` (CUDD)."""

    weight: float = 0.0
    mask: Literal["teacher", "none"] = "teacher"
    form: Literal["stable", "paper"] = "stable"

    def __post_init__(self) -> None:
        _at_least(0, weight=self.weight)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Which images are optimised together: up to `size`, of many classes or of one; ipc: images of a class in a batch,
    0 = as many as fit (the papers have 1)."""

    size: int = 100
    grouping: Literal["across-classes", "one-class"] = "across-classes"
    ipc: int = 0

    def __post_init__(self) -> None:
        _at_least(1, size=self.size)
        _at_least(0, ipc=self.ipc)


@dataclass(frozen=True, kw_only=True)
class Patches:
    """RDED's: pool: real images a class to choose from, at least; factor: patches a side (N = factor squared); crops:
    random crops tried of each image; stitch: ranked (every image gets one patch of each quality) or random."""

    pool: int = 300
    factor: int = 1
    crops: int = 5
    stitch: Literal["ranked", "random"] = "ranked"

    def __post_init__(self) -> None:
        _at_least(1, pool=self.pool, factor=self.factor, crops=self.crops)


@dataclass(frozen=True, kw_only=True)
class Inversion:
    """How a batch of images is optimised. init: where it starts: noise, a real image, or its best patch.

    lr: of Adam (0.5, 0.9), cosine to 0 over `steps`; weight_decay: L2 in Adam (Table XII names it, the code has none);
    legacy_init_space: start and anchor as the authors' release has them, un-normalised (docs/methods.md); precision:
    of the networks' arithmetic, where the device has it; compile: the networks with torch.compile, which takes a minute
    and pays for thousands of steps on a GPU; threads: CPU threads of a batch, part of what makes equal bytes.
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
            raise ValueError("compile does not go with reg.space=feature, which reads the network's inside; drop one")

    @property
    def needs_real(self) -> bool:
        """Whether any real image is read."""
        return self.init != "noise" or self.reg.weight > 0
