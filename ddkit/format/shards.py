"""WebDataset shards: the deterministic writer and the verifying reader.

The published format, version 1 (a shard, once written, never changes)
----------------------------------------------------------------------
`data/train-ipcIII-NNNNN.tar` holds rows of one prefix only (III: the prefix's IPC, three digits or more). Three members
a sample, always the same three, in this order:

    {key}.cls                 class index, ASCII decimal
    {key}.png                 the image, uint8 RGB, lossless
    {key}.views.safetensors   its views (integers) and their soft labels

key = row number in eight digits; row r is the r-th sample of the shards in manifest order. Tar: ustar, mtime 0, uid and
gid 0, no user names, mode 0644, so the same run gives the same bytes.

Row records, `data/train-ipcIII-NNNNN.rows`, one tab-separated line a row:

    key  cls  offset  bytes  sha256 of the image  offset  bytes  sha256 of the views

with the offsets of the members' data in the tar. They say which member is wrong and let a reader map the tar.

views.safetensors: V views, C classes, little-endian; one `__metadata__` key `ddkit` holding canonical JSON {format,
codec, first, size, mean, std, stage, rank, origin}; tensors box [V,4] and flip uint8 [V], optional partner uint16 [V],
mix_box [V,4], mix_lam float32 [V], patches uint8 [V,N] (see views.py) and the codec's label tensors (see codecs.py).

Where labels outweigh images (see `labels_outweigh`), `images/train-ipcIII-NNNNN.tar` holds the first two members of the
same rows again, so that who wants the images alone need not fetch the labels.

`shard_rows` depends on the image size alone; n rows make ceil(n / shard_rows) shards whose sizes differ by at most one,
larger first. Nothing here extracts a tar: members are read as slices of a file whose sha256 was checked first.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save as _save

from ddkit.core.files import atomic_file, write_bytes
from ddkit.core.serialization import canonical, strict_json
from ddkit.errors import IntegrityError
from ddkit.format.codecs import Codec
from ddkit.format.tars import data_offsets, layout_problem
from ddkit.format.views import Views

FORMAT = 1
VIEWS_MEMBER = "views.safetensors"


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


def labels_outweigh(label_bytes: int, image_bytes: int) -> bool:
    """Whether a set with these bytes on its first prefix gets `images/` tars, for all its shards."""
    return label_bytes > 2 * image_bytes


def row_key(row: int) -> str:
    return f"{row:08d}"


# ------------------------------------------------------------------ the views member


def save_tensors(tensors: Mapping[str, np.ndarray], metadata: dict[str, str] | None = None) -> bytes:
    """Arrays as safetensors. (The library writes the buffer of a strided array as if it were contiguous.)"""
    return _save({name: np.ascontiguousarray(array) for name, array in tensors.items()}, metadata)


def pack_views(views: Views, labels: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> bytes:
    """The member `{key}.views.safetensors` of one row.

    views: of this row alone (n = 1); labels: the codec's tensors [V,...]; metadata: the keys above but `format`.
    """
    tensors = {name: np.ascontiguousarray(array[0]) for name, array in views.tensors().items()}
    tensors |= {name: np.ascontiguousarray(array) for name, array in labels.items()}
    return save_tensors(tensors, {"ddkit": canonical({"format": FORMAT, **metadata}, indent=None)})


def unpack_views(data: bytes, codec: Codec, where: str) -> tuple[Views, dict[str, np.ndarray], dict[str, Any]]:
    """The inverse of `pack_views`: (views with n = 1, label tensors, metadata). Raises IntegrityError.

    Types and values of the tensors are compared elsewhere (rows.py).
    """
    try:
        tensors, metadata = _unpacked(data)
        labels = {name: tensors.pop(name) for name in (*codec.TENSORS, *(["mean"] if "mean" in tensors else []))}
        views = Views(**{name: array[None] for name, array in tensors.items()})
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityError(f"{where}: the views cannot be read ({error}); fetch the set again") from error
    return views, labels, metadata


LARGEST_HEADER = 1_000_000  # bytes of the JSON before the tensors of one row
_DTYPES = {"U8": ("u1", 1), "U16": ("<u2", 2), "U32": ("<u4", 4), "I8": ("i1", 1), "I16": ("<i2", 2),
           "F16": ("<f2", 2), "F32": ("<f4", 4)}  # fmt: skip


def _unpacked(data: bytes) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(tensors, metadata) of safetensors bytes, read as strictly as they are written: tensors follow one another to
    the end, and the one metadata key holds canonical JSON. Raises ValueError, KeyError, TypeError."""
    header, start = _header(data)
    metadata = _metadata(header)
    buffer = bytearray(data)  # arrays of it may be written to, which torch asks for
    tensors: dict[str, np.ndarray] = {}
    at = 0
    for name, told in sorted(header.items(), key=lambda entry: entry[1]["data_offsets"]):
        (dtype, width), shape = _DTYPES[told["dtype"]], told["shape"]
        count = math.prod(shape)
        whole = all(type(n) is int for n in (*shape, *told["data_offsets"])) and len(shape) > 0 < count <= len(data)
        if not whole or told["data_offsets"] != [at, at + count * width]:
            raise ValueError(f"tensor {name[:40]!r} does not follow the one before")
        tensors[name] = np.frombuffer(buffer, dtype, count, start + at).reshape(shape)
        at += count * width
    if start + at != len(data):
        raise ValueError("something behind the last tensor")
    return tensors, metadata


