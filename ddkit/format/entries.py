"""Shards, their files, rows, and the byte ranges of a row's members."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from ddkit.core.serialization import Extensible, between
from ddkit.format.fields import Count, FileName, Sha256

FORMAT = 1  # of rows, and of manifests of sets that ddkit 0.6 reads
NEWEST_FORMAT = 2  # of manifests of sets with a label codec that ddkit 0.6 does not know
VIEWS_MEMBER = "views.safetensors"

FileBytes = Annotated[int, between(1, 10**15)]


@dataclass(frozen=True, kw_only=True)
class ImagesEntry(Extensible):
    """The `images/` tar of a shard: its images and classes without labels.

    Attributes:
        path: Path relative to the set.
        bytes: Size of the tar.
        sha256: Hash of the tar.
    """

    path: FileName
    bytes: FileBytes
    sha256: Sha256


@dataclass(frozen=True, kw_only=True)
class ShardEntry(Extensible):
    """A shard as listed in the manifest.

    Attributes:
        path: Path relative to the set.
        prefix: Prefix whose increment the rows belong to.
        rows: Number of rows.
        bytes: Size of the tar.
        sha256: Hash of the tar.
        rows_sha256: Hash of the row records.
        images: The tar of images without labels; None if the set has none.
    """

    path: FileName
    prefix: Count
    rows: Count
    bytes: FileBytes
    sha256: Sha256
    rows_sha256: Sha256
    images: ImagesEntry | None

    @property
    def rows_path(self) -> str:
        """Path of the row records, relative to the set."""
        return rows_path(self.path)


@dataclass(frozen=True, kw_only=True)
class LabelFile(Extensible):
    """The file that some codecs share among all rows of a set.

    Attributes:
        path: `labels.safetensors` (basis, scale and offset) or `teacher.safetensors`.
        bytes: Size of the file.
        sha256: Hash of the file.
    """

    path: Literal["labels.safetensors", "teacher.safetensors"]
    bytes: FileBytes
    sha256: Sha256


def files_of(shards: Iterable[ShardEntry], *, labels: bool = True, images: bool = True) -> dict[str, str]:
    """Return a mapping from path to sha256 of the files of some shards. Row records are always included.

    Args:
        shards: The shards.
        labels: Include every shard; False includes only shards without an `images/` tar.
        images: Include the `images/` tars.
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
    """The data of one member in a tar.

    Attributes:
        offset: Where the data begins, in bytes.
        length: Number of bytes.
        sha256: Hash of the data, in hex.
    """

    offset: int
    length: int
    sha256: str


@dataclass(frozen=True)
class RowRecord:
    """One line of a `.rows` file: where the members of a row lie in the tar.

    Attributes:
        row: Row number.
        label: Class index.
        image: Byte range of the image.
        views: Byte range of the views member.
    """

    row: int
    label: int
    image: ByteRange
    views: ByteRange


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The source of an image.

    Attributes:
        kind: "noise", "real", "patches" or "import".
        rows: Row numbers in the source split; for "import", file names.
        crops: For "patches": number of the crop that was taken of each row.
        rule: The rule that selected the real images (CUDD).
        other: Unknown keys, written by a newer version.
    """

    kind: str
    rows: tuple[Any, ...] = ()
    crops: tuple[int, ...] | None = None
    rule: str | None = None
    other: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Origin:
        """Return the origin in `value`, a JSON value that has been validated."""
        crops = value.get("crops")
        return cls(
            kind=value["kind"], rows=tuple(value["rows"]), crops=None if crops is None else tuple(crops),
            rule=value.get("rule"),
            other={key: item for key, item in value.items() if key not in ("kind", "rows", "crops", "rule")},
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """Return the JSON value for a row's metadata."""
        known: dict[str, Any] = {"kind": self.kind, "rows": list(self.rows)}
        known |= {} if self.crops is None else {"crops": list(self.crops)}
        known |= {} if self.rule is None else {"rule": self.rule}
        return self.other | known


@dataclass(frozen=True, kw_only=True)
class RowMetadata:
    """The metadata of a row, stored beside its tensors.

    Attributes:
        codec: Codec of the labels.
        first: Row number of the first row of the shard.
        size: Side of a view in pixels.
        mean: Mean per channel of the teacher's normalisation.
        std: Standard deviation per channel of the teacher's normalisation.
        stage: Position of the row's prefix in the manifest's list, from 1.
        rank: IPC rank within the class, from 0.
        origin: Source of the image.
        classes: Number of classes; None for codec `fp16`, whose tensors show it.
    """

    codec: str
    first: int
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    stage: int
    rank: int
    origin: Origin
    classes: int | None = None

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> RowMetadata:
        """Return the metadata in `value`, a JSON value that has been validated."""
        return cls(
            codec=value["codec"], first=value["first"], size=value["size"], mean=tuple(value["mean"]),
            std=tuple(value["std"]), stage=value["stage"], rank=value["rank"],
            origin=Origin.from_json(value["origin"]), classes=value.get("classes"),
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """Return the JSON value as stored in the views member."""
        classes = {} if self.classes is None else {"classes": self.classes}
        return classes | {
            "format": FORMAT, "codec": self.codec, "first": self.first, "size": self.size, "mean": list(self.mean),
            "std": list(self.std), "stage": self.stage, "rank": self.rank, "origin": self.origin.to_json(),
        }  # fmt: skip


def shard_rows(size: int) -> int:
    """Return the maximum number of rows in a shard of `size` x `size` images (1508 at 224 pixels, 8130 at 64)."""
    return min(max(256_000_000 // (3 * size * size + 19200), 256), 16384)


def shard_sizes(rows: int, most: int) -> list[int]:
    """Return the number of rows in each shard of an increment.

    There are as few shards as possible; their sizes differ by at most one, larger ones first.

    Args:
        rows: Rows of the increment.
        most: Maximum number of rows in a shard.
    """
    count = -(-rows // most)
    return [rows // count + (i < rows % count) for i in range(count)]


def shard_path(prefix: int, number: int) -> str:
    """Return the path of a shard, such as `data/train-ipc005-00000.tar`.

    Args:
        prefix: Prefix whose increment the shard belongs to.
        number: Number of the shard within the increment.
    """
    return f"data/train-ipc{prefix:03d}-{number:05d}.tar"


def images_path(path: str) -> str:
    """Return the `images/` tar of the shard `path`, such as `images/train-ipc005-00000.tar`."""
    return f"images/{path.removeprefix('data/')}"


def rows_path(path: str) -> str:
    """Return the row records of the shard `path`, such as `data/train-ipc005-00000.rows`."""
    return path.removesuffix(".tar") + ".rows"


def row_key(row: int) -> str:
    """Return the key of the row with number `row`: eight decimal digits."""
    return f"{row:08d}"
