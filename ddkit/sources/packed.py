"""A plain source as tar shards (`ddkit export SOURCE OUT --as shards`): images as encoded, one `.cls` each, stock
WebDataset; beside them `source.json` and `.rows`, by which ddkit opens them with neither `datasets` nor `webdataset`.
"""

from __future__ import annotations

import hashlib
import io
import json
import mmap
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ddkit.errors import IntegrityError, SourceError
from ddkit.files import atomic_file, write_bytes
from ddkit.format.images import encode_image
from ddkit.format.shards import member, row_key
from ddkit.plain import canonical

INDEX = "source.json"
SHARD_ROWS = 10_000
_MAGIC = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpg", b"RIFF": "webp", b"GIF8": "gif", b"BM": "bmp"}


def is_packed(path: Path) -> bool:
    return (path / INDEX).is_file()


def pack_split(root: Path, split: str, images: Iterable[tuple[bytes | np.ndarray, int]]) -> list[dict[str, Any]]:
    """Write one split as shards of up to 10,000 rows; returns their entries for `source.json`. Pixels become PNG."""
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
    """Write `source.json` and `classes.txt`, last: they say that the shards are whole."""
    write_bytes(root / "classes.txt", "".join(f"{c['name']}\n" for c in classes).encode())
    write_bytes(root / INDEX, canonical({"format": 1, "classes": list(classes), "splits": splits}).encode())


def _take(rows: Iterator[Any], count: int) -> list[Any]:
    return [row for _, row in zip(range(count), rows)]


def suffix_of(data: bytes) -> str:
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
    """One split: raw(i) gives the encoded image i, compared with its hash; labels int64 [n]; class names."""

    names: list[str]
    labels: np.ndarray
    places: list[tuple[Any, tuple[int, int, str]]]
    files: tuple[Path, ...]

    def raw(self, i: int) -> bytes:
        tar, place = self.places[i]
        data = member(tar, place)
        if hashlib.sha256(data).hexdigest() != place[2]:
            raise IntegrityError(f"row {i} of {self.files[0].parent} is not what was exported; export the source again")
        return data


def packed_splits(root: Path) -> dict[str, Any]:
    """Entries by split. Raises SourceError."""
    try:
        return dict(json.loads((root / INDEX).read_text(encoding="utf-8"))["splits"])
    except (ValueError, KeyError, TypeError) as error:
        raise SourceError(f"{root / INDEX} cannot be read ({error}); export the source again") from error


def open_packed(root: Path, split: str) -> Packed:
    """One split of an exported source. Raises SourceError for what is not there or not whole."""
    index = json.loads((root / INDEX).read_text(encoding="utf-8"))
    labels: list[int] = []
    places: list[tuple[Any, tuple[int, int, str]]] = []
    files = []
    for entry in index["splits"][split]:
        path = root / entry["path"]
        rows = root / f"{entry['path']}.rows"
        if not path.is_file() or not rows.is_file():
            raise SourceError(f"{path} or its .rows is missing; export the source again")
        with open(path, "rb") as file:
            tar = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        for line in rows.read_text().splitlines():
            label, offset, length, sha256 = line.split("\t")
            labels.append(int(label))
            places.append((tar, (int(offset), int(length), sha256)))
        files.append(path)
    return Packed([c["name"] for c in index["classes"]], np.array(labels, np.int64), places, tuple(files))
