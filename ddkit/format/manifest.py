"""The manifest of a set as objects: what these dataclasses accept is what a `ddkit.json` may say (docs/format.md)."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from ddkit.core.serialization import Extensible, canonical, to_plain
from ddkit.errors import SetError
from ddkit.format.entries import FORMAT, ShardEntry, files_of
from ddkit.format.fields import (
    NOT_EMPTY,
    Architecture,
    Count,
    Group,
    ImageCodec,
    Install,
    Line,
    Link,
    Log,
    Name,
    Number,
    PrefixText,
    ProtocolName,
    RealPixels,
    Repository,
    Seconds,
    Seed,
    Setting,
    Sha256,
    Share,
    Side,
    ViewCount,
    ViewSide,
    Words,
)
from ddkit.format.results import ResultEntry
from ddkit.specs import ClassName, DatasetSpec, EvalTransform, Protocol, ViewSpec


@dataclass(frozen=True, kw_only=True)
class License(Extensible):
    """Under which licence a set is published. id: as the Hub knows it; name, link: of the licence `other`."""

    id: Line
    name: Line | None
    link: Link | None


@dataclass(frozen=True, kw_only=True)
class ClassInfo(ClassName, Extensible):
    """One class. id: its WordNet id, where it has one."""

    name: Words
    id: Line | None = None


@dataclass(frozen=True, kw_only=True)
class ImageInfo(Extensible):
    """The stored images. size: their side, pixels; patches: N of the stitched grid they are made of, 1 = none."""

    size: Side
    mode: Literal["RGB"] = "RGB"
    codec: ImageCodec
    patches: Count


@dataclass(frozen=True, kw_only=True)
class ViewInfo(Extensible):
    """The stored views: the augmentation policy they were drawn by (ViewSpec), and how.

    count: of each image; size: output side, pixels; mix_groups: the mixing group of each class; protocol: whose policy
    it is; backend: the kind of device that labelled, cpu, cuda, ….
    """

    count: ViewCount
    size: ViewSide
    scale: tuple[Share, Share]
    ratio: tuple[Number, Number]
    flip: Share
    mix: Literal["none", "cutmix", "mixup"]
    mix_alpha: Number
    patches: Literal["none", "shuffle"]
    mix_groups: tuple[Group, ...] | None = None
    protocol: ProtocolName
    backend: Line

    @functools.cached_property
    def policy(self) -> ViewSpec:
        """The augmentation policy. Raises ValueError where it is none."""
        return ViewSpec(**{f.name: getattr(self, f.name) for f in fields(ViewSpec)})


@dataclass(frozen=True, kw_only=True)
class Normalisation(Extensible):
    """Mean and standard deviation per channel, for pixels in [0, 1]: the teacher's."""

    mean: tuple[Number, Number, Number]
    std: tuple[Number, Number, Number]


@dataclass(frozen=True, kw_only=True)
class EvalInfo(EvalTransform, Extensible):
    """How images are prepared for evaluation: shorter side to `resize`, centre `crop`, pixels."""

    resize: Side
    crop: Side


@dataclass(frozen=True, kw_only=True)
class Fidelity(Extensible):
    """Decoded labels against the teacher's own: mean KL divergence in nats at T = 1, 4, 20; share of equal top-1."""

    kl_t1: Number
    kl_t4: Number
    kl_t20: Number
    top1_agreement: Share


@dataclass(frozen=True, kw_only=True)
class LabelInfo(Extensible):
    """The soft labels. temperature: at which students of the recommended protocol learn them; group: rows that one
    forward pass of the teacher saw together in batch mode (always 1)."""

    codec: Name
    fidelity: Fidelity
    temperature: Number
    group: Count = 1


@dataclass(frozen=True, kw_only=True)
class RecipeInfo(Extensible):
    """How the images were made. name: of the recipe; config: every setting of the method, by dotted key; dataset: the
    name protocols override by; classes: as the subset was chosen."""

    name: Line | None
    config: dict[Words, Setting]
    dataset: Line | None
    classes: Words | None = None
    paper: Words


@dataclass(frozen=True, kw_only=True)
class Recommended(Extensible):
    """How to train from the set. definition: the protocol itself, where it is not one that ddkit ships."""

    protocol: ProtocolName
    definition: dict[Words, Setting] | None = None
    arch: Architecture
    overrides: dict[Words, Setting] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class LogInfo(Extensible):
    """skipped: source images that did not decode; plan: what the method recorded of each prefix."""

    skipped: tuple[Words, ...]
    plan: dict[PrefixText, Log]


@dataclass(frozen=True, kw_only=True)
class Cost(Extensible):
    """Seconds of each part, over all units and resumes; the most memory of a unit, bytes; milliseconds an image."""

    teach: Seconds
    select: Seconds
    recover: Seconds
    relabel: Seconds
    student: Seconds
    peak_memory_bytes: int = 0
    ms_per_image: Seconds = 0.0
    device: Line


@dataclass(frozen=True, kw_only=True)
class SourceInfo(DatasetSpec, Extensible):
    """What the set was made from. holdout: the share that was kept for measuring; fingerprint: over its content."""

    id: Words
    split: Words
    fingerprint: Sha256
    revision: Line | None = None
    holdout: Share | None = None
    licence: Line | None = None


@dataclass(frozen=True, kw_only=True)
class TeacherInfo(Extensible):
    """A teacher that labelled the set. hash: of its weights; accuracy: percent; where: what it was asked for as."""

    arch: Line
    hash: Sha256
    weight: Number = 1.0
    mode: Line = "eval"
    accuracy: Number | None
    measured_on: Line | None = None
    where: Words


