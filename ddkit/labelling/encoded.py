"""Encoded images of a shard: what is published, kept as one unit."""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ddkit.core.serialization import fingerprint
from ddkit.engine.units import UnitFile, unit_path
from ddkit.format.shards import (
    shard_path,
)


@dataclass(frozen=True, kw_only=True)
class ShardPlan:
    """One shard to make: number within its prefix, row number of its first row, its rows; stage counts from 1. key:
    stands for all that decides its images, views and labels."""

    prefix: int
    stage: int
    number: int
    first: int
    rows: int
    key: str

    @property
    def name(self) -> str:
        return f"{self.prefix:03d}-{self.number:05d}"

    @property
    def path(self) -> str:
        return shard_path(self.prefix, self.number)

    def unit(self, work: str | Path, unit: str) -> UnitFile:
        """Where the result of one of its units lies."""
        return UnitFile(unit_path(work, unit), fingerprint(asdict(self)))


@dataclass(frozen=True)
class Rows:
    """The rows of one shard before labelling. images: encoded, as published; ranks: IPC rank within the class."""

    images: list[bytes]
    labels: np.ndarray
    ranks: np.ndarray
    origins: list[dict[str, Any]]


def images_unit(work: str | Path, shard: ShardPlan) -> UnitFile:
    """Where the encoded images of a shard lie."""
    return shard.unit(work, f"images-{shard.name}")


def save_rows(work: str | Path, shard: ShardPlan, rows: Rows) -> None:
    """Write the `images` unit of a shard."""
    tensors: dict[str, np.ndarray] = {
        "data": np.frombuffer(b"".join(rows.images), np.uint8),
        "end": np.cumsum([len(image) for image in rows.images]).astype(np.int64),
        "label": rows.labels.astype(np.int64),
        "rank": rows.ranks.astype(np.int64),
    }
    images_unit(work, shard).write(tensors, {"origins": rows.origins})


def load_rows(work: str, shard: ShardPlan) -> Rows:
    """Read the `images` unit of a shard. Raises IntegrityError where it is damaged."""
    return _load_rows(work, shard, _stamp(work, shard))


def _stamp(work: str, shard: ShardPlan) -> int:
    """Tells the caches below that a file was replaced: a process may run more than one distillation."""
    path = images_unit(work, shard).path
    return path.stat().st_mtime_ns if path.is_file() else 0


@functools.lru_cache(maxsize=2)
def _load_rows(work: str, shard: ShardPlan, stamp: int) -> Rows:
    tensors, metadata = images_unit(work, shard).read()
    data, end = tensors["data"].tobytes(), tensors["end"]
    start = np.concatenate([[0], end[:-1]])
    images = [data[a:b] for a, b in zip(start, end)]
    return Rows(images, tensors["label"], tensors["rank"], metadata["origins"])
