"""Packing units: write encoded images, views and labels as shards and row records of the set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ddkit.core.files import file_sha256
from ddkit.core.serialization import Extensible, Mismatch, read_dataclass, to_plain
from ddkit.engine.units import UnitFile
from ddkit.errors import IntegrityError
from ddkit.format.codecs import find_codec
from ddkit.format.entries import RowMetadata, ShardEntry, files_of
from ddkit.format.shards import Sample, labels_outweigh, write_shard
from ddkit.format.views_member import pack_views
from ddkit.labelling.encoded import ShardPlan, load_encoded
from ddkit.labelling.labels import LabelJob, Labelling, label_jobs, shard_views


@dataclass(frozen=True, kw_only=True)
class PackRecord(Extensible):
    """Information on a packed shard.

    Attributes:
        entry: The shard's entry for the manifest.
        fidelity: Sums of `codecs.fidelity_sums` over its rows.
        seconds: Time that labelling it took.
        kinds: Kinds of the origins of its images.
    """

    entry: ShardEntry
    fidelity: tuple[float, ...]
    seconds: float
    kinds: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PackJob:
    """Writes one shard with its row records into the set, then a record that it is complete.

    Attributes:
        how: Settings for labelling.
        shard: The shard.
        image_tar: Whether to write its `images/` tar.
        needs: Ids of jobs that must be done before.
    """

    how: Labelling
    shard: ShardPlan
    image_tar: bool = False
    needs: frozenset[str] = frozenset()

    @property
    def id(self) -> str:
        """Id of the job: `pack-PREFIX-SHARD`."""
        return f"pack-{self.shard.name}"

    @property
    def file(self) -> UnitFile:
        """The result: a PackRecord."""
        return self.shard.unit(self.how.store, self.id)

    @property
    def labels(self) -> list[LabelJob]:
        """The labelling jobs of its rows."""
        return label_jobs(self.how, [self.shard])

    def record(self) -> PackRecord | None:
        """Return the record of the packed shard, or None if there is none. The shard itself is not read."""
        found = self.file.read_json()
        try:
            return None if found is None else read_dataclass(PackRecord, found)
        except Mismatch:  # written by a version with another record format
            return None

    def verified_record(self) -> PackRecord | None:
        """Return the record if the shard's files have the recorded hashes, else None. All files are hashed."""
        record = self.record()
        if record is None:
            return None
        out, files = Path(self.how.out), files_of([record.entry])
        whole = all((out / path).is_file() and file_sha256(out / path) == sha for path, sha in files.items())
        return record if whole else None

    def save(self, record: PackRecord) -> None:
        """Write the record, which marks the shard as packed.

        Args:
            record: The record.

        Raises:
            DiskError: The file cannot be written.
        """
        self.file.write_json(to_plain(record))

    def run(self) -> PackRecord:
        """Pack the shard and return its record.

        Raises:
            IntegrityError: The result of a unit is damaged.
            DiskError: A file cannot be written.
        """
        sums, seconds, kinds = np.zeros(5), 0.0, set[str]()
        rows, codec = load_encoded(self.how.store, self.shard), find_codec(self.how.codec)
        views = shard_views(self.how, self.shard)

        def samples() -> Iterator[Sample]:
            nonlocal sums, seconds
            for unit in self.labels:
                tensors, metadata = unit.file.read()
                sums = sums + tensors["fidelity"]
                seconds += metadata["seconds"]
                for i in range(unit.start, unit.stop):
                    kinds.add(rows.origins[i].kind)
                    labels = {name: tensors[name][i - unit.start] for name in codec.TENSORS}
                    blob = pack_views(views.rows(slice(i, i + 1)), labels, self._metadata(i))
                    yield Sample(self.shard.first + i, int(rows.labels[i]), rows.images[i], blob)

        entry = write_shard(
            Path(self.how.out), self.shard.path, self.shard.prefix, samples(), self.how.image_codec,
            image_tar=self.image_tar,
        )  # fmt: skip
        record = PackRecord(entry=entry, fidelity=tuple(sums.tolist()), seconds=seconds, kinds=tuple(sorted(kinds)))
        self.save(record)
        return record

    def _metadata(self, i: int) -> RowMetadata:
        """The metadata of the row at position i of the shard."""
        rows, teacher = load_encoded(self.how.store, self.shard), self.how.open_teacher().spec
        return RowMetadata(
            codec=self.how.codec, first=self.shard.first, size=self.how.size, mean=tuple(teacher.mean),
            std=tuple(teacher.std), stage=self.shard.stage, rank=int(rows.ranks[i]), origin=rows.origins[i],
        )  # fmt: skip