@dataclass(frozen=True, kw_only=True)
class RelabelledFrom(Extensible):
    """The set whose images were labelled anew."""

    name: Line
    content: Sha256
    repo: Line | None = None


@dataclass(frozen=True, kw_only=True)
class SubsetOf(Extensible):
    """The published set that this is a part of."""

    repo: Repository
    revision: Line
    content: Sha256
    ipc: Count | None = None


@dataclass(frozen=True)
class Location:
    """Where a set was opened: its directory, and the Hub id where it was opened by that."""

    root: Path = Path()
    hub_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class Manifest(Extensible):
    """Everything that `ddkit.json` says, and where the set lies.

    real_pixels: what is left of real images: whole, crops, initial (what was optimised began as one), none or unknown.
    """

    name: Name
    created_by: dict[Line, Line]
    install: Install = "pip install ddkit"
    repo: Repository | None = None
    license: License | None = None
    classes: Annotated[tuple[ClassInfo, ...], NOT_EMPTY]
    ipc: Count
    image: ImageInfo
    image_tars: bool
    views: ViewInfo
    normalisation: Normalisation
    eval: EvalInfo
    labels: LabelInfo
    method: Name
    recipe: RecipeInfo
    seed: Seed
    fingerprint: Sha256
    prefixes: Annotated[tuple[Count, ...], NOT_EMPTY]
    shard_rows: Count
    recommended: Recommended
    real_pixels: RealPixels
    log: LogInfo
    cost: Cost
    devices: tuple[Line, ...]
    source: SourceInfo
    teachers: Annotated[tuple[TeacherInfo, ...], NOT_EMPTY]
    shards: Annotated[tuple[ShardEntry, ...], NOT_EMPTY]
    relabelled_from: RelabelledFrom | None = None
    subset_of: SubsetOf | None = None
    results: tuple[ResultEntry, ...] = ()
    location: Location = field(default=Location(), init=False, compare=False)

    # -------------------------------------------------------------- where it lies

    @property
    def root(self) -> Path:
        """The directory of the set."""
        return self.location.root

    @property
    def where(self) -> str:
        """What people call the set: the Hub id it was opened by, or the directory."""
        return self.location.hub_id or str(self.root)

    def at(self, root: Path, hub_id: str | None = None) -> Manifest:
        """The same manifest of a set that lies in `root`, opened by `hub_id` where it was."""
        moved = replace(self)
        object.__setattr__(moved, "location", Location(root, hub_id))
        return moved

    def changed(self, **values: Any) -> Manifest:
        """A copy with other values of some fields, at the same place."""
        return replace(self, **values).at(self.root, self.location.hub_id)

    # -------------------------------------------------------------- what it says

    @property
    def class_names(self) -> list[str]:
        """The names of the classes, in label order."""
        return [c.name for c in self.classes]

    @property
    def teacher(self) -> TeacherInfo:
        """The teacher whose labels the set holds."""
        return self.teachers[0]

    def protocol(self, name: str | None = None) -> Protocol:
        """A protocol, by default the recommended one, which the set may carry itself.

        name: of a shipped protocol, or its TOML file; None: the recommended one. What the set itself names is data or
        a shipped protocol, never a file. Raises OptionError.
        """
        own = self.recommended
        if name in (None, own.protocol) and own.definition:
            return Protocol.from_table(own.definition, "ddkit.json recommended.definition")
        return Protocol.shipped(own.protocol) if name in (None, own.protocol) else Protocol.load(name)

    def shards_of(self, ipc: int | None = None) -> list[ShardEntry]:
        """The shards of the prefixes up to `ipc` (default: all). Raises SetError where no prefix is that IPC."""
        if ipc is not None and ipc not in self.prefixes:
            have = ", ".join(str(p) for p in self.prefixes)
            raise SetError(f"{self.where} has no prefix of {ipc} images per class; it has {have}")
        return [shard for shard in self.shards if ipc is None or shard.prefix <= ipc]

    def files(self, ipc: int | None = None, *, labels: bool = True, images: bool = True) -> dict[str, str]:
        """Path -> sha256 of what the set consists of, or a prefix of it (`entries.files_of`)."""
        return files_of(self.shards_of(ipc), labels=labels, images=images)

    def rows(self, ipc: int | None = None) -> int:
        """Images in the set, or in a prefix of it."""
        return sum(shard.rows for shard in self.shards_of(ipc))

    def total_bytes(self, ipc: int | None = None) -> int:
        """Bytes of the shards, or of those of a prefix."""
        return sum(shard.bytes for shard in self.shards_of(ipc))

    # -------------------------------------------------------------- as a file

    @functools.cached_property
    def content(self) -> str:
        """sha256 over the sorted `path sha256` lines of shards and row records: same run, same content."""
        lines = sorted(f"{path} {sha256}\n" for path, sha256 in files_of(self.shards).items())
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """As it stands in `ddkit.json`, with `format`, `content` and `self`."""
        known = {key: value for key, value in to_plain(self).items() if key != "location"}
        data = known | {"format": FORMAT, "content": self.content}
        return data | {"self": self_hash(data)}

    def to_bytes(self) -> bytes:
        """The bytes of `ddkit.json`."""
        return (canonical(self.to_json()) + "\n").encode()


def self_hash(data: dict[str, Any]) -> str:
    """sha256 of the canonical JSON of a manifest without the key `self`."""
    return hashlib.sha256(canonical({k: v for k, v in data.items() if k != "self"}).encode()).hexdigest()
