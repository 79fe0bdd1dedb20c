"""Packing units: shards and row records from encoded images, views and labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ddkit import engine
from ddkit.core.console import progress
from ddkit.engine.units import UnitFile
from ddkit.errors import IntegrityError
from ddkit.format.codecs import find_codec
from ddkit.format.manifest import files_of
from ddkit.format.shards import (
    Sample,
    file_sha256,
    labels_outweigh,
    pack_views,
    write_shard,
)
from ddkit.labelling.encoded import ShardPlan, _stamp, load_rows
from ddkit.labelling.labels import UNIT_ROWS, LabelJob, Labelling, _teacher, _views, label_rows


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
