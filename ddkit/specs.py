"""What can be set: frozen dataclasses with a strict TOML/JSON round trip. No torch here; defaults live nowhere else."""

from __future__ import annotations

import dataclasses
import fnmatch
import hashlib
import json
import math
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from ddkit.errors import OptionError, unknown

PACKAGE = Path(__file__).parent
T = TypeVar("T")


# ------------------------------------------------------------------ JSON, TOML and dataclasses


def canonical(value: object, indent: int | None = 2) -> str:
    """Canonical JSON: sorted keys; two-space indent, or with `indent=None` no blanks at all."""
    separators = (",", ":") if indent is None else None
    return json.dumps(value, sort_keys=True, indent=indent, separators=separators, allow_nan=False)


def fingerprint(value: object) -> str:
    """sha256, hex, of the canonical JSON of `value`."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def to_plain(spec: Any) -> Any:
    """A dataclass (or container of them) as JSON values; tuples become lists."""
    if dataclasses.is_dataclass(spec) and not isinstance(spec, type):
        return {f.name: to_plain(getattr(spec, f.name)) for f in dataclasses.fields(spec)}
    if isinstance(spec, Mapping):
        return {key: to_plain(value) for key, value in spec.items()}
    if isinstance(spec, list | tuple):
        return [to_plain(value) for value in spec]
    return spec


def from_plain(cls: type[T], data: Mapping[str, Any], where: str) -> T:
    """Build dataclass `cls` from JSON or TOML values.

    Raises OptionError for an unknown key (listing the valid ones), a missing one, or a value of another type.
    """
    hints = typing.get_type_hints(cls)
    known = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in data:
        if key not in known:
            raise unknown(f"key in {where}:", key, known)
    missing = [
        name
        for name, f in known.items()
        if name not in data and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise OptionError(f"{where} lacks {', '.join(missing)}; add it")
    try:
        return cls(**{key: _coerce(value, hints[key], f"{where}: {key}") for key, value in data.items()})
    except ValueError as error:
        raise OptionError(f"{where}: {error}") from error


def _coerce(value: Any, hint: Any, where: str) -> Any:
    """`value` as the type `hint`; ints pass for floats, lists for tuples, text for the numbers it spells."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin is Literal:
        if value not in args:
            raise OptionError(f"{where} is {value!r}; valid: {', '.join(str(arg) for arg in args)}")
        return value
    if origin in (types.UnionType, typing.Union):
        for arg in args:
            try:
                return _coerce(value, arg, where)
            except OptionError:
                continue
    elif origin is tuple and isinstance(value, list | tuple):
        kinds = args[:1] * len(value) if args[1:] == (Ellipsis,) else args
        if len(kinds) == len(value):
            return tuple(_coerce(item, kind, where) for item, kind in zip(value, kinds))
    elif origin is dict and isinstance(value, Mapping):
        return {_coerce(k, args[0], where): _coerce(v, args[1], where) for k, v in value.items()}
    elif hint is type(None) and value is None:
        return None
    elif dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return from_plain(typing.cast(type, hint), value, where)
    elif hint is float and isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    elif isinstance(hint, type) and type(value) is hint:
        return value
    raise OptionError(f"{where} is {value!r}; it must be {getattr(hint, '__name__', str(hint))}")


def parse_settings(pairs: list[str]) -> dict[str, Any]:
    """`["factor=2", "stitch=random"]` as `{"factor": 2, "stitch": "random"}`: values read as TOML, else as text."""
    settings = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise OptionError(f"--set {pair!r} is not KEY=VALUE; write for example --set factor=2")
        try:
            settings[key.strip()] = tomllib.loads(f"v = {text}")["v"]
        except tomllib.TOMLDecodeError:
            settings[key.strip()] = text
    return settings


def load_toml(name: str, folder: str, kind: str) -> tuple[str, dict[str, Any]]:
    """The shipped `folder/NAME.toml`, or a TOML file by path. Returns (name, content).

    Raises OptionError when there is neither, or the file is not TOML.
    """
    shipped = {path.stem: path for path in sorted((PACKAGE / folder).glob("*.toml"))}
    path = shipped.get(name, Path(name))
    if name not in shipped and path.suffix != ".toml":
        raise unknown(kind, name, shipped)
    if not path.is_file():
        raise OptionError(f"{kind} file {name} does not exist; `ddkit list {folder}` shows the shipped ones")
    try:
        return path.stem, tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise OptionError(f"{kind} file {name} is not TOML: {error}") from error


# ------------------------------------------------------------------ views and training


