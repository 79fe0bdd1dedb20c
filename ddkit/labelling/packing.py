"""Packing units: write encoded images, views and labels as shards and row records of the set."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ddkit.core.files import file_sha256
from ddkit.core.seeds import rng
from ddkit.core.serialization import Extensible, to_plain
from ddkit.engine.units import UnitFile
from ddkit.errors import IntegrityError
from ddkit.format.codecs.fidelity import fidelity_sums
from ddkit.format.codecs.interface import layout_bytes
from ddkit.format.entries import LabelFile, RowMetadata, ShardEntry, files_of, images_path, rows_path
from ddkit.format.shards import Sample, labels_outweigh, write_shard
from ddkit.format.views_member import pack_views
from ddkit.labelling.encoded import ShardPlan, load_encoded
from ddkit.labelling.labels import LabelJob, Labelling, label_jobs, shard_views, views_unit
from ddkit.labelling.shared import SharedJob, shared_tensors
from ddkit.specs import TeacherSpec


@dataclass(frozen=True, kw_only=True)
class PackRecord(Extensible):
    """Information on a packed shard.

    Attributes:
        entry: The shard's entry for the manifest.
        fidelity: Sums of `fidelity_sums` over its rows; None: no labels for that temperature.
        precision: The same sums of the teacher's precision against float32; empty if that is float32.
        seconds: Time that labelling it took.
        kinds: Kinds of the origins of its images.
        devices: Classes of the devices that labelled it.
    """

    entry: ShardEntry
    fidelity: tuple[float | None, ...]
    seconds: float
    kinds: tuple[str, ...] = ()
    precision: tuple[float, ...] = ()
    devices: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PackJob:
    """Writes one shard with its row records into the set, then a record that it is complete.

    Attributes:
        how: Settings for labelling.
        shard: The shard.
        image_tar: Whether to write its `images/` tar.
        shared: The file that all rows share, if the codec has one.
        teacher: Metadata of the teacher, its classes those of the set; None: read from its checkpoint.
        needs: Ids of jobs that must be done before.
    """

    how: Labelling
    shard: ShardPlan
    image_tar: bool = False
    shared: LabelFile | None = None
    teacher: TeacherSpec | None = None
    needs: frozenset[str] = frozenset()
    gpu_share = 0.0

    @property
    def id(self) -> str:
        """Id of the job: `pack-PREFIX-SHARD`."""
        return f"pack-{self.shard.name}"

    @property
    def file(self) -> UnitFile:
        """The result: a PackRecord."""
        return self.shard.unit(self.how.store, self.id)

    @property
    def files(self) -> tuple[UnitFile, ...]:
        """The file of the result."""
        return (self.file,)

    @property
    def labels(self) -> list[LabelJob]:
        """The labelling jobs of its rows."""
        return label_jobs(self.how, [self.shard])

    @property
    def inputs(self) -> tuple[Path, ...]:
        """Images, published views, logits, labels that all rows share, and the teacher if its metadata are needed."""
        how, out = self.how, Path(self.how.out)
        found = [self.shard.encoded(how.store).path, *(unit.file.path for unit in self.labels)]
        found += [views_unit(how, self.shard).path] if how.published is not None else []
        found += [out / self.shared.path] if self.shared is not None else []
        return (*found, *([] if self.teacher else [Path(how.teacher)]))

    @property
    def outputs(self) -> tuple[Path, ...]:
        """The files that it wrote, the record last."""
        out, path = Path(self.how.out), self.shard.path
        return (*(out / name for name in (path, rows_path(path), images_path(path))), self.file.path)

    def below(self, root: Path) -> PackJob:
        """Return the same job on a copy of the file system.

        Args:
            root: Directory of the copy.
        """
        return replace(self, how=self.how.below(root))

    def record(self) -> PackRecord | None:
        """Return the record of the packed shard, or None if there is none. The shard itself is not read."""
        return self.file.read_record(PackRecord)

    def verified_record(self) -> PackRecord | None:
        """Return the record if the shard's files have the recorded hashes; else delete it and return None."""
        record = self.record()
        if record is None:
            return None
        out, files = Path(self.how.out), files_of([record.entry])
        whole = all((out / path).is_file() and file_sha256(out / path) == sha for path, sha in files.items())
        if not whole:
            self.file.path.unlink(missing_ok=True)
        return record if whole else None

    def save(self, record: PackRecord) -> None:
        """Write the record, which marks the shard as packed.

        Args:
            record: The record.

        Raises:
            DiskError: The file cannot be written.
        """
        self.file.write_json(to_plain(record))

    def run(self) -> None:
        """Pack the shard and write its record.

        Raises:
            IntegrityError: The result of a unit is damaged.
            DiskError: A file cannot be written.
        """
        totals = Totals()
        samples = (sample for unit in self.labels for sample in self.samples(unit, totals))
        entry = write_shard(
            Path(self.how.out), self.shard.path, self.shard.prefix, samples, self.how.image_codec,
            image_tar=self.image_tar,
        )  # fmt: skip
        self.save(totals.record(entry))

    def samples(self, unit: LabelJob, totals: Totals) -> Iterator[Sample]:
        """Yield the rows of a labelling unit in their published form.

        Args:
            unit: The unit, one of `labels`.
            totals: Sums that the unit is added to.

        Raises:
            IntegrityError: The result of a unit is damaged.
        """
        rows, views = load_encoded(self.how.store, self.shard), shard_views(self.how, self.shard)
        tensors, metadata = unit.file.read()
        totals.seconds += metadata["seconds"]
        totals.devices |= {metadata["device"]} if "device" in metadata else set()  # ddkit 0.8 did not record it
        totals.precision = totals.precision + tensors.get("precision", 0.0)
        encoded, fidelity = self._encoded(unit, tensors)
        totals.fidelity = totals.fidelity + fidelity
        for i in range(unit.start, unit.stop):
            totals.kinds.add(rows.origins[i].kind)
            blob = pack_views(views.rows(slice(i, i + 1)), encoded[i - unit.start], self._metadata(i))
            yield Sample(self.shard.first + i, int(rows.labels[i]), rows.images[i], blob)

    def _encoded(
        self, unit: LabelJob, tensors: Mapping[str, np.ndarray]
    ) -> tuple[list[dict[str, np.ndarray]], np.ndarray]:
        """The label tensors of each row of a labelling unit, and their summed fidelity."""
        codec = self.how.label_codec
        if codec.FROM_PIXELS:
            return [{}] * (unit.stop - unit.start), tensors["fidelity"]
        logits = tensors["logits"]
        if codec.name == "fp16":  # the labelling unit compared it with single precision
            return [{"logits": row} for row in logits], tensors["fidelity"]
        shared = shared_tensors(self.how, self.shared, logits.shape[-1])
        encoded, sums = [], np.zeros(5)
        for i, row in enumerate(logits.astype(np.float32), start=self.shard.first + unit.start):
            encoded.append(codec.encode(row, shared, rng(self.how.seed, "label", i)))
            sums += fidelity_sums(row, codec, encoded[-1], shared)
        return encoded, sums

    def _metadata(self, i: int) -> RowMetadata:
        """The metadata of the row at position i of the shard."""
        rows, spec = load_encoded(self.how.store, self.shard), self.teacher or self.how.open_teacher().spec
        classes = len(self.how.order or spec.classes) if self.how.label_codec.NAMES_CLASSES else None
        return RowMetadata(
            codec=self.how.codec, first=self.shard.first, size=self.how.size, mean=tuple(spec.mean),
            std=tuple(spec.std), stage=self.shard.stage, rank=int(rows.ranks[i]), origin=rows.origins[i],
            classes=classes,
        )  # fmt: skip


