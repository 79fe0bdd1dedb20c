"""Row records (`.rows`): the byte ranges and hashes of the members of each row in a tar."""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterable

import numpy as np

from ddkit.errors import IntegrityError
from ddkit.format.entries import VIEWS_MEMBER, ByteRange, RowRecord, row_key
from ddkit.format.tars import BLOCK, data_offsets, layout_problem

Tar = mmap.mmap | bytes
# Offsets and sizes of at most 11 digits: a shard has at most 32 GB, and sums over its rows stay below 2^63.
_ROW = re.compile(rb"(\d{8})\t(0|[1-9]\d{0,8})" + rb"\t([1-9]\d{0,10})\t([1-9]\d{0,10})\t([0-9a-f]{64})" * 2)
LONGEST_ROW = 8 + 1 + 9 + 2 * (12 + 12 + 65) + 1  # bytes of a line


def parse_rows(data: bytes, where: str) -> list[RowRecord]:
    """Parse a `.rows` file.

    Args:
        data: Bytes of the file.
        where: Name of the file in messages.

    Raises:
        IntegrityError: A line is not a valid row record.
    """
    records = []
    *lines, rest = data.split(b"\n")
    for number, line in enumerate([*lines, rest] if rest else lines, start=1):
        found = _ROW.fullmatch(line)
        if found is None or number > len(lines):
            raise IntegrityError(f"{where}: line {number} is not a row record; fetch the set again")
        key, label, at_image, image_bytes, image_sha, at_views, views_bytes, views_sha = found.groups()
        image = ByteRange(int(at_image), int(image_bytes), image_sha.decode())
        views = ByteRange(int(at_views), int(views_bytes), views_sha.decode())
        records.append(RowRecord(int(key), int(label), image, views))
    return records


def write_rows(records: Iterable[RowRecord]) -> bytes:
    """Return the bytes of a `.rows` file: one tab-separated line for each of the `records`."""
    lines = []
    for r in records:
        fields = (row_key(r.row), r.label, *(v for m in (r.image, r.views) for v in (m.offset, m.length, m.sha256)))
        lines.append("\t".join(str(field) for field in fields) + "\n")
    return "".join(lines).encode()


def members(records: list[RowRecord], codec: str, *, labels: bool = True) -> tuple[list[str], np.ndarray]:
    """Return names and sizes (int64) of the members of a shard's tar, in order.

    Args:
        records: Row records of the shard.
        codec: Image format.
        labels: False: the members of its `images/` tar.
    """
    names, sizes = [], []
    for record in records:
        key = row_key(record.row)
        names += [f"{key}.cls", f"{key}.{codec}", f"{key}.{VIEWS_MEMBER}"][: 3 if labels else 2]
        sizes += [len(str(record.label)), record.image.length, record.views.length][: 3 if labels else 2]
    return names, np.array(sizes, np.int64)


def records_problem(tar: Tar, records: list[RowRecord], codec: str) -> str | None:
    """Return the first difference between a tar and its row records, or None.

    Headers, order, classes, offsets, sizes, padding and the end are compared, but not the data of images and views.

    Args:
        tar: The mapped tar.
        records: Its row records.
        codec: Image format.
    """
    names, sizes = members(records, codec)
    offsets = data_offsets(sizes)
    wrong = _misplaced(records, offsets)
    if wrong.any():
        return f"row {row_key(records[int(wrong.argmax())].row)} is not where its row record says"
    return layout_problem(tar, names, sizes) or _classes_problem(tar, records, offsets[::3])


def records_follow(records: list[RowRecord], codec: str) -> bool:
    """Return whether the offsets in row records are those of members that follow one another in a tar.

    Args:
        records: Row records of a shard.
        codec: Image format.
    """
    return not _misplaced(records, data_offsets(members(records, codec)[1])).any()


def _misplaced(records: list[RowRecord], offsets: np.ndarray) -> np.ndarray:
    """Which records have other offsets than expected: bool [n]. offsets: of all members, int64 [3n]."""
    listed = np.array([(record.image.offset, record.views.offset) for record in records], np.int64).reshape(-1, 2)
    found: np.ndarray = (listed != offsets.reshape(-1, 3)[:, 1:]).any(axis=1)
    return found


def images_layout_problem(tar: Tar, records: list[RowRecord], codec: str) -> str | None:
    """Return the first difference between an `images/` tar and the row records, or None; compares as `records_problem`.

    Args:
        tar: The mapped tar.
        records: Row records of the shard.
        codec: Image format.
    """
    names, sizes = members(records, codec, labels=False)
    return layout_problem(tar, names, sizes) or _classes_problem(tar, records, data_offsets(sizes)[::2])


def _classes_problem(tar: Tar, records: list[RowRecord], offsets: np.ndarray) -> str | None:
    """The first `cls` member that differs from its record, or None. offsets: of these members, int64 [n]."""
    for record, at in zip(records, offsets.tolist()):
        text = str(record.label).encode()
        if tar[at : at + len(text)] != text:
            return f"row {row_key(record.row)}, member cls, is not class {record.label}"
    return None


def image_ranges(records: list[RowRecord]) -> list[ByteRange]:
    """Return the byte ranges of the images in the `images/` tar of the shard with these `records`."""
    ranges, at = [], 0
    for record in records:
        at += 3 * BLOCK  # header and data of the class, header of the image
        ranges.append(ByteRange(at, record.image.length, record.image.sha256))
        at += -(-record.image.length // BLOCK) * BLOCK
    return ranges


def member(tar: Tar, place: ByteRange) -> bytes:
    """Return the data of one member.

    Args:
        tar: A tar, mapped or in memory.
        place: Byte range of the member.
    """
    return bytes(tar[place.offset : place.offset + place.length])