def labels_outweigh_images(packs: Sequence[PackJob]) -> bool:
    """Return whether a set gets `images/` tars, which depends on the sizes of labels and images in its first increment.

    Label tensors take the same bytes in every row. The labelling units of the increment must be done.

    Args:
        packs: The packing jobs of the first increment.
    """
    first, how = packs[0], packs[0].how
    if (record := first.record()) is not None:  # decided when the first shard was packed
        return record.entry.images is not None
    views = shard_views(how, first.shard).rows(slice(0, 1)).tensors()
    labels = first.labels[0].file.tensors()
    a_row = sum(array.nbytes for array in views.values())
    a_row += sum(labels[name][0].nbytes for name in find_codec(how.codec).TENSORS)
    sizes = [int(job.shard.encoded(how.store).tensors()["end"][-1]) for job in packs]
    return labels_outweigh(a_row * sum(job.shard.rows for job in packs), sum(sizes))


class PackedShards:
    """Tracks which shards of a set are packed. The files of each shard are hashed once, when it is first queried.

    Args:
        how: Settings for labelling.
        image_tar: Whether the shards get `images/` tars; None: decided from the first increment.
    """

    def __init__(self, how: Labelling, image_tar: bool | None = None) -> None:
        self.how, self.image_tar = how, image_tar
        self._records: dict[ShardPlan, PackRecord | None] = {}

    def missing(self, shards: Sequence[ShardPlan]) -> list[ShardPlan]:
        """Return the shards that are not packed or whose files do not have the recorded hashes.

        Args:
            shards: The shards to check.
        """
        for shard in shards:
            if shard not in self._records:
                self._records[shard] = PackJob(how=self.how, shard=shard).verified_record()
        return [shard for shard in shards if self._records[shard] is None]

    def unpacked(self, shards: Sequence[ShardPlan]) -> bool:
        """Return whether any shard has no record. The shards' files are not read.

        Args:
            shards: The shards to check.
        """
        return any(PackJob(how=self.how, shard=shard).record() is None for shard in shards)

    def jobs(self, shards: Sequence[ShardPlan]) -> list[PackJob]:
        """Return the packing jobs of the missing shards. Their labelling units must be done.

        Args:
            shards: The shards of one increment.
        """
        if self.image_tar is None:
            self.image_tar = labels_outweigh_images([PackJob(how=self.how, shard=shard) for shard in shards])
        return [PackJob(how=self.how, shard=shard, image_tar=self.image_tar) for shard in self.missing(shards)]

    def add(self, job: PackJob, record: PackRecord) -> None:
        """Register a shard that was just packed.

        Args:
            job: The packing job.
            record: Its record.
        """
        self._records[job.shard] = record

    def records(self, shards: Sequence[ShardPlan]) -> list[PackRecord]:
        """Return the records of packed shards.

        Args:
            shards: The shards.

        Raises:
            IntegrityError: A shard is not packed.
        """
        found = [self._records.get(shard) for shard in shards]
        if missing := [shard.path for shard, record in zip(shards, found) if record is None]:
            raise IntegrityError(f"{missing[0]} disappeared while the set was made; run the same command again")
        return [record for record in found if record is not None]
