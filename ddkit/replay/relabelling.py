"""Labelling and packing: the teacher over every view of the decoded published bytes, then shards.

Three kinds of units, each one file in OUT.work/units and skipped when it is there: `images` (the encoded images of one
shard), `label` (32 rows of a shard, all views), `pack` (one shard). They are pure functions of their plain-data jobs.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddkit import engine
from ddkit.engine.units import UnitFile, unit_path
from ddkit.errors import Diverged, IntegrityError
from ddkit.format.codecs import LARGEST, fidelity_sums, find_codec
from ddkit.format.images import decode_image
from ddkit.format.manifest import files_of
from ddkit.format.shards import (
    Sample,
    file_sha256,
    labels_outweigh,
    pack_views,
    shard_path,
    write_shard,
)
from ddkit.format.views import Views, draw, network_input
from ddkit.plain import fingerprint
from ddkit.runtime import progress
from ddkit.sources.teacher import Teacher
from ddkit.specs import ViewSpec

UNIT_ROWS = 32  # rows of a labelling unit: part of what makes equal bytes (format.md)
FORWARD = 128  # views in one forward pass; fixed, because logits depend on it in the last bits


@dataclass(frozen=True, kw_only=True)
class Labelling:
    """How a set is labelled, as plain data.

    teacher: checkpoint, and the hash of its weights; order: its column for each class, None = as it is; size: output
    side; law: of the views; patches: N of the stitched grid; groups: mixing group of each class, or None; out, work:
    the set's directory and the one beside it; image_codec, codec: names.
    """

    out: str
    work: str
    teacher: str
    teacher_hash: str
    order: tuple[int, ...] | None
    law: ViewSpec
    seed: int
    size: int
    image_codec: str
    codec: str
    patches: int
    groups: tuple[int, ...] | None
    device: str


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


# ------------------------------------------------------------------ images units


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


@functools.lru_cache(maxsize=2)
def _decoded(work: str, shard: ShardPlan, codec: str, stamp: int) -> Tensor:
    """The published bytes of a shard, decoded: uint8 [n,3,H,W]."""
    rows = _load_rows(work, shard, stamp)
    return torch.from_numpy(np.stack([decode_image(image, codec, shard.path) for image in rows.images]))


@functools.lru_cache(maxsize=2)
def _views(how: Labelling, shard: ShardPlan, stamp: int) -> Views:
    """The views of a shard's rows."""
    images = _decoded(how.work, shard, how.image_codec, stamp)
    groups = None
    if how.groups is not None:
        groups = np.array(how.groups)[_load_rows(how.work, shard, stamp).labels]
    return draw(
        how.law, seed=how.seed, first=shard.first, rows=shard.rows, height=images.shape[2], width=images.shape[3],
        size=how.size, patches=how.patches, groups=groups,
    )  # fmt: skip


@functools.lru_cache(maxsize=1)
def _teacher(how: Labelling) -> Teacher:
    return Teacher.load(how.teacher, torch.device(how.device), how.order)


# ------------------------------------------------------------------ label units


@dataclass(frozen=True, kw_only=True)
class LabelJob:
    how: Labelling
    shard: ShardPlan
    start: int

    @property
    def id(self) -> str:
        return f"label-{self.shard.name}-{self.start // UNIT_ROWS:04d}"

    @property
    def stop(self) -> int:
        return min(self.start + UNIT_ROWS, self.shard.rows)

    @property
    def file(self) -> UnitFile:
        return self.shard.unit(self.how.work, self.id)


def label_rows(job: LabelJob) -> None:
    """Label every view of up to 32 rows and write the unit: the codec's tensors [n,V,...] and fidelity sums."""
    how, began = job.how, time.perf_counter()
    teacher = _teacher(how)
    stamp = _stamp(how.work, job.shard)
    images = _decoded(how.work, job.shard, how.image_codec, stamp)
    views = _views(how, job.shard, stamp)
    if how.device != "cpu":
        images = images.to(how.device)
    rows, numbers = (
        a.ravel() for a in np.meshgrid(np.arange(job.start, job.stop), np.arange(views.count), indexing="ij")
    )
    logits = []
    for at in range(0, len(rows), FORWARD):
        part = slice(at, at + FORWARD)
        inputs = network_input(
            images, views, rows[part], numbers[part], size=how.size, mean=teacher.spec.mean, std=teacher.spec.std
        )
        logits.append(teacher.logits(inputs).cpu().numpy())
    if not all(np.isfinite(part).all() for part in logits):
        raise Diverged(
            f"the teacher {how.teacher} gives logits that are not finite; check its weights and normalisation"
        )
    stacked = np.concatenate(logits).reshape(job.stop - job.start, views.count, -1)
    centred = stacked - stacked.mean(-1, keepdims=True)
    if (largest := float(np.abs(centred).max())) > LARGEST:
        raise Diverged(
            f"the teacher {how.teacher} gives logits up to {largest:.3g}, more than labels can hold; train it again, "
            "with weight decay or fewer epochs"
        )
    codec = find_codec(how.codec)
    soft = [codec.encode(row) for row in stacked]
    tensors = {name: np.stack([row[name] for row in soft]) for name in codec.TENSORS}
    tensors["fidelity"] = np.sum([fidelity_sums(z, codec.decode(row)) for z, row in zip(centred, soft)], axis=0)
    job.file.write(tensors, {"seconds": round(time.perf_counter() - began, 4)})


