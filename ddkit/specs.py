"""What can be set, as frozen dataclasses. No torch here; defaults live nowhere else."""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ddkit.core.serialization import PACKAGE, from_plain, load_toml, to_plain
from ddkit.errors import OptionError, unknown

# ------------------------------------------------------------------ views and training


@dataclass(frozen=True, kw_only=True)
class ViewSpec:
    """The augmentation policy that views are drawn by: torchvision's RandomResizedCrop, a flip, and the papers' CutMix.

    scale: share of the image's area a crop covers, (low, high); ratio: width over height, (low, high);
    flip: probability; mix: none, cutmix or mixup with Beta(mix_alpha, mix_alpha);
    patches: `shuffle` permutes the columns, then the rows of a stitched grid (RDED); count: views stored per image.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    mix: Literal["none", "cutmix", "mixup"] = "cutmix"
    mix_alpha: float = 1.0
    patches: Literal["none", "shuffle"] = "none"
    count: int = 300

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale is {list(self.scale)}; it must be 0 < low <= high <= 1")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"ratio is {list(self.ratio)}; it must be 0 < low <= high")
        if not 0 <= self.flip <= 1:
            raise ValueError(f"flip is {self.flip}; it is a probability")
        if self.mix_alpha <= 0:
            raise ValueError(f"mix_alpha is {self.mix_alpha}; it must be above 0")
        if self.count < 1:
            raise ValueError(f"views is {self.count}; at least 1 is needed")

    def comparable(self) -> dict[str, Any]:
        """All but the count, as JSON values: what must agree before results can be compared.

        A key that the policy does not use (the mixing alpha where nothing is mixed) is left out.
        """
        unused = {"count"} | ({"mix_alpha"} if self.mix == "none" else set())
        return {key: value for key, value in to_plain(self).items() if key not in unused}


@dataclass(frozen=True, kw_only=True)
class TrainSpec:
    """How a network is trained. Epochs are at least `epochs` and as many as give `min_steps` steps.

    batch: images a step; `batch_from` = (n, b): b instead from n images on; batch_scale multiplies it; never above the
    images there are. lr is the peak. schedule: cosine to 0 by step, half-cosine (RDED: lr/2*(1+cos(pi*e/(2E))) by
    epoch, ends at lr/2), onecycle (linear up over `warmup` of the steps, linear down to 0), constant.
    precision: arithmetic of the forward pass. threads: CPU threads where the weights reach published bytes.
    augment (real images only): none, shift (4 pixels), crop-flip (shift + flip), rrc-flip (RandomResizedCrop + flip).
    """

    loss: Literal["kl", "kl-t2", "ce"] = "kl"
    temperature: float = 20.0
    optimiser: Literal["adamw", "sgd"] = "adamw"
    lr: float = 1e-3
    head_lr: float | None = None
    weight_decay: float = 0.01
    momentum: float = 0.9
    schedule: Literal["cosine", "half-cosine", "onecycle", "constant"] = "cosine"
    warmup: float = 0.0
    epochs: int = 300
    min_steps: int = 0
    batch: int = 64
    batch_from: tuple[int, int] | None = None
    batch_scale: int = 1
    label_smoothing: float = 0.0
    precision: Literal["float32", "bfloat16"] = "float32"
    threads: int = 2
    augment: Literal["none", "shift", "crop-flip", "rrc-flip"] = "none"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "batch_scale", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.temperature <= 0 or self.lr <= 0:
            raise ValueError(f"temperature {self.temperature} and lr {self.lr} must be above 0")
        if min(self.weight_decay, self.min_steps, self.momentum, self.label_smoothing) < 0 or not 0 <= self.warmup < 1:
            raise ValueError(
                f"weight_decay {self.weight_decay}, min_steps {self.min_steps}, momentum {self.momentum} and "
                f"label_smoothing {self.label_smoothing} must be at least 0, warmup {self.warmup} a share below 1"
            )
        if self.batch_from is not None and min(self.batch_from) < 1:
            raise ValueError(f"batch_from is {list(self.batch_from)}; both numbers must be at least 1")

    def batch_for(self, images: int) -> int:
        """Images a step for a set of `images` images."""
        batch = self.batch
        if self.batch_from is not None and images >= self.batch_from[0]:
            batch = self.batch_from[1]
        return min(batch * self.batch_scale, images)

    def epochs_for(self, images: int, *, drop_last: bool = False) -> int:
        """Epochs for a set of `images` images; drop_last: an epoch has whole batches only."""
        batch = self.batch_for(images)
        steps = images // batch if drop_last else -(-images // batch)
        return max(self.epochs, -(-self.min_steps // steps))


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Views and student training, with overrides by dataset, IPC, both ([dataset."x".ipc."10".train]) and
    architecture, in that order: what makes results comparable."""

    name: str
    about: str = ""
    views: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    dataset: dict[str, Any] = field(default_factory=dict)
    ipc: dict[str, Any] = field(default_factory=dict)
    arch: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, name: str | Protocol) -> Protocol:
        """A shipped protocol by name, or one by its TOML file; one at hand is itself. Raises OptionError."""
        if isinstance(name, Protocol):
            return name
        stem, data = load_toml(name, "protocols", "protocol")
        if name != stem and cls.is_shipped(stem):
            raise OptionError(f"protocol file {name} has the name of a shipped protocol; rename it, as results name it")
        protocol = cls.from_table({"name": stem} | data, f"protocol {name}")
        if name != stem and cls.is_shipped(protocol.name):
            raise OptionError(f"protocol file {name} says that its name is {protocol.name}, a shipped one; rename it")
        return protocol

    @classmethod
    def shipped(cls, name: str) -> Protocol:
        """A shipped protocol; no file is opened for a name that came with a set. Raises OptionError."""
        if not cls.is_shipped(name):
            raise unknown("protocol", name, (path.stem for path in (PACKAGE / "protocols").glob("*.toml")))
        return cls.load(name)

    @classmethod
    def from_table(cls, tables: Mapping[str, Any], where: str) -> Protocol:
        """A protocol from its tables, each override checked. where: for messages. Raises OptionError."""
        protocol = from_plain(cls, tables, where)
        name = protocol.name
        for table, keys in (("dataset", {"views", "train", "ipc"}), ("ipc", {"train"}), ("arch", {"train"})):
            for key, override in getattr(protocol, table).items():
                where = f'protocol {name} [{table}."{key}"]'
                if not isinstance(override, dict) or not all(isinstance(part, dict) for part in override.values()):
                    raise OptionError(f'{where} is {override!r}; it must be tables such as [{table}."{key}".train]')
                for part in override:
                    if part not in keys:
                        raise unknown(f"table in {where}:", part, keys)
                protocol._train_from(override.get("train", {}), where)  # a wrong key shows now, not after an hour
                for ipc, inner in override.get("ipc", {}).items():
                    for part in inner if isinstance(inner, dict) else ():
                        if part != "train":
                            raise unknown(f"table in {where} {ipc}:", part, ["train"])
                    protocol._train_from(
                        inner.get("train", {}) if isinstance(inner, dict) else {"": inner}, f"{where} {ipc}"
                    )
        for dataset in (None, *protocol.dataset):
            protocol.view_spec(patches=4, dataset=dataset)
        protocol.train_spec(ipc=1, arch="")
        return protocol

    @staticmethod
    def is_shipped(name: str) -> bool:
        return name in {path.stem for path in (PACKAGE / "protocols").glob("*.toml")}

    def definition(self) -> dict[str, Any] | None:
        """What a manifest must hold of a protocol that came from a file, so that the set stands alone."""
        return None if self.is_shipped(self.name) else to_plain(self)

    def view_spec(self, *, patches: int = 1, dataset: str | None = None, count: int | None = None) -> ViewSpec:
        """The views of this protocol for one dataset. patches: N of the stitched grid; "1/factor" means 1/sqrt(N)."""
        merged = dict(self.views) | self.dataset.get(dataset or "", {}).get("views", {})
        share = 1 / math.isqrt(patches)
        if isinstance(scale := merged.get("scale"), list):
            merged["scale"] = [share if s == "1/factor" else s for s in scale]
        if patches == 1:
            merged["patches"] = "none"
        if count is not None:
            merged["count"] = count
        return from_plain(ViewSpec, merged, f"protocol {self.name} [views]")

    def _train_from(self, override: dict[str, Any], where: str) -> TrainSpec:
        return from_plain(TrainSpec, dict(self.train) | override, where)

    def train_spec(self, *, ipc: int, arch: str, dataset: str | None = None, epochs: int | None = None) -> TrainSpec:
        """The training of this protocol: [train], then the overrides of the dataset, the IPC and the architecture."""
        merged = dict(self.train) | self.dataset.get(dataset or "", {}).get("train", {})
        merged |= self.ipc.get(str(ipc), {}).get("train", {})
        merged |= self.dataset.get(dataset or "", {}).get("ipc", {}).get(str(ipc), {}).get("train", {})
        for pattern, override in self.arch.items():
            if fnmatch.fnmatch(arch.split(":")[-1], pattern):
                merged |= override.get("train", {})
        if epochs is not None:
            merged |= {"epochs": epochs, "min_steps": 0}
        return from_plain(TrainSpec, merged, f"protocol {self.name} [train]")


