"""Deterministic writer of WebDataset shards (docs/format.md)."""

from __future__ import annotations

import contextlib
import hashlib
import io
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddkit.core.files import atomic_file, write_bytes
from ddkit.format.entries import (
    VIEWS_MEMBER,
    ByteRange,
    ImagesEntry,
    RowRecord,
    ShardEntry,
    images_path,
    row_key,
    rows_path,
)
from ddkit.format.row_records import write_rows
from ddkit.format.tars import BLOCK


def labels_outweigh(label_bytes: float, image_bytes: float) -> bool:
    """Return whether a set gets `images/` tars: whether labels take more than twice the bytes of the images.

    Args:
        label_bytes: Bytes of views and labels in the first increment.
        image_bytes: Bytes of images in the first increment.
    """
    return label_bytes > 2 * image_bytes


@dataclass(frozen=True)
class Sample:
    """One row in its published form.

    Attributes:
        row: Row number.
        label: Class index.
        image: Bytes of the encoded image.
        views: Bytes of the views member.
    """

    row: int
    label: int
    image: bytes
    views: bytes


class _Hashing(io.RawIOBase):
    """A file that hashes and counts the bytes written to it."""

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
    root: Path, path: str, prefix: int, samples: Iterable[Sample], codec: str = "png", *, image_tar: bool = False
) -> ShardEntry:
    """Write a shard, its row records and optionally its `images/` tar, each atomically.

    Args:
        root: Directory of the set.
        path: Path of the shard, relative to the set.
        prefix: Prefix whose increment the rows belong to.
        samples: The rows.
        codec: Image format.
        image_tar: Whether to write the `images/` tar.

    Returns:
        The shard's entry for the manifest.

    Raises:
        DiskError: A file cannot be written.
    """
    records: list[RowRecord] = []
    with contextlib.ExitStack() as stack:
        tar, hashing = stack.enter_context(_hashed_tar(root / path))
        images = stack.enter_context(_hashed_tar(root / images_path(path))) if image_tar else None
        for sample in samples:
            key, label = row_key(sample.row), str(sample.label).encode()
            if images:
                _add(images[0], f"{key}.cls", label)
                _add(images[0], f"{key}.{codec}", sample.image)
            _add(tar, f"{key}.cls", label)
            image = _add(tar, f"{key}.{codec}", sample.image)
            views = _add(tar, f"{key}.{VIEWS_MEMBER}", sample.views)
            records.append(RowRecord(sample.row, sample.label, image, views))
    rows = write_rows(records)
    write_bytes(root / rows_path(path), rows)
    beside = None
    if images:
        beside = ImagesEntry(path=images_path(path), bytes=images[1].size, sha256=images[1].sha256.hexdigest())
    return ShardEntry(
        path=path, prefix=prefix, rows=len(records), bytes=hashing.size, sha256=hashing.sha256.hexdigest(),
        rows_sha256=hashlib.sha256(rows).hexdigest(), images=beside,
    )  # fmt: skip


@contextlib.contextmanager
def _hashed_tar(path: Path) -> Iterator[tuple[tarfile.TarFile, _Hashing]]:
    """A tar that is written atomically and hashed while it is written."""
    with atomic_file(path) as temporary, open(temporary, "wb") as file:
        hashing = _Hashing(file)
        with tarfile.open(fileobj=hashing, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            yield tar, hashing


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> ByteRange:
    """Add a member and return the byte range of its data."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o644
    offset = tar.offset + BLOCK
    tar.addfile(info, io.BytesIO(data))
    return ByteRange(offset, len(data), hashlib.sha256(data).hexdigest())
