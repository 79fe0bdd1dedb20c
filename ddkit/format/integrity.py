"""Checking a set against its manifest: every shard, every row, every member. Says which one is wrong."""

from __future__ import annotations

import hashlib
import mmap
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ddkit.errors import IntegrityError
from ddkit.format.codecs import find_codec
from ddkit.format.images import decode_image
from ddkit.format.manifest import Manifest, read_manifest
from ddkit.format.shards import (
    VIEWS_MEMBER,
    RowRecord,
    file_sha256,
    image_places,
    member,
    parse_rows,
    row_key,
    rows_path,
    unpack_views,
)
from ddkit.runtime import progress

Tar = mmap.mmap | bytes


def open_shard(manifest: Manifest, shard: dict[str, Any]) -> tuple[Tar, list[RowRecord]]:
    """The mapped tar and the row records of one shard, after comparing every byte of both with the manifest.

    Raises IntegrityError naming the shard and, where it can be told, the row and the member.
    """
    if problem := shard_problem(manifest, shard):
        raise IntegrityError(f"{manifest.where}: {problem}; fetch or make the set again")
    return _mapped(manifest, shard)


def _mapped(manifest: Manifest, shard: dict[str, Any]) -> tuple[Tar, list[RowRecord]]:
    """The mapped tar and the row records of a shard whose bytes were compared."""
    with open(manifest.root / shard["path"], "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), _records(manifest, shard)


def _records(manifest: Manifest, shard: dict[str, Any]) -> list[RowRecord]:
    path = rows_path(shard["path"])
    return parse_rows((manifest.root / path).read_bytes(), path)


def open_images(manifest: Manifest, shard: dict[str, Any]) -> list[tuple[RowRecord, bytes]]:
    """The records and encoded images of one shard, from its tar without labels where it has one, checked as above."""
    if not shard["images"]:
        tar, records = open_shard(manifest, shard)
        return [(record, member(tar, record.image)) for record in records]
    if problem := images_problem(manifest, shard):
        raise IntegrityError(f"{manifest.where}: {problem}; fetch or make the set again")
    return _beside(manifest, shard)


def _beside(manifest: Manifest, shard: dict[str, Any]) -> list[tuple[RowRecord, bytes]]:
    """The images of a shard's tar without labels, whose bytes were compared."""
    records, data = _records(manifest, shard), (manifest.root / shard["images"]["path"]).read_bytes()
    return [(record, member(data, place)) for record, place in zip(records, image_places(records))]


def images_problem(manifest: Manifest, shard: dict[str, Any]) -> str | None:
    """What is wrong with the bytes of a shard's images without labels, or None."""
    if not shard["images"]:
        return None
    path, rows = shard["images"]["path"], rows_path(shard["path"])
    for name, sha256 in ((rows, shard["rows_sha256"]), (path, shard["images"]["sha256"])):
        if not (manifest.root / name).is_file():
            return f"{name} is missing"
        if file_sha256(manifest.root / name) != sha256:
            break
    else:
        return None
    if name == rows:
        return f"{rows} differs from the manifest"
    records, data = _records(manifest, shard), (manifest.root / path).read_bytes()
    for record, place in zip(records, image_places(records)):
        if hashlib.sha256(member(data, place)).hexdigest() != place[2]:
            return f"{path} differs from the manifest: row {row_key(record.row)}, its image, is the first that is wrong"
    return f"{path} differs from the manifest: a class, a header or the padding between them is not right"


def shard_problem(manifest: Manifest, shard: dict[str, Any]) -> str | None:
    """What is wrong with a shard's bytes, or None."""
    tar, rows = manifest.root / shard["path"], manifest.root / rows_path(shard["path"])
    for path in (tar, rows):
        if not path.is_file():
            return f"{path.relative_to(manifest.root)} is missing"
    records_good = file_sha256(rows) == shard["rows_sha256"]
    found = file_sha256(tar)
    if found == shard["sha256"]:
        return None if records_good else f"{rows_path(shard['path'])} differs from the manifest (the shard is intact)"
    for other in manifest.data["shards"]:
        if found == other["sha256"]:
            return f"{shard['path']} holds the bytes of {other['path']} (swapped?)"
    if not records_good:
        return f"{shard['path']} and its row records differ from the manifest"
    return f"{shard['path']} differs from the manifest: {_where(tar, rows, shard)}"


def _where(tar: Path, rows: Path, shard: dict[str, Any]) -> str:
    """The first wrong row and member of a shard whose row records are good."""
    size = tar.stat().st_size
    note = f"{size} bytes instead of {shard['bytes']}; " if size != shard["bytes"] else ""
    if size == 0:
        return f"{note}it is empty"
    records = parse_rows(rows.read_bytes(), str(rows))
    if size % 512 == 0 and (gone := _missing_row(tar, records)):
        return f"{note}row {gone} is missing"
    with open(tar, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for record in records:
            for name, place in (("image", record.image), (VIEWS_MEMBER, record.views)):
                if hashlib.sha256(member(data, place)).hexdigest() != place[2]:
                    return f"{note}row {row_key(record.row)}, member {name}, is the first that is wrong"
            if _label(data, record) != str(record.label).encode():
                return f"{note}row {row_key(record.row)}, member cls, is the first that is wrong"
    return f"{note}all members are right, a header or the padding between them is not"


def _missing_row(tar: Path, records: list[RowRecord]) -> str | None:
    """The key of a row that a well-formed tar lacks; None where none does or the tar is not well-formed."""
    try:
        with tarfile.open(tar, "r:") as archive:
            keys = {name.partition(".")[0] for name in archive.getnames()}
    except (tarfile.TarError, EOFError, ValueError):
        return None
    wanted = [row_key(record.row) for record in records]
    missing = [key for key in wanted if key not in keys]
    complete_to_the_end = wanted and wanted[-1] in keys
    return missing[0] if missing and (complete_to_the_end or len(missing) == 1) else None


def _label(data: Tar, record: RowRecord) -> bytes:
    """The data of the `.cls` member, which lies in the block before the image's header."""
    return bytes(data[record.image[0] - 1024 : record.image[0] - 512]).rstrip(b"\0")


def verify(directory: str | Path, on_shard: Callable[[int], None] | None = None) -> list[str]:
    """Compare a set with its manifest: bytes, row records, counts, and that every row reads as the format says.

    Returns every problem, one line each, naming shard, row and member; an empty list means all is well.
    Raises SetError, FormatVersion, or IntegrityError where the manifest itself cannot be trusted.
    """
    return set_problems(read_manifest(directory), on_shard)


def set_problems(manifest: Manifest, on_shard: Callable[[int], None] | None = None) -> list[str]:
    """As `verify`, of a manifest at hand, which need not be written yet."""
    problems: list[str] = []
    expected = 0
    with progress("verifying", len(manifest.data["shards"]), "shards") as advance:
        for shard in manifest.data["shards"]:
            problem = shard_problem(manifest, shard)
            if problem is None:
                problem = images_problem(manifest, shard) or _contents_problem(manifest, shard, expected)
            if problem:
                problems.append(problem)
            expected += shard["rows"]
            (on_shard or advance)(1)
    wanted = len(manifest.classes) * manifest.ipc
    if expected != wanted:
        problems.append(f"the manifest counts {expected} rows, {wanted} are due for {manifest.ipc} images per class")
    return problems


def stale_files(manifest: Manifest) -> list[str]:
    """The rendered files (card, `_info.json`) that are missing or of another content than the manifest: no failure,
    the next `distill` or `card` makes them anew."""
    content, stale = manifest.data["content"], []
    for name in ("README.md", "_info.json"):
        path = manifest.root / name
        if not path.is_file() or content not in path.read_text(encoding="utf-8", errors="replace"):
            stale.append(name)
    return stale


def _contents_problem(manifest: Manifest, shard: dict[str, Any], first: int) -> str | None:
    """Whether a shard whose bytes were compared also holds what the format says."""
    codec = find_codec(manifest.data["labels"]["codec"], stored=True)
    side, count, classes = manifest.image_size, manifest.view_spec.count, len(manifest.classes)
    tar, records = _mapped(manifest, shard)
    try:
        if [record.row for record in records] != list(range(first, first + shard["rows"])):
            return f"{shard['path']}: its rows are not {first} to {first + shard['rows'] - 1}"
        for record in records:
            where = f"{shard['path']} row {row_key(record.row)}"
            pixels = decode_image(member(tar, record.image), manifest.image_codec, where)
            views, labels, _ = unpack_views(member(tar, record.views), codec, where)
            if pixels.shape != (3, side, side):
                return f"{where}: the image is {pixels.shape[2]}x{pixels.shape[1]}, not {side}x{side}"
            if views.count != count or codec.decode(labels).shape != (count, classes):
                return f"{where}: its labels are not {count} views of {classes} classes"
            if not 0 <= record.label < classes:
                return f"{where}: class {record.label} is not one of the {classes}"
        beside = _beside(manifest, shard) if shard["images"] else []
        if any(member(tar, record.image) != image for record, image in beside):
            return f"{shard['images']['path']}: its images are not those of {shard['path']}"
    except IntegrityError as error:
        return str(error)
    return None