def protocol_label(protocol: str, epochs: int | None) -> str:
    """The protocol's name in results: an --epochs override is part of it (`cudd+epochs=600`)."""
    return protocol if epochs is None else f"{protocol}+epochs={epochs}"


# ------------------------------------------------------------------ recipes


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Every hyperparameter of making the images; holds no IPC and no view settings.

    method: a distiller; config: its settings; protocol: the one it names; teacher: the network `--teacher train`
    trains; dataset: the name protocols override by; sources: ids of the datasets that it
    is for.
    """

    name: str
    method: str
    protocol: str = "common"
    teacher: str | None = None
    dataset: str | None = None
    sources: tuple[str, ...] = ()
    config: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, name: str) -> Recipe:
        """A shipped recipe by name, or one by its TOML file. Raises OptionError."""
        stem, data = load_toml(name, "recipes", "recipe")
        return from_plain(cls, {"name": stem} | data, f"recipe {name}")

    @classmethod
    def shipped(cls) -> list[Recipe]:
        """All shipped recipes, by name."""
        return [cls.load(path.stem) for path in sorted((PACKAGE / "recipes").glob("*.toml"))]

    @classmethod
    def choose(cls, method: str, source: str, size: int) -> Recipe:
        """The shipped recipe for a method and a source: by the source's id, else by its size.

        method: a distiller's name; source: as it was given; size: of the images, pixels. A paper's recipe for a dataset
        is taken for that dataset alone. A method without any shipped recipe gets its own defaults and the protocol
        `common`.
        """
        mine = [recipe for recipe in cls.shipped() if recipe.method == method]
        for recipe in mine:
            if source.partition("@")[0] in recipe.sources:
                return recipe
        wanted = f"{method}-{'small' if size <= 64 else 'large'}"
        return next((recipe for recipe in mine if recipe.name == wanted), cls(name=method, method=method))


# ------------------------------------------------------------------ datasets, teachers


@dataclass(frozen=True, kw_only=True)
class ClassName:
    """One class: its name as people write it, and its WordNet id where it has one."""

    name: str
    id: str | None = None


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """What a source is, for the record: the id as given, the split, and the sha256 over its content."""

    id: str
    split: str
    fingerprint: str
    revision: str | None = None
    holdout: float | None = None
    licence: str | None = None


@dataclass(frozen=True, kw_only=True)
class EvalTransform:
    """Evaluation transform: resize the shorter side to `resize`, then crop the centre `crop` x `crop` (pixels)."""

    resize: int
    crop: int

    @classmethod
    def for_size(cls, size: int) -> EvalTransform:
        """The size//7*8 rule (32 -> 32, 64 -> 72, 224 -> 256)."""
        return cls(resize=max(size, size // 7 * 8), crop=size)


@dataclass(frozen=True, kw_only=True)
class TeacherSpec:
    """What a checkpoint says of itself. mean and std are the network's own, per channel, for pixels in [0, 1]; accuracy
    is in percent, on `measured_on`."""

    arch: str
    num_classes: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]
    class_ids: tuple[str | None, ...] | None = None
    accuracy: float | None = None
    measured_on: str | None = None
    eval: EvalTransform | None = None
    hash: str = ""

    @property
    def measured_images(self) -> int | None:
        """On how many images the accuracy was measured, None where that is not known."""
        found = re.search(r"\((\d{1,9}) images\)", self.measured_on or "")
        return int(found[1]) if found else None

    @property
    def transform(self) -> EvalTransform:
        return self.eval or EvalTransform.for_size(self.image_size)

    def class_names(self) -> list[ClassName]:
        ids = self.class_ids or (None,) * len(self.classes)
        return [ClassName(name=name, id=id_) for name, id_ in zip(self.classes, ids)]