def _header(data: bytes) -> tuple[dict[str, Any], int]:
    """(the JSON before the tensors, where they begin) of safetensors bytes."""
    length = int.from_bytes(data[:8], "little")
    if length > min(LARGEST_HEADER, len(data) - 8):
        raise ValueError(f"a header of {length} bytes")
    if data[8:9] != b"{":
        raise ValueError("a header that is no table")
    return strict_json(data[8 : 8 + length]), 8 + length


def _metadata(header: dict[str, Any]) -> dict[str, Any]:
    """Takes the metadata out of a header: one key, `ddkit`, with a canonical JSON table."""
    told = header.pop("__metadata__")
    if set(told) != {"ddkit"}:
        raise ValueError(f"metadata keys {sorted(told)!r:.80}")
    try:
        metadata = json.loads(told["ddkit"])
        if not isinstance(metadata, dict) or canonical(metadata, indent=None) != told["ddkit"]:
            raise ValueError("metadata that is no canonical JSON table")  # a key twice, NaN, blanks
    except RecursionError as error:
        raise ValueError("metadata that is nested too deeply") from error
    return metadata


def read_metadata(data: bytes) -> dict[str, Any]:
    """The JSON under `__metadata__.ddkit` of safetensors bytes. Raises ValueError, KeyError, TypeError."""
    return _metadata(_header(data)[0])


# ------------------------------------------------------------------ writing


@dataclass(frozen=True)
class Sample:
    """One row as it is published. views: the bytes of its views member."""

    row: int
    label: int
    image: bytes
    views: bytes


class _Hashing(io.RawIOBase):
    """A file that is hashed while it is written."""

    def __init__(self, file: io.BufferedIOBase) -> None:
        self._file, self.sha256, self.size = file, hashlib.sha256(), 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.sha256.update(data)
        self.size += len(data)
        return self._file.write(data)

    def tell(self) -> int:
        return self.size


def write_shard(
    root: Path, path: str, samples: Iterable[Sample], codec: str = "png", *, image_tar: bool = False
) -> dict[str, Any]:
    """Write a shard, its row records and, with `image_tar`, its images without labels below `root`, each atomically.

    Returns the manifest's entry less `prefix`.
    """
    lines = []
    with contextlib.ExitStack() as stack:
        tar, hashing = stack.enter_context(_hashed_tar(root / path))
        images = stack.enter_context(_hashed_tar(root / images_path(path))) if image_tar else None
        for sample in samples:
            if images:
                _add(images[0], f"{row_key(sample.row)}.cls", str(sample.label).encode())
                _add(images[0], f"{row_key(sample.row)}.{codec}", sample.image)
            key = row_key(sample.row)
            _add(tar, f"{key}.cls", str(sample.label).encode())
            at_image = _add(tar, f"{key}.{codec}", sample.image)
            at_views = _add(tar, f"{key}.{VIEWS_MEMBER}", sample.views)
            fields = [key, sample.label, at_image, len(sample.image), hashlib.sha256(sample.image).hexdigest()]
            fields += [at_views, len(sample.views), hashlib.sha256(sample.views).hexdigest()]
            lines.append("\t".join(str(field) for field in fields) + "\n")
    records = "".join(lines).encode()
    write_bytes(root / rows_path(path), records)
    beside = images and {"path": images_path(path), "bytes": images[1].size, "sha256": images[1].sha256.hexdigest()}
    return {
        "path": path,
        "rows": len(lines),
        "bytes": hashing.size,
        "sha256": hashing.sha256.hexdigest(),
        "rows_sha256": hashlib.sha256(records).hexdigest(),
        "images": beside,
    }


