"""The encoded images of a shard before labelling, stored as one unit."""

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
    """A shard to be made.

    Attributes:
        prefix: Prefix whose increment the rows belong to.
        stage: Position of the prefix in the list of prefixes, from 1.
        number: Number of the shard within the increment.
        first: Row number of the first row.
        rows: Number of rows.
        key: Hash of everything that determines the images, views and labels.
    """

    prefix: int
    stage: int
    number: int
    first: int
    rows: int
    key: str

    @property
    def name(self) -> str:
        """Prefix and number, such as `005-00000`; part of the names of its units."""
        return f"{self.prefix:03d}-{self.number:05d}"

    @property
    def path(self) -> str:
        """Path of the shard, relative to the set."""
        return shard_path(self.prefix, self.number)

    def unit(self, store: UnitStore, name: str) -> UnitFile:
        """Return the file of one of the shard's units.

        Args:
            store: Units of the set.
            name: Name of the unit.
        """
        return store.unit(name, fingerprint(asdict(self)))

    def encoded(self, store: UnitStore) -> UnitFile:
        """Return the unit in `store` that holds the encoded images."""
        return self.unit(store, f"images-{self.name}")


def prefix_key(key: str, prefixes: Sequence[int]) -> str:
    """Return the key of the units of an increment.

    Args:
        key: Key of the run.
        prefixes: All prefixes up to that of the increment.
    """
    return fingerprint([key, list(prefixes)])


def plan_shards(*, size: int, rows: int, first: int, prefixes: Sequence[int], key: str) -> list[ShardPlan]:
    """Plan the shards of one increment.

    Args:
        size: Side of the stored images in pixels.
        rows: Number of rows of the increment.
        first: Row number of its first row.
        prefixes: All prefixes up to that of the increment.
        key: Key of the run.
    """
    plans, mine = [], prefix_key(key, prefixes)
    for number, n in enumerate(shard_sizes(rows, shard_rows(size))):
        plans.append(ShardPlan(prefix=prefixes[-1], stage=len(prefixes), number=number, first=first, rows=n, key=mine))
        first += n
    return plans


@dataclass(frozen=True)
class EncodedRows:
    """The rows of one shard before labelling.

    Attributes:
        images: Encoded images, as published.
        labels: Class indices, int64 [n].
        ranks: IPC ranks within the class, int64 [n].
        origins: Sources of the images.
    """

    images: list[bytes]
    labels: np.ndarray
    ranks: np.ndarray
    origins: list[Origin]


def save_encoded(store: UnitStore, shard: ShardPlan, rows: EncodedRows) -> None:
    """Write the encoded images of a shard.

    Args:
        store: Units of the set.
        shard: The shard.
        rows: Its rows.

    Raises:
        DiskError: The file cannot be written.
    """
    tensors: dict[str, np.ndarray] = {
        "data": np.frombuffer(b"".join(rows.images), np.uint8),
        "end": np.cumsum([len(image) for image in rows.images]).astype(np.int64),
        "label": rows.labels.astype(np.int64),
        "rank": rows.ranks.astype(np.int64),
    }
    shard.encoded(store).write(tensors, {"origins": [origin.to_json() for origin in rows.origins]})


def load_encoded(store: UnitStore, shard: ShardPlan) -> EncodedRows:
    """Read the encoded images of a shard. The last two shards are cached per process.

    Args:
        store: Units of the set.
        shard: The shard.

    Raises:
        IntegrityError: The file is missing or damaged.
    """
    return STATE.keep("encoded shard", (store, shard), lambda: _read(shard.encoded(store)), most=2)


def _read(unit: UnitFile) -> EncodedRows:
    tensors, metadata = unit.read()
    data, end = tensors["data"].tobytes(), tensors["end"]
    start = np.concatenate([[0], end[:-1]])
    images = [data[a:b] for a, b in zip(start, end)]
    origins = [Origin.from_json(origin) for origin in metadata["origins"]]
    return EncodedRows(images, tensors["label"], tensors["rank"], origins)
