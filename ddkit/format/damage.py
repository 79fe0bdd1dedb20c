"""Compares the files of a shard with the manifest by size, headers and hash, and finds the damaged row and member."""

from __future__ import annotations

import hashlib
import mmap
from pathlib import Path

from ddkit.core.files import file_sha256
from ddkit.errors import IntegrityError
from ddkit.format.entries import VIEWS_MEMBER, RowRecord, ShardEntry, row_key
from ddkit.format.manifest import Manifest
from ddkit.format.row_records import (
    LONGEST_ROW,
    Tar,
    image_ranges,
    images_layout_problem,
    member,
    parse_rows,
    records_follow,
    records_problem,
)

REMEDY = "fetch or create the set again"  # end of messages about damaged shards


def open_shard(manifest: Manifest, shard: ShardEntry) -> tuple[Tar, list[RowRecord]]:
    """Compare every byte of a shard and its row records with the manifest.

    Args:
        manifest: Manifest of the set.
        shard: The shard to open.

    Returns:
        The mapped tar and the row records.

    Raises:
        IntegrityError: A file is damaged; the message names the shard and, if possible, the row and the member.
    """
    if problem := shard_problem(manifest, shard):
        raise IntegrityError(f"{manifest.where}: {problem}; {REMEDY}")
    return mapped(manifest.root / shard.path), row_records(manifest, shard)


def mapped(path: Path) -> Tar:
    """Return the file at `path` as memory-mapped bytes."""
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def row_records(manifest: Manifest, shard: ShardEntry) -> list[RowRecord]:
    """Return the row records of a shard, whose hash has been checked.

    Args:
        manifest: Manifest of the set.
        shard: The shard.
    """
    path = shard.rows_path
    return parse_rows((manifest.root / path).read_bytes(), path)


def open_images(manifest: Manifest, shard: ShardEntry) -> list[tuple[RowRecord, bytes]]:
    """Return the row records and encoded images of a shard after comparing them with the manifest.

    The images are read from the tar without labels if there is one.

    Args:
        manifest: Manifest of the set.
        shard: The shard to read.

    Raises:
        IntegrityError: A file is damaged.
    """
    if shard.images is None:
        tar, records = open_shard(manifest, shard)
        return [(record, member(tar, record.image)) for record in records]
    if problem := images_problem(manifest, shard):
        raise IntegrityError(f"{manifest.where}: {problem}; {REMEDY}")
    return images_beside(manifest, shard)


def images_beside(manifest: Manifest, shard: ShardEntry) -> list[tuple[RowRecord, bytes]]:
    """Return the row records and images of a shard's tar without labels, whose hash has been checked.

    Args:
        manifest: Manifest of the set.
        shard: A shard with such a tar.

    Raises:
        IntegrityError: An image is not the one in the shard.
    """
    assert shard.images is not None
    records, tar = row_records(manifest, shard), mapped(manifest.root / shard.images.path)
    images = [(record, member(tar, place)) for record, place in zip(records, image_ranges(records))]
    for record, image in images:
        if hashlib.sha256(image).hexdigest() != record.image.sha256:
            what = f"{shard.images.path}: row {row_key(record.row)} is not the image of {shard.path}"
            raise IntegrityError(f"{manifest.where}: {what}; {REMEDY}")
    return images


# ------------------------------------------------------------------ bytes


def images_problem(manifest: Manifest, shard: ShardEntry) -> str | None:
    """Return the first damage to a shard's tar without labels, or None.

    Args:
        manifest: Manifest of the set.
        shard: The shard.
    """
    if shard.images is None:
        return None
    if problem := _records_problem(manifest, shard):
        return problem
    path, records = shard.images.path, row_records(manifest, shard)
    file = manifest.root / path
    if not file.is_file():
        return f"{path} is missing"
    if (size := file.stat().st_size) != shard.images.bytes:
        return f"{path} differs from the manifest: {size} bytes instead of {shard.images.bytes}"
    tar = mapped(file)
    layout = images_layout_problem(tar, records, manifest.image.codec)
    if layout is None and file_sha256(file) == shard.images.sha256:
        return None
    for record, place in zip(records, image_ranges(records)):
        if hashlib.sha256(member(tar, place)).hexdigest() != place.sha256:
            return f"{path} differs from the manifest: row {row_key(record.row)}, its image, is the first that is wrong"
    return f"{path} differs from the manifest: {layout or 'it is not the file that was hashed'}"


