"""What a set is made of: shards and their files, rows, and where the bytes of a row lie."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Any

from ddkit.core.serialization import Extensible, between
from ddkit.format.fields import Count, FileName, Sha256

FORMAT = 1
VIEWS_MEMBER = "views.safetensors"

FileBytes = Annotated[int, between(1, 10**15)]


@dataclass(frozen=True, kw_only=True)
class ImagesEntry(Extensible):
    """The `images/` tar of a shard: its images and classes without labels. bytes: of the file."""

    path: FileName
    bytes: FileBytes
    sha256: Sha256


@dataclass(frozen=True, kw_only=True)
class ShardEntry(Extensible):
    """One shard in the manifest. prefix: whose increment its rows belong to; bytes: of the tar; rows_sha256: of its row
    records; images: its tar without labels, None where the set has none."""

    path: FileName
    prefix: Count
    rows: Count
    bytes: FileBytes
    sha256: Sha256
    rows_sha256: Sha256
    images: ImagesEntry | None

    @property
    def rows_path(self) -> str:
        """Where its row records are, relative to the set."""
        return rows_path(self.path)


def files_of(shards: Iterable[ShardEntry], *, labels: bool = True, images: bool = True) -> dict[str, str]:
    """Path -> sha256 of the files of some shards.

    labels: include the shards themselves; without, only those that have no `images/` tar. images: include those tars.
    """
    files = {}
    for shard in shards:
        if labels or shard.images is None:
            files[shard.path] = shard.sha256
        files[shard.rows_path] = shard.rows_sha256
        if images and shard.images is not None:
            files[shard.images.path] = shard.images.sha256
    return files


@dataclass(frozen=True)
class ByteRange:
    """Bytes of one member in a tar: where its data begins, how many bytes it has, and their sha256 in hex."""

    offset: int
    length: int
    sha256: str


@dataclass(frozen=True)
class RowRecord:
    """One line of a `.rows` file: where the members of a row lie in the tar."""

    row: int
    label: int
    image: ByteRange
    views: ByteRange


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where an image comes from.

    kind: noise, real, patches or import. rows: row numbers in the source split; of an import, file names. crops: of
    patches, which crop of each row. rule: what selected the real images (CUDD). other: keys of a newer version.
    """

    kind: str
    rows: tuple[Any, ...] = ()
    crops: tuple[int, ...] | None = None
    rule: str | None = None
    other: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Origin:
        """The origin in a row's metadata, which was checked."""
        crops = value.get("crops")
        return cls(
            kind=value["kind"], rows=tuple(value["rows"]), crops=None if crops is None else tuple(crops),
            rule=value.get("rule"),
            other={key: item for key, item in value.items() if key not in ("kind", "rows", "crops", "rule")},
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """As it stands in a row's metadata."""
        known: dict[str, Any] = {"kind": self.kind, "rows": list(self.rows)}
        known |= {} if self.crops is None else {"crops": list(self.crops)}
        known |= {} if self.rule is None else {"rule": self.rule}
        return self.other | known


@dataclass(frozen=True, kw_only=True)
class RowMetadata:
    """The metadata of a row, beside its tensors.

    codec: of its labels; first: row number of the first row of its shard; size: output side of a view, pixels; mean,
    std: of the teacher, per channel; stage: position of its prefix in the manifest's list, from 1; rank: IPC rank
    within the class.
    """

    codec: str
    first: int
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    stage: int
    rank: int
    origin: Origin

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> RowMetadata:
        """The metadata of a row, which was checked."""
        return cls(
            codec=value["codec"], first=value["first"], size=value["size"], mean=tuple(value["mean"]),
            std=tuple(value["std"]), stage=value["stage"], rank=value["rank"],
            origin=Origin.from_json(value["origin"]),
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """As it stands in the file."""
        return {
            "format": FORMAT, "codec": self.codec, "first": self.first, "size": self.size, "mean": list(self.mean),
            "std": list(self.std), "stage": self.stage, "rank": self.rank, "origin": self.origin.to_json(),
        }  # fmt: skip


def shard_rows(size: int) -> int:
    """The most rows a shard of `size` x `size` images holds (1508 at 224 pixels, 8130 at 64)."""
    return min(max(256_000_000 // (3 * size * size + 19200), 256), 16384)


def shard_sizes(rows: int, most: int) -> list[int]:
    """Rows of each shard of a prefix: as few shards as hold them, sizes differing by at most one, larger first."""
    count = -(-rows // most)
    return [rows // count + (i < rows % count) for i in range(count)]


def shard_path(prefix: int, number: int) -> str:
    """`data/train-ipc005-00000.tar`"""
    return f"data/train-ipc{prefix:03d}-{number:05d}.tar"


def images_path(path: str) -> str:
    """`images/train-ipc005-00000.tar`, the images and classes of a shard without its labels."""
    return f"images/{path.removeprefix('data/')}"


def rows_path(path: str) -> str:
    """`data/train-ipc005-00000.rows`, the row records of a shard."""
    return path.removesuffix(".tar") + ".rows"


def row_key(row: int) -> str:
    """The key of a row: its number in eight digits."""
    return f"{row:08d}"
