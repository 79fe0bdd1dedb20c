"""Settings and metadata as frozen dataclasses, which hold all defaults. Does not import torch."""

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
    """The augmentation policy of views: RandomResizedCrop as in torchvision, flip, and CutMix as in the papers.

    Attributes:
        scale: Share of the image's area that a crop covers, (low, high).
        ratio: Width over height of a crop, (low, high).
        flip: Probability of a horizontal flip.
        mix: How a second image is mixed in.
        mix_alpha: The mixing weight is drawn from Beta(mix_alpha, mix_alpha).
        patches: `shuffle` permutes the columns, then the rows of a stitched grid (RDED).
        count: Views stored per image.
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
            raise ValueError(f"flip is {self.flip}; it must be a probability")
        if self.mix_alpha <= 0:
            raise ValueError(f"mix_alpha is {self.mix_alpha}; it must be above 0")
        if self.count < 1:
            raise ValueError(f"views is {self.count}; at least 1 is needed")

    def comparable(self) -> dict[str, Any]:
        """Return, as JSON values, what comparable results share: all but the count and a `mix_alpha` without effect."""
        unused = {"count"} | ({"mix_alpha"} if self.mix == "none" else set())
        return {key: value for key, value in to_plain(self).items() if key not in unused}


@dataclass(frozen=True, kw_only=True)
class TrainSpec:
    """How a network is trained.

    Attributes:
        loss: Kullback–Leibler divergence at `temperature`, the same times its square, or cross-entropy.
        temperature: Temperature of the softmax.
        optimiser: AdamW, or SGD with Nesterov momentum.
        lr: Peak learning rate.
        head_lr: Peak learning rate of the last linear layer; default: `lr`.
        weight_decay: Weight decay of parameters with more than one dimension.
        momentum: Momentum of SGD.
        schedule: cosine to 0 by step, half-cosine (RDED: lr/2*(1+cos(pi*e/(2E))) by epoch, ends at lr/2), onecycle
            (linear up over `warmup` of the steps, linear down to 0), or constant.
        warmup: Share of the steps in which the learning rate rises linearly.
        epochs: Smallest number of epochs.
        min_steps: Smallest number of steps; there are as many epochs as these need.
        batch: Images per step, at most the size of the set.
        batch_from: (n, b): batches of b from n images on.
        batch_scale: Factor on the batch.
        label_smoothing: Label smoothing of teachers.
        precision: Arithmetic of the forward pass.
        threads: CPU threads of trainings whose weights affect published bytes.
        augment: For real images only: none, shift (4 pixels), crop-flip (shift + flip), rrc-flip (RandomResizedCrop +
            flip).
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
        """Return the images per step for a set of `images` images."""
        batch = self.batch
        if self.batch_from is not None and images >= self.batch_from[0]:
            batch = self.batch_from[1]
        return min(batch * self.batch_scale, images)

    def epochs_for(self, images: int, *, drop_last: bool = False) -> int:
        """Return the epochs for a set of `images` images; `drop_last`: an epoch has complete batches only."""
        batch = self.batch_for(images)
        steps = images // batch if drop_last else -(-images // batch)
        return max(self.epochs, -(-self.min_steps // steps))


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """The views and the student training that make results comparable (docs/protocols.md).

    Overrides apply in the order dataset, IPC, both ([dataset."x".ipc."10".train]), architecture.

    Attributes:
        name: Name of the protocol, as in results.
        about: Description.
        views: Fields of ViewSpec.
        train: Fields of TrainSpec.
        dataset: Overrides by name of a dataset.
        ipc: Overrides by IPC.
        arch: Overrides by shell pattern of an architecture.
    """

    name: str
    about: str = ""
    views: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    dataset: dict[str, Any] = field(default_factory=dict)
    ipc: dict[str, Any] = field(default_factory=dict)
    arch: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, name: str | Protocol) -> Protocol:
        """Load the protocol of a shipped name or TOML file `name`; a Protocol is returned as is. Raises OptionError."""
        if isinstance(name, Protocol):
            return name
        stem, data = load_toml(name, "protocols", "protocol")
        if name != stem and cls.is_shipped(stem):
            raise OptionError(
                f"protocol file {name} has the name of a shipped protocol; rename it: results name protocols"
            )
        protocol = cls.from_table({"name": stem} | data, f"protocol {name}")
        if name != stem and cls.is_shipped(protocol.name):
            raise OptionError(f"protocol file {name} says that its name is {protocol.name}, a shipped one; rename it")
        return protocol

    @classmethod
    def shipped(cls, name: str) -> Protocol:
        """Load a shipped protocol; never opens a file for a `name` from a set. Raises OptionError."""
        if not cls.is_shipped(name):
            raise unknown("protocol", name, (path.stem for path in (PACKAGE / "protocols").glob("*.toml")))
        return cls.load(name)

    @classmethod
    def from_table(cls, tables: Mapping[str, Any], where: str) -> Protocol:
        """Build a protocol from `tables` and check all overrides; `where`: for messages. Raises OptionError."""
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
                protocol._train_from(override.get("train", {}), where)  # report a wrong key on loading
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
        """Return whether `name` is the name of a shipped protocol."""
        return name in {path.stem for path in (PACKAGE / "protocols").glob("*.toml")}

    def definition(self) -> dict[str, Any] | None:
        """Return the tables of a protocol from a file, which the manifest stores; None for a shipped one."""
        return None if self.is_shipped(self.name) else to_plain(self)

    def view_spec(self, *, patches: int = 1, dataset: str | None = None, count: int | None = None) -> ViewSpec:
        """Return the policy for `dataset` with `count` views; in a grid of N `patches`, "1/factor" is 1/sqrt(N)."""
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
        """Return the training of this protocol, with the overrides of dataset, IPC and architecture.

        Args:
            ipc: Images per class that are trained on.
            arch: Architecture of the student.
            dataset: Name of the dataset.
            epochs: Replaces `epochs`, and sets `min_steps` to 0.
        """
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
    """Return the name of `protocol` in results, with an override of `epochs` (`cudd+epochs=600`)."""
    return protocol if epochs is None else f"{protocol}+epochs={epochs}"


# ------------------------------------------------------------------ recipes


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All hyperparameters of making the images; contains no IPC and no view settings.

    Attributes:
        name: Name of the recipe.
        method: A distiller.
        protocol: The protocol used by default.
        teacher: The network that `--teacher train` trains.
        dataset: The name by which protocols override.
        sources: Ids of the datasets that the recipe is for.
        config: Settings of the distiller.
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
        """Load a recipe by the `name` of a shipped one or the path of a TOML file. Raises OptionError."""
        stem, data = load_toml(name, "recipes", "recipe")
        return from_plain(cls, {"name": stem} | data, f"recipe {name}")

    @classmethod
    def shipped(cls) -> list[Recipe]:
        """Return all shipped recipes, sorted by name."""
        return [cls.load(path.stem) for path in sorted((PACKAGE / "recipes").glob("*.toml"))]

    @classmethod
    def choose(cls, method: str, source: str, size: int) -> Recipe:
        """Choose the recipe for a method and a source: by the source's id, else by the size of its images.

        A recipe for particular datasets is used for no others. A method without a shipped recipe gets its own defaults
        and the protocol `common`.

        Args:
            method: Name of a distiller.
            source: The source, as the user gave it.
            size: Side of the images, in pixels.
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
    """A class: its `name`, and its WordNet `id` if it has one."""

    name: str
    id: str | None = None


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """Metadata of a source.

    Attributes:
        id: The id, as the user gave it; of a dataset on the Hub, its repository.
        split: The split.
        fingerprint: sha256 over its content.
        revision: Commit of a dataset on the Hub.
        holdout: Share of the images that is held out.
        licence: Licence of a dataset on the Hub.
    """

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
        """Return the transform that resizes to `size` // 7 * 8, at least `size` (32 -> 32, 64 -> 72, 224 -> 256)."""
        return cls(resize=max(size, size // 7 * 8), crop=size)


@dataclass(frozen=True, kw_only=True)
class TeacherSpec:
    """Metadata of a checkpoint.

    Attributes:
        arch: Architecture.
        num_classes: Number of classes.
        image_size: Side of its input, in pixels.
        mean: Mean per channel that it normalises with, for pixels in [0, 1].
        std: Standard deviation, likewise.
        classes: Names of the classes, in label order.
        class_ids: Their WordNet ids.
        accuracy: Accuracy on `measured_on`, in percent.
        measured_on: Name and size of the evaluation data.
        eval: Evaluation transform; default: by `image_size`.
        hash: sha256 of the weights.
    """

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
        """Number of images that the accuracy was measured on, None if unknown."""
        found = re.search(r"\((\d{1,9}) images\)", self.measured_on or "")
        return int(found[1]) if found else None

    @property
    def transform(self) -> EvalTransform:
        """Evaluation transform."""
        return self.eval or EvalTransform.for_size(self.image_size)

    def class_names(self) -> list[ClassName]:
        """Return the classes with their ids, in label order."""
        ids = self.class_ids or (None,) * len(self.classes)
        return [ClassName(name=name, id=id_) for name, id_ in zip(self.classes, ids)]
