"""Sources as tar shards (`ddkit export SOURCE OUT --as shards`), in standard WebDataset format.

Each row is an encoded image and a `.cls` file. With `source.json` and the `.rows` files beside them, ddkit opens the
shards without `datasets` or `webdataset`.
"""

from __future__ import annotations

import hashlib
import io
import mmap
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ddkit.core.files import atomic_file, read_limited, write_bytes
from ddkit.core.serialization import canonical, strict_json
from ddkit.errors import IntegrityError, SourceError
from ddkit.format.entries import ByteRange, row_key
from ddkit.format.images import encode_image
from ddkit.format.row_records import member

INDEX = "source.json"
SHARD_ROWS = 10_000
LARGEST_INDEX = 16 * 2**20  # bytes of `source.json`
LONGEST_LINE = 8 + 17 + 10 + 65  # bytes of a line of `.rows`
_SHARD = re.compile(r"data/\w[\w-]{0,99}-\d{5}\.tar")
_LINE = re.compile(rb"(\d{1,7})\t(\d{1,16})\t([1-9]\d{0,8})\t([0-9a-f]{64})")
_MAGIC = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpg", b"RIFF": "webp", b"GIF8": "gif", b"BM": "bmp"}


def is_packed(path: Path) -> bool:
    """Return whether the folder `path` contains an exported source."""
    return (path / INDEX).is_file()


def pack_split(root: Path, split: str, images: Iterable[tuple[bytes | np.ndarray, int]]) -> list[dict[str, Any]]:
    """Write one split as shards of up to SHARD_ROWS rows; returns their entries for `source.json`.

    Args:
        root: The folder.
        split: Name of the split.
        images: (encoded image or pixels, label); pixels are written as PNG.
    """
    entries: list[dict[str, Any]] = []
    rows = iter(images)
    while batch := _take(rows, SHARD_ROWS):
        path = f"data/{split}-{len(entries):05d}.tar"
        lines = []
        with atomic_file(root / path) as temporary, tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar:
            for i, (image, label) in enumerate(batch):
                data = encode_image(image, "png") if isinstance(image, np.ndarray) else image
                key = row_key(len(entries) * SHARD_ROWS + i)
                offset = _add(tar, f"{key}.{suffix_of(data)}", data)
                _add(tar, f"{key}.cls", str(label).encode())
                lines.append(f"{label}\t{offset}\t{len(data)}\t{hashlib.sha256(data).hexdigest()}\n")
        write_bytes(root / f"{path}.rows", "".join(lines).encode())
        entries.append({"path": path, "rows": len(batch)})
    return entries


def write_index(root: Path, classes: Sequence[dict[str, Any]], splits: dict[str, list[dict[str, Any]]]) -> None:
    """Write `classes.txt` and `source.json`; called last, since they mark the export as complete.

    Args:
        root: The folder.
        classes: Name and id of each class, in label order.
        splits: Entries of `pack_split` by split.
    """
    write_bytes(root / "classes.txt", "".join(f"{c['name']}\n" for c in classes).encode())
    write_bytes(root / INDEX, canonical({"format": 1, "classes": list(classes), "splits": splits}).encode())


def _take(rows: Iterator[Any], count: int) -> list[Any]:
    return [row for _, row in zip(range(count), rows)]


def suffix_of(data: bytes) -> str:
    """Return the file suffix for the encoded image `data`, from its first bytes; `img` if unknown."""
    return next((suffix for magic, suffix in _MAGIC.items() if data.startswith(magic)), "img")


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> int:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o644
    offset = tar.offset + 512
    tar.addfile(info, io.BytesIO(data))
    return offset


# ------------------------------------------------------------------ reading


@dataclass(frozen=True)
class Packed:
    """One split of an exported source.

    Attributes:
        names: Names of the classes.
        labels: int64 [n].
        places: Tar and byte range of each image.
        files: The files that were opened.
    """

    names: list[str]
    labels: np.ndarray
    places: list[tuple[mmap.mmap, ByteRange]]
    files: tuple[Path, ...]

    def raw(self, i: int) -> bytes:
        """Return the encoded image `i`. Raises IntegrityError if its sha256 differs."""
        tar, place = self.places[i]
        data = member(tar, place)
        if hashlib.sha256(data).hexdigest() != place.sha256:
            raise IntegrityError(
                f"row {i} of {self.files[0].parent} differs from what was exported; export the source again"
            )
        return data


def packed_splits(root: Path) -> dict[str, Any]:
    """Return the shard entries of the exported source in `root`, by split. Raises SourceError."""
    found: dict[str, Any] = _index(root)["splits"]
    return found


def _index(root: Path) -> dict[str, Any]:
    """Return the validated content of `source.json`. Raises SourceError."""
    path = root / INDEX
    try:
        if path.is_symlink():
            raise ValueError("it is a link")
        index = strict_json(read_limited(path, LARGEST_INDEX) or b"")
        names = [entry["name"] for entry in index["classes"]]
        splits = {str(split): list(entries) for split, entries in index["splits"].items()}
        if any(len({entry["path"] for entry in entries}) < len(entries) for entries in splits.values()):
            raise ValueError("it names a shard twice")
        for entries in splits.values():
            for entry in entries:
                rows = entry["rows"]
                if not _SHARD.fullmatch(entry["path"]) or type(rows) is not int or not 1 <= rows <= SHARD_ROWS:
                    raise ValueError(f"it names {str(entry)[:80]}")
        if not splits or not all(isinstance(name, str) for name in names):
            raise ValueError("it names no splits, or its classes are not text")
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise SourceError(f"{path} cannot be read ({error}); export the source again") from error
    return {"classes": names, "splits": splits}


def open_packed(root: Path, split: str) -> Packed:
    """Open one split of an exported source.

    Args:
        root: The folder.
        split: Name of the split.

    Raises:
        SourceError: A file is missing or incomplete.
    """
    index = _index(root)
    labels: list[int] = []
    places: list[tuple[mmap.mmap, ByteRange]] = []
    files = []
    for entry in index["splits"][split]:
        path, rows = root / entry["path"], root / f"{entry['path']}.rows"
        for file in (path.parent, path, rows):
            if file.is_symlink():
                raise SourceError(f"{file} is a link, which ddkit does not follow; export the source again")
        if not path.is_file() or not rows.is_file() or path.stat().st_size == 0:
            raise SourceError(f"{path} or its .rows is missing or empty; export the source again")
        try:
            with open(path, "rb") as opened:
                tar = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
            lines = (read_limited(rows, entry["rows"] * LONGEST_LINE) or b"").splitlines()
        except OSError as error:  # such as more shards than files that a process may open
            raise SourceError(f"{path} cannot be opened ({error.strerror or error})") from error
        if len(lines) != entry["rows"]:
            raise SourceError(f"{rows} has {len(lines)} lines, not {entry['rows']}; export the source again")
        for number, line in enumerate(lines, start=1):
            found = _LINE.fullmatch(line)
            place = None if found is None else ByteRange(int(found[2]), int(found[3]), found[4].decode())
            if (
                found is None
                or place is None
                or int(found[1]) >= len(index["classes"])
                or place.offset + place.length > len(tar)
            ):
                raise SourceError(f"{rows}: line {number} is not a row of its tar; export the source again")
            labels.append(int(found[1]))
            places.append((tar, place))
        files += [path, rows]
    return Packed(index["classes"], np.array(labels, np.int64), places, (*files, root / INDEX))