def _records_problem(manifest: Manifest, shard: ShardEntry) -> str | None:
    """The damage to the row records of a shard, or None."""
    path = shard.rows_path
    file = manifest.root / path
    if not file.is_file():
        return f"{path} is missing"
    if file.stat().st_size > shard.rows * LONGEST_ROW or file_sha256(file) != shard.rows_sha256:
        return f"{path} differs from the manifest"
    return None


def shard_problem(manifest: Manifest, shard: ShardEntry) -> str | None:
    """Return the first damage to a shard or its row records, or None.

    Args:
        manifest: Manifest of the set.
        shard: The shard.
    """
    problem = open_layout(manifest, shard)
    if isinstance(problem, str):
        return problem
    return None if file_sha256(manifest.root / shard.path) == shard.sha256 else damage(manifest, shard)


def open_layout(manifest: Manifest, shard: ShardEntry) -> tuple[Tar, list[RowRecord]] | str:
    """Check a shard except for the hash of its tar.

    Args:
        manifest: Manifest of the set.
        shard: The shard to open.

    Returns:
        The mapped tar and the row records; or, as a string, the first damage to row records, size or headers.
    """
    file = manifest.root / shard.path
    if not file.is_file():
        return f"{shard.path} is missing"
    size, problem = file.stat().st_size, _records_problem(manifest, shard)
    if problem is not None:
        whole = size == shard.bytes and file_sha256(file) == shard.sha256
        if "missing" in problem:
            return problem
        return f"{problem} (the shard is intact)" if whole else f"{shard.path} and {problem}"
    if size != shard.bytes:
        return damage(manifest, shard, f"{size} bytes instead of {shard.bytes}")
    tar, records = mapped(file), row_records(manifest, shard)
    layout = records_problem(tar, records, manifest.image.codec)
    return (tar, records) if layout is None else damage(manifest, shard, layout)


def damage(manifest: Manifest, shard: ShardEntry, what: str | None = None) -> str:
    """Describe how a tar differs from the manifest. The row records must be intact.

    Args:
        manifest: Manifest of the set.
        shard: The damaged shard.
        what: A difference that is already known, for when no row or member can be named.
    """
    tar, size = manifest.root / shard.path, (manifest.root / shard.path).stat().st_size
    alike = [other for other in manifest.shards if other.path != shard.path and size == other.bytes]
    found = file_sha256(tar) if alike else ""
    for other in alike:
        if found == other.sha256:
            return f"{shard.path} holds the bytes of {other.path} (swapped?)"
    return f"{shard.path} differs from the manifest: {_where(manifest, shard, size, what)}"


def _where(manifest: Manifest, shard: ShardEntry, size: int, what: str | None) -> str:
    """The first wrong row and member of a shard whose row records are intact."""
    note = f"{size} bytes instead of {shard.bytes}; " if size != shard.bytes else ""
    if size == 0:
        return f"{note}it is empty"
    records, tar = row_records(manifest, shard), mapped(manifest.root / shard.path)
    if gone := _missing_row(tar, records):
        return f"{note}row {gone} is missing"
    if not records_follow(records, manifest.image.codec):
        return f"{note}{what or 'its rows are not where their records say'}"
    for record in records:
        for name, place in (("image", record.image), (VIEWS_MEMBER, record.views)):
            if hashlib.sha256(member(tar, place)).hexdigest() != place.sha256:
                return f"{note}row {row_key(record.row)}, member {name}, is the first that is wrong"
        if _label(tar, record) != str(record.label).encode():
            return f"{note}row {row_key(record.row)}, member cls, is the first that is wrong"
    header = what if what and not note else "a header or the padding between them is not"
    return f"{note}all members are right, {header}"


def _missing_row(tar: Tar, records: list[RowRecord]) -> str | None:
    """The key of a row missing from a well-formed tar; None if none is missing or the tar is not well-formed."""
    keys: set[bytes] = set()
    at = 0
    while at + 512 <= len(tar) and tar[at] and len(keys) <= len(records):
        keys.add(bytes(tar[at : at + 8]))
        length = bytes(tar[at + 124 : at + 135])
        if not length.isdigit() or length.strip(b"01234567"):
            return None
        at += 512 + -(-int(length, 8) // 512) * 512
    wanted = [row_key(record.row) for record in records]
    missing = [key for key in wanted if key.encode() not in keys]
    complete_to_the_end = wanted and wanted[-1].encode() in keys
    return missing[0] if missing and (complete_to_the_end or len(missing) == 1) else None


def _label(data: Tar, record: RowRecord) -> bytes:
    """The data of the `.cls` member, which lies in the block before the image's header."""
    return bytes(data[max(record.image.offset - 1024, 0) : max(record.image.offset - 512, 0)]).rstrip(b"\0")
