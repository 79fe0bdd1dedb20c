"""The encoded images of a shard, kept as one unit: the bytes that are published, before they are labelled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from ddkit.core.serialization import fingerprint
from ddkit.core.worker_state import STATE
from ddkit.engine.units import UnitFile, UnitStore
from ddkit.format.entries import Origin, shard_path, shard_rows, shard_sizes


@dataclass(frozen=True, kw_only=True)
class ShardPlan:
    """One shard to make.

    prefix: whose increment its rows belong to; stage: position of the prefix in the list, from 1; number: of the shard
    within its prefix; first: row number of its first row; rows: how many it has; key: stands for all that decides its
    images, views and labels.
    """

    prefix: int
    stage: int
    number: int
    first: int
    rows: int
    key: str

    @property
    def name(self) -> str:
        """`005-00000`: prefix and number, as part of the names of its units."""
        return f"{self.prefix:03d}-{self.number:05d}"

    @property
    def path(self) -> str:
        """Where it lies in the set."""
        return shard_path(self.prefix, self.number)

    def unit(self, store: UnitStore, name: str) -> UnitFile:
        """One of its units."""
        return store.unit(name, fingerprint(asdict(self)))

    def encoded(self, store: UnitStore) -> UnitFile:
        """The unit with its encoded images."""
        return self.unit(store, f"images-{self.name}")


def prefix_key(key: str, prefixes: Sequence[int]) -> str:
    """What the units of an increment are sealed under. key: of the run; prefixes: up to this one."""
    return fingerprint([key, list(prefixes)])


def plan_shards(*, size: int, rows: int, first: int, prefixes: Sequence[int], key: str) -> list[ShardPlan]:
    """The shards of one increment: whole, of that prefix only.

    size: side of the images, pixels; rows: of the increment; first: number of its first row; prefixes: up to this one;
    key: of the run.
    """
    plans, mine = [], prefix_key(key, prefixes)
    for number, n in enumerate(shard_sizes(rows, shard_rows(size))):
        plans.append(ShardPlan(prefix=prefixes[-1], stage=len(prefixes), number=number, first=first, rows=n, key=mine))
        first += n
    return plans


@dataclass(frozen=True)
class EncodedRows:
    """The rows of one shard before labelling. images: bytes of each, as published; labels: int64 [n]; ranks: int64 [n],
    IPC rank within the class."""

    images: list[bytes]
    labels: np.ndarray
    ranks: np.ndarray
    origins: list[Origin]


def save_encoded(store: UnitStore, shard: ShardPlan, rows: EncodedRows) -> None:
    """Write the encoded images of a shard. Raises DiskError."""
    tensors: dict[str, np.ndarray] = {
        "data": np.frombuffer(b"".join(rows.images), np.uint8),
        "end": np.cumsum([len(image) for image in rows.images]).astype(np.int64),
        "label": rows.labels.astype(np.int64),
        "rank": rows.ranks.astype(np.int64),
    }
    shard.encoded(store).write(tensors, {"origins": [origin.to_json() for origin in rows.origins]})


def load_encoded(store: UnitStore, shard: ShardPlan) -> EncodedRows:
    """Read the encoded images of a shard. Raises IntegrityError where they are damaged."""
    return STATE.keep("encoded shard", (store, shard), lambda: _read(shard.encoded(store)), most=2)


def _read(unit: UnitFile) -> EncodedRows:
    tensors, metadata = unit.read()
    data, end = tensors["data"].tobytes(), tensors["end"]
    start = np.concatenate([[0], end[:-1]])
    images = [data[a:b] for a, b in zip(start, end)]
    origins = [Origin.from_json(origin) for origin in metadata["origins"]]
    return EncodedRows(images, tensors["label"], tensors["rank"], origins)
