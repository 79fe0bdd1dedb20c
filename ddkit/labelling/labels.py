"""Labelling units: the teacher on every view of the decoded, published bytes."""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ddkit.engine.units import UnitFile
from ddkit.errors import Diverged
from ddkit.format.codecs import LARGEST, fidelity_sums, find_codec
from ddkit.format.images import decode_image
from ddkit.format.views import Views, draw, network_input
from ddkit.labelling.encoded import ShardPlan, _load_rows, _stamp
from ddkit.specs import ViewSpec
from ddkit.teachers.teacher import Teacher

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