@dataclass
class Totals:
    """Sums over the rows of a shard; see PackRecord."""

    fidelity: np.ndarray | float = 0.0
    precision: np.ndarray | float = 0.0
    seconds: float = 0.0
    kinds: set[str] = field(default_factory=set)
    devices: set[str] = field(default_factory=set)

    def record(self, entry: ShardEntry) -> PackRecord:
        """Return the record of the packed shard."""
        fidelity = tuple(None if math.isnan(total) else total for total in np.asarray(self.fidelity).tolist())
        precision = tuple(np.asarray(self.precision).reshape(-1).tolist())
        return PackRecord(
            entry=entry, fidelity=fidelity, seconds=self.seconds, kinds=tuple(sorted(self.kinds)),
            precision=precision if len(precision) > 1 else (), devices=tuple(sorted(self.devices)),
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
    a_row = sum(array.nbytes for array in views.values())
    a_row += layout_bytes(how.label_codec.layout(how.policy.count, how.open_teacher().classes))
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
        self.label_file: LabelFile | None = None  # set by the unit that makes it
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

    def shared_jobs(self, shards: Sequence[ShardPlan]) -> list[SharedJob]:
        """Return the job that makes the file that all rows share; none if the codec has none or it is finished.

        Args:
            shards: Shards of the first increment; later ones are ignored.
        """
        codec = self.how.label_codec
        if self.label_file is not None or not (codec.FROM_PIXELS or codec.shared_layout(1)):
            return []
        job = SharedJob(how=self.how, shards=tuple(shard for shard in shards if shard.stage == shards[0].stage))
        self.label_file = job.entry()
        return [] if self.label_file else [job]

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
        return [
            PackJob(how=self.how, shard=shard, image_tar=self.image_tar, shared=self.label_file)
            for shard in self.missing(shards)
        ]

    def add(self, job: PackJob) -> None:
        """Register a shard that was just packed.

        Args:
            job: The packing job.
        """
        self._records[job.shard] = job.record()

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