# ------------------------------------------------------------------ pack units


@dataclass(frozen=True, kw_only=True)
class PackJob:
    how: Labelling
    shard: ShardPlan
    image_tar: bool = False

    @property
    def id(self) -> str:
        return f"pack-{self.shard.name}"

    @property
    def file(self) -> UnitFile:
        return self.shard.unit(self.how.work, self.id)

    def record(self) -> dict[str, Any] | None:
        """What was written when the shard was packed; None where it was not."""
        return self.file.read_json()

    def save(self, record: dict[str, Any]) -> None:
        """Say that the shard is packed."""
        self.file.write_json(record)

    def label_jobs(self) -> list[LabelJob]:
        return [LabelJob(how=self.how, shard=self.shard, start=s) for s in range(0, self.shard.rows, UNIT_ROWS)]

    def done(self) -> dict[str, Any] | None:
        """The shard's record when it is packed and its files hold the recorded bytes; a damaged one is packed again."""
        record = self.record()
        if record is None:
            return None
        out, files = Path(self.how.out), files_of([record["entry"]])
        whole = all((out / path).is_file() and file_sha256(out / path) == sha for path, sha in files.items())
        return record if whole else None


def pack_shard(job: PackJob) -> None:
    """Write one shard with its row records into the set, then the record that it is done."""
    how, shard = job.how, job.shard
    teacher = _teacher(how).spec
    rows = load_rows(how.work, shard)
    views = _views(how, shard, _stamp(how.work, shard))
    codec = find_codec(how.codec)
    sums, seconds = np.zeros(5), 0.0

    def samples() -> Iterator[Sample]:
        nonlocal sums, seconds
        for unit in job.label_jobs():
            tensors, told = unit.file.read()
            sums = sums + tensors["fidelity"]
            seconds += told["seconds"]
            for i in range(unit.start, unit.stop):
                metadata = {
                    "codec": how.codec,
                    "first": shard.first,
                    "size": how.size,
                    "mean": list(teacher.mean),
                    "std": list(teacher.std),
                    "stage": shard.stage,
                    "rank": int(rows.ranks[i]),
                    "origin": rows.origins[i],
                }
                labels = {name: tensors[name][i - unit.start] for name in codec.TENSORS}
                blob = pack_views(views.rows(slice(i, i + 1)), labels, metadata)
                yield Sample(shard.first + i, int(rows.labels[i]), rows.images[i], blob)

    entry = write_shard(Path(how.out), shard.path, samples(), how.image_codec, image_tar=job.image_tar)
    entry["prefix"] = shard.prefix
    job.save({"entry": entry, "fidelity": sums.tolist(), "seconds": seconds})


def _labels_outweigh(packs: Sequence[PackJob]) -> bool:
    """Whether the labels of a prefix outweigh its images; every row's take the same bytes, but for its metadata."""
    first, how = packs[0], packs[0].how
    if (record := first.record()) is not None:  # decided when it was packed
        return record["entry"]["images"] is not None
    views = _views(how, first.shard, _stamp(how.work, first.shard)).rows(slice(0, 1)).tensors()
    soft = first.label_jobs()[0].file.tensors()
    a_row = sum(array.nbytes for array in views.values())
    a_row += sum(soft[name][0].nbytes for name in find_codec(how.codec).TENSORS)
    images = [image for job in packs for image in load_rows(how.work, job.shard).images]
    return labels_outweigh(a_row * len(images), sum(len(image) for image in images))


# ------------------------------------------------------------------ a prefix


def label_and_pack(
    how: Labelling, shards: Sequence[ShardPlan], workers: int, image_tars: bool | None = None
) -> list[dict[str, Any]]:
    """Label and pack the shards whose `images` units are there; what is done already is not done again.

    image_tars: whether to pack the images without labels, too; None decides it by these shards, the first prefix's.
    Returns one record a shard: entry (for the manifest), fidelity sums, seconds.
    """
    packs = [PackJob(how=how, shard=shard) for shard in shards]
    open_packs = [job for job in packs if job.done() is None]
    labels = [unit for job in open_packs for unit in job.label_jobs() if not unit.file.is_good()]
    views = sum(unit.stop - unit.start for unit in labels) * how.law.count
    with progress("labelling", views, "views") as advance:
        for unit, _ in engine.run(label_rows, labels, workers=workers):
            advance((unit.stop - unit.start) * how.law.count)
    if image_tars is None:
        image_tars = _labels_outweigh(packs)
    open_packs = [replace(job, image_tar=image_tars) for job in open_packs]
    for _ in engine.run(pack_shard, open_packs, workers=workers):
        pass
    records = [job.done() for job in packs]
    if missing := [job.shard.path for job, record in zip(packs, records) if record is None]:
        raise IntegrityError(f"{missing[0]} vanished while it was made; run the same command again")
    return [record for record in records if record is not None]