@dataclass(frozen=True, kw_only=True)
class ViewSpec:
    """The law by which views are drawn (format.md; torchvision's RandomResizedCrop and the papers' CutMix box).

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

    def law(self) -> dict[str, Any]:
        """All but the count, as JSON values: what must agree before results can be compared.

        A key that the law does not use (the mixing alpha where nothing is mixed) is left out.
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

    def batch_for(self, images: int) -> int:
        """Images a step for a set of `images` images."""
        batch = self.batch
        if self.batch_from is not None and images >= self.batch_from[0]:
            batch = self.batch_from[1]
        return min(batch * self.batch_scale, images)

    def epochs_for(self, images: int) -> int:
        """Epochs for a set of `images` images."""
        steps = -(-images // self.batch_for(images))
        return max(self.epochs, -(-self.min_steps // steps))


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Views and student training, with overrides by dataset, IPC and architecture: what makes results comparable."""

    name: str
    about: str = ""
    views: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    dataset: dict[str, Any] = field(default_factory=dict)
    ipc: dict[str, Any] = field(default_factory=dict)
    arch: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, name: str) -> Protocol:
        """A shipped protocol by name, or one by its TOML file. Raises OptionError."""
        stem, data = load_toml(name, "protocols", "protocol")
        protocol = from_plain(cls, {"name": stem} | data, f"protocol {name}")
        for table, keys in (("dataset", {"views", "train"}), ("ipc", {"train"}), ("arch", {"train"})):
            for key, override in getattr(protocol, table).items():
                for part in override:
                    if part not in keys:
                        raise unknown(f'table in protocol {name} [{table}."{key}"]:', part, keys)
        protocol.view_spec(patches=4)  # a wrong key shows now, not after an hour
        protocol.train_spec(ipc=1, arch="")
        return protocol

    def view_spec(self, *, patches: int = 1, dataset: str | None = None, count: int | None = None) -> ViewSpec:
        """The views of this protocol for one dataset. patches: N of the stitched grid; "1/factor" means 1/sqrt(N)."""
        merged = dict(self.views) | self.dataset.get(dataset or "", {}).get("views", {})
        share = 1 / math.isqrt(patches)
        merged["scale"] = [share if s == "1/factor" else s for s in merged.get("scale", (0.08, 1.0))]
        if patches == 1:
            merged["patches"] = "none"
        if count is not None:
            merged["count"] = count
        return from_plain(ViewSpec, merged, f"protocol {self.name} [views]")

    def train_spec(self, *, ipc: int, arch: str, dataset: str | None = None, epochs: int | None = None) -> TrainSpec:
        """The training of this protocol: [train], then the overrides of the dataset, the IPC and the architecture."""
        merged = dict(self.train) | self.dataset.get(dataset or "", {}).get("train", {})
        merged |= self.ipc.get(str(ipc), {}).get("train", {})
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
    trains; dataset: the name protocols override by; sources, classes, size: what the recipe is chosen for.
    """

    name: str
    method: str
    protocol: str = "common"
    teacher: str | None = None
    dataset: str | None = None
    sources: tuple[str, ...] = ()
    classes: int | None = None
    size: int | None = None
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
    def choose(cls, method: str, source: str, classes: int, size: int) -> Recipe:
        """The shipped recipe for a method and a source: by its id, else by class count and size, else small or large.

        A method without any shipped recipe gets its own defaults and the protocol `common`.
        """
        mine = [recipe for recipe in cls.shipped() if recipe.method == method]
        for recipe in mine:
            if source.partition("@")[0] in recipe.sources:
                return recipe
        for recipe in mine:
            if (recipe.classes, recipe.size) == (classes, size):
                return recipe
        wanted = f"{method}-{'small' if size <= 64 else 'large'}"
        return next((recipe for recipe in mine if recipe.name == wanted), cls(name=method, method=method))


# ------------------------------------------------------------------ datasets, teachers, results


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
    def transform(self) -> EvalTransform:
        return self.eval or EvalTransform.for_size(self.image_size)

    def class_names(self) -> list[ClassName]:
        ids = self.class_ids or (None,) * len(self.classes)
        return [ClassName(name=name, id=id_) for name, id_ in zip(self.classes, ids)]


@dataclass(frozen=True, kw_only=True)
class Result:
    """One measured row of the manifest's `results`. Accuracies in percent; values has one list a set.

    of: what was trained on; labels: stored, hard, online or relabelled; difference: mean paired difference to the
    baseline with its 95 % interval (points), null where there is none.
    """

    of: str
    ipc: int
    arch: str
    protocol: str
    labels: str
    val: str
    seeds: tuple[int, ...]
    n_sets: int
    n_students: int
    values: tuple[tuple[float, ...], ...]
    mean: float
    std: float
    difference: dict[str, Any] | None
    total_bytes: int
    seconds: float
    command: str
    hardware: str

    def key(self) -> tuple[Any, ...]:
        """What a row is about; measuring the same again replaces it."""
        return (self.of, self.ipc, self.arch, self.protocol, self.labels, self.val, self.seeds)


EvalReport = tuple[Result, ...]
