"""The manifest of a set as dataclasses; their field types define what a valid `ddkit.json` is (docs/format.md)."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from ddkit.core.serialization import Extensible, canonical, later, to_plain
from ddkit.errors import SetError
from ddkit.format.entries import FORMAT, NEWEST_FORMAT, ShardEntry, files_of
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
from ddkit.format.label_info import LabelInfo
from ddkit.format.measurements import Measurement
from ddkit.format.results import ResultEntry
from ddkit.specs import ClassName, DatasetSpec, EvalTransform, Protocol, ViewSpec


@dataclass(frozen=True, kw_only=True)
class License(Extensible):
    """The licence of a set: `id` as on the Hub; `name` and `link` if the id is "other"."""

    id: Line
    name: Line | None
    link: Link | None


@dataclass(frozen=True, kw_only=True)
class ClassInfo(ClassName, Extensible):
    """A class: its `name`, and its WordNet id as `id` if it has one."""

    name: Words
    id: Line | None = field()  # without the default of ClassName: a manifest must have it


@dataclass(frozen=True, kw_only=True)
class ImageInfo(Extensible):
    """The stored images: `size` x `size` pixels, stitched of `patches` patches (1: not stitched)."""

    size: Side
    mode: Literal["RGB"]
    codec: ImageCodec
    patches: Count


@dataclass(frozen=True, kw_only=True)
class ViewInfo(Extensible):
    """The stored views and the augmentation policy they were drawn from (see ViewSpec for the other fields).

    Attributes:
        count: Views per image.
        size: Side of a view in pixels.
        mix_groups: Mixing group of each class; None: no groups.
        protocol: Name of the protocol that the policy comes from.
        backend: Device type that labelled: "cpu", "cuda", ...
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
        """The augmentation policy. Raises ValueError if the values are not a valid policy."""
        return ViewSpec(**{f.name: getattr(self, f.name) for f in fields(ViewSpec)})


@dataclass(frozen=True, kw_only=True)
class Normalisation(Extensible):
    """The teacher's normalisation: mean and standard deviation per channel, for pixels in [0, 1]."""

    mean: tuple[Number, Number, Number]
    std: tuple[Number, Number, Number]


@dataclass(frozen=True, kw_only=True)
class EvalInfo(EvalTransform, Extensible):
    """Transform for evaluation: resize the shorter side to `resize` pixels, then take a centre crop of side `crop`."""

    resize: Side
    crop: Side


@dataclass(frozen=True, kw_only=True)
class RecipeInfo(Extensible):
    """How the images were made.

    Attributes:
        name: The recipe.
        config: All settings of the method, by dotted key.
        dataset: Dataset name by which protocols select overrides.
        classes: The selection of classes as the user gave it.
        paper: The method's paper.
    """

    name: Line | None
    config: dict[Words, Setting]
    dataset: Line | None
    classes: Words | None = None
    paper: Words


@dataclass(frozen=True, kw_only=True)
class Recommended(Extensible):
    """How to train from the set; `definition` holds the protocol itself if ddkit does not ship it."""

    protocol: ProtocolName
    definition: dict[Words, Setting] | None = None
    arch: Architecture
    overrides: dict[Words, Setting] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class LogInfo(Extensible):
    """Log of a run: `skipped`, the source images that did not decode; `plan`, the method's record of each prefix."""

    skipped: tuple[Words, ...]
    plan: dict[PrefixText, Log]


@dataclass(frozen=True, kw_only=True)
class Cost(Extensible):
    """What a run took, summed over all units and resumed runs.

    Attributes:
        teach, select, recover, relabel, student: Seconds per part.
        peak_memory_bytes: Largest memory use of one unit.
        ms_per_image: Milliseconds per image for select, recover and student together.
        device: Device class.
    """

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
    """The source dataset; `holdout` is the share kept for measuring, `fingerprint` a hash over the content."""

    id: Words
    split: Words
    fingerprint: Sha256
    revision: Line | None = None
    holdout: Share | None = field()
    licence: Line | None = None


@dataclass(frozen=True, kw_only=True)
class TeacherInfo(Extensible):
    """A labelling teacher; `hash` is of its weights, `accuracy` in percent, `where` the teacher as the user gave it."""

    arch: Line
    hash: Sha256
    weight: Number = 1.0
    mode: Line = "eval"
    accuracy: Number | None
    measured_on: Line | None = None
    where: Words


@dataclass(frozen=True, kw_only=True)
class RelabelledFrom(Extensible):
    """The set whose images were relabelled."""

    name: Line
    content: Sha256
    repo: Line | None = None


@dataclass(frozen=True, kw_only=True)
class SubsetOf(Extensible):
    """The published set that this set is a part of."""

    repo: Repository
    revision: Line
    content: Sha256
    ipc: Count | None = None