@contextlib.contextmanager
def _hashed_tar(path: Path) -> Iterator[tuple[tarfile.TarFile, _Hashing]]:
    """A tar that is written atomically, and hashed while it is."""
    with atomic_file(path) as temporary, open(temporary, "wb") as file:
        hashing = _Hashing(file)
        with tarfile.open(fileobj=hashing, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            yield tar, hashing


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> int:
    """Add a member; returns the offset of its data."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    info.mode = 0o644
    offset = tar.offset + 512
    tar.addfile(info, io.BytesIO(data))
    return offset


def rows_path(path: str) -> str:
    return path.removesuffix(".tar") + ".rows"


# ------------------------------------------------------------------ reading


@dataclass(frozen=True)
class RowRecord:
    """One line of a `.rows` file: where a row's members lie in the tar, and their hashes."""

    row: int
    label: int
    image: tuple[int, int, str]
    views: tuple[int, int, str]


_ROW = re.compile(rb"(\d{8})\t(0|[1-9]\d{0,8})" + rb"\t([1-9]\d{0,15})\t([1-9]\d{0,15})\t([0-9a-f]{64})" * 2)
LONGEST_ROW = 8 + 1 + 9 + 2 * (17 + 17 + 65) + 1  # bytes of a line


def parse_rows(data: bytes, where: str) -> list[RowRecord]:
    """The row records of a shard. Raises IntegrityError for lines that are not as specified."""
    records = []
    *lines, rest = data.split(b"\n")
    for number, line in enumerate([*lines, rest] if rest else lines, start=1):
        found = _ROW.fullmatch(line)
        if found is None or number > len(lines):
            raise IntegrityError(f"{where}: line {number} is no row record; fetch the set again")
        key, label, at_image, image_bytes, image_sha, at_views, views_bytes, views_sha = found.groups()
        image = (int(at_image), int(image_bytes), image_sha.decode())
        views = (int(at_views), int(views_bytes), views_sha.decode())
        records.append(RowRecord(int(key), int(label), image, views))
    return records


def members(records: list[RowRecord], codec: str, *, labels: bool = True) -> tuple[list[str], np.ndarray]:
    """Names and sizes (int64) of the members of a shard's tar in order; labels: False of its `images/` tar."""
    names, sizes = [], []
    for record in records:
        key = row_key(record.row)
        names += [f"{key}.cls", f"{key}.{codec}", f"{key}.{VIEWS_MEMBER}"][: 3 if labels else 2]
        sizes += [len(str(record.label)), record.image[1], record.views[1]][: 3 if labels else 2]
    return names, np.array(sizes, np.int64)


def records_problem(tar: Any, records: list[RowRecord], codec: str) -> str | None:
    """What differs between a mapped tar and its row records, but for the data of images and views; None where nothing.

    Headers, order, classes, offsets, sizes, padding and the end are compared.
    """
    names, sizes = members(records, codec)
    offsets = data_offsets(sizes)
    wrong = _misplaced(records, offsets)
    if wrong.any():
        return f"row {row_key(records[int(wrong.argmax())].row)} is not where its record says"
    return layout_problem(tar, names, sizes) or _classes_problem(tar, records, offsets[::3])


def records_follow(records: list[RowRecord], codec: str) -> bool:
    """Whether the places in row records are those of members that follow one another."""
    return not _misplaced(records, data_offsets(members(records, codec)[1])).any()


def _misplaced(records: list[RowRecord], offsets: np.ndarray) -> np.ndarray:
    told = np.array([(record.image[0], record.views[0]) for record in records], np.int64).reshape(-1, 2)
    return (told != offsets.reshape(-1, 3)[:, 1:]).any(axis=1)


def images_layout_problem(tar: Any, records: list[RowRecord], codec: str) -> str | None:
    """As `records_problem`, of the tar with images alone."""
    names, sizes = members(records, codec, labels=False)
    return layout_problem(tar, names, sizes) or _classes_problem(tar, records, data_offsets(sizes)[::2])


def _classes_problem(tar: Any, records: list[RowRecord], offsets: np.ndarray) -> str | None:
    for record, at in zip(records, offsets.tolist()):
        text = str(record.label).encode()
        if tar[at : at + len(text)] != text:
            return f"row {row_key(record.row)}, member cls, is not class {record.label}"
    return None


def image_places(records: list[RowRecord]) -> list[tuple[int, int, str]]:
    """Where the images of a shard lie in its `images/` tar: (offset, bytes, sha256) of each row."""
    places, at = [], 0
    for record in records:
        _, length, sha256 = record.image
        places.append((at + 1536, length, sha256))  # after the class (header and data) and the image's own header
        at += 1536 + -(-length // 512) * 512
    return places


def file_sha256(path: Path) -> str:
    """sha256, hex, of a file, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def member(tar: Any, place: tuple[int, int, str]) -> bytes:
    """The bytes of one member out of a mapped or read tar (anything that slices to bytes)."""
    offset, length, _ = place
    return bytes(tar[offset : offset + length])