@dataclass(frozen=True)
class Location:
    """Location of an opened set: its directory, and the Hub id if it was opened by one."""

    root: Path = Path()
    hub_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class Manifest(Extensible):
    """The content of `ddkit.json`, and the location of the set. Other fields are explained in docs/format.md.

    Attributes:
        created_by: Versions of ddkit, Python and libraries.
        classes: The classes, in label order.
        ipc: Images per class.
        image_tars: Whether every shard has an `images/` tar.
        fingerprint: Hash of everything that determines the published bytes, except the list of prefixes.
        prefixes: IPC of each prefix, ascending.
        shard_rows: Maximum number of rows in a shard.
        real_pixels: What remains of real images: whole, crops, initial (optimised from a real image), none or unknown.
        shards: The shards in row order.
        location: Where the set was opened; not written to the file.
    """

    name: Name
    created_by: dict[Line, Line]
    install: Install
    repo: Repository | None
    license: License | None
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
    relabelled_from: RelabelledFrom | None
    subset_of: SubsetOf | None
    results: tuple[ResultEntry, ...]
    measurements: tuple[Measurement, ...] = later(())
    location: Location = field(default=Location(), init=False, compare=False)

    # -------------------------------------------------------------- location

    @property
    def root(self) -> Path:
        """The directory of the set."""
        return self.location.root

    @property
    def where(self) -> str:
        """The set as messages name it: the Hub id it was opened by, or its directory."""
        return self.location.hub_id or str(self.root)

    def at(self, root: Path, hub_id: str | None = None) -> Manifest:
        """Return a copy located in the directory `root`, opened by the Hub id `hub_id` (None: by its path)."""
        moved = replace(self)
        object.__setattr__(moved, "location", Location(root, hub_id))
        return moved

    def changed(self, **values: Any) -> Manifest:
        """Return a copy with other `values` of some fields and the same location."""
        return replace(self, **values).at(self.root, self.location.hub_id)

    # -------------------------------------------------------------- content

    @property
    def class_names(self) -> list[str]:
        """The class names, in label order."""
        return [c.name for c in self.classes]

    @property
    def teacher(self) -> TeacherInfo:
        """The teacher that labelled the set."""
        return self.teachers[0]

    def protocol(self, name: str | None = None) -> Protocol:
        """Return a protocol, by default the recommended one, which may be defined in the manifest itself.

        Args:
            name: A shipped protocol or a TOML file; None: the recommended one, which is never read from a file.

        Raises:
            OptionError: The protocol is unknown or not valid.
        """
        own = self.recommended
        if name in (None, own.protocol) and own.definition:
            return Protocol.from_table(own.definition, "ddkit.json recommended.definition")
        return Protocol.shipped(own.protocol) if name in (None, own.protocol) else Protocol.load(name)

    def shards_of(self, ipc: int | None = None) -> list[ShardEntry]:
        """Return the shards of the prefix `ipc`, or all if it is None. Raises SetError if there is no such prefix."""
        if ipc is not None and ipc not in self.prefixes:
            have = ", ".join(str(p) for p in self.prefixes)
            raise SetError(f"{self.where} has no prefix of {ipc} images per class; it has {have}")
        return [shard for shard in self.shards if ipc is None or shard.prefix <= ipc]

    def files(self, ipc: int | None = None, *, labels: bool = True, images: bool = True) -> dict[str, str]:
        """Return a mapping from path to sha256 of the files of the set or of a prefix.

        Args:
            ipc: The prefix; default: the whole set.
            labels, images: Which files to include, as in `entries.files_of`.
        """
        shared = {self.labels.file.path: self.labels.file.sha256} if labels and self.labels.file else {}
        return files_of(self.shards_of(ipc), labels=labels, images=images) | shared

    def rows(self, ipc: int | None = None) -> int:
        """Return the number of rows of the set, or of the prefix `ipc`."""
        return sum(shard.rows for shard in self.shards_of(ipc))

    def total_bytes(self, ipc: int | None = None) -> int:
        """Return the bytes of shards and shared labels of the set, or of the prefix `ipc`."""
        shared = self.labels.file.bytes if self.labels.file else 0
        return sum(shard.bytes for shard in self.shards_of(ipc)) + shared

    # -------------------------------------------------------------- serialisation

    @property
    def format(self) -> int:
        """Format version: 1, or 2 with a label codec that ddkit 0.6 does not know, which then asks to upgrade."""
        return FORMAT if self.labels.codec == "fp16" else NEWEST_FORMAT

    @functools.cached_property
    def content(self) -> str:
        """sha256 over the sorted lines `path sha256` of all files; equal runs give equal content."""
        lines = sorted(f"{path} {sha256}\n" for path, sha256 in self.files().items())
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Return the JSON value of `ddkit.json`, including `format`, `content` and `self`."""
        known = {key: value for key, value in to_plain(self).items() if key != "location"}
        data = known | {"format": self.format, "content": self.content}
        return data | {"self": self_hash(data)}

    def to_bytes(self) -> bytes:
        """Return the bytes of `ddkit.json`."""
        return (canonical(self.to_json()) + "\n").encode()


def self_hash(data: dict[str, Any]) -> str:
    """Return the sha256 of the canonical JSON of the manifest `data` without its key `self`."""
    return hashlib.sha256(canonical({k: v for k, v in data.items() if k != "self"}).encode()).hexdigest()
