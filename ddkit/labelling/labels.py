"""Labelling units: compute the teacher's logits for every view of the decoded published images."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ddkit.core.worker_state import STATE
from ddkit.engine.units import UnitFile, UnitStore
from ddkit.errors import Diverged, IntegrityError
from ddkit.format.codecs import LARGEST, fidelity_sums, find_codec
from ddkit.format.images import decode_image
from ddkit.format.view_pixels import network_input
from ddkit.format.views import Views, draw
from ddkit.labelling.encoded import ShardPlan, load_encoded
from ddkit.specs import ViewSpec
from ddkit.teachers.teacher import Teacher

UNIT_ROWS = 32  # rows of a labelling unit; changing it can change the bytes of labels
FORWARD = 128  # views per forward pass; fixed, because the last bits of logits depend on it


@dataclass(frozen=True, kw_only=True)
class Labelling:
    """The settings for labelling a set, as plain data.

    Attributes:
        out: Directory of the set.
        work: Its directory of unfinished and cached files, OUT.work.
        teacher: Checkpoint of the teacher.
        teacher_hash: Hash of its weights.
        order: Output column of the teacher for each class; None: columns are in class order.
        policy: Augmentation policy of the views.
        seed: Seed of the views.
        size: Side of a view in pixels.
        image_codec: Image format.
        codec: Codec of the labels.
        patches: N of the stitched grid.
        groups: Mixing group of each class; None: no groups.
        device: torch device name.
        published: Hash of the published labels that views and logits are taken from (`labelling.published`); None:
            views are drawn and labelled by the teacher.
    """

    out: str
    work: str
    teacher: str
    teacher_hash: str
    order: tuple[int, ...] | None
    policy: ViewSpec
    seed: int
    size: int
    image_codec: str
    codec: str
    patches: int
    groups: tuple[int, ...] | None
    device: str
    published: str | None = None

    @property
    def store(self) -> UnitStore:
        """The units of the set."""
        return UnitStore(self.work)

    @property
    def backend(self) -> str:
        """Type of the device that labels: "cpu", "cuda", ..."""
        return self.device.partition(":")[0]

    def open_teacher(self) -> Teacher:
        """Return the teacher on its device; it is loaded once per process."""
        return Teacher.shared(self.teacher, torch.device(self.device), self.order)


def shard_pixels(how: Labelling, shard: ShardPlan) -> Tensor:
    """Decode the published images of a shard, onto the labelling device: uint8 [n,3,H,W].

    Args:
        how: Settings for labelling.
        shard: The shard.
    """

    def decode() -> Tensor:
        rows = load_encoded(how.store, shard)
        pixels = np.stack([decode_image(image, how.image_codec, shard.path) for image in rows.images])
        return torch.from_numpy(pixels).to(how.device)

    return STATE.keep("decoded shard", (how.store, shard, how.image_codec, how.device), decode, most=2)


def views_unit(how: Labelling, shard: ShardPlan) -> UnitFile:
    """Return the unit that holds the views of a shard whose labels were published.

    Args:
        how: Settings for labelling.
        shard: The shard.
    """
    return shard.unit(how.store, f"views-{shard.name}")


def shard_views(how: Labelling, shard: ShardPlan) -> Views:
    """Draw the views of all rows of a shard from the augmentation policy, or read those of published labels.

    Args:
        how: Settings for labelling.
        shard: The shard.
    """

    def drawn() -> Views:
        if how.published is not None:
            return Views(**views_unit(how, shard).tensors())
        rows, images = load_encoded(how.store, shard), shard_pixels(how, shard)
        groups = None if how.groups is None else np.array(how.groups)[rows.labels]
        return draw(
            how.policy, seed=how.seed, first=shard.first, rows=shard.rows, height=images.shape[2],
            width=images.shape[3], size=how.size, patches=how.patches, groups=groups,
        )  # fmt: skip

    return STATE.keep("views", (how, shard), drawn, most=2)


@dataclass(frozen=True, kw_only=True)
class LabelJob:
    """Labels every view of up to 32 rows of a shard.

    Attributes:
        how: Settings for labelling.
        shard: The shard.
        start: Position of the first row in the shard.
        needs: Ids of jobs that must be done before.
    """

    how: Labelling
    shard: ShardPlan
    start: int
    needs: frozenset[str] = frozenset()

    @property
    def id(self) -> str:
        """Id of the job: `label-PREFIX-SHARD-NUMBER`."""
        return f"label-{self.shard.name}-{self.start // UNIT_ROWS:04d}"

    @property
    def stop(self) -> int:
        """Position after the last row."""
        return min(self.start + UNIT_ROWS, self.shard.rows)

    @property
    def views(self) -> int:
        """Number of views to label."""
        return (self.stop - self.start) * self.how.policy.count

    @property
    def file(self) -> UnitFile:
        """The result: the codec's tensors [n,V,...], and `fidelity`, the sums of `codecs.fidelity_sums`."""
        return self.shard.unit(self.how.store, self.id)

    def run(self) -> None:
        """Label the views and write the result.

        Raises:
            Diverged: Logits are not finite or too large for the codecs.
            IntegrityError, DiskError.
        """
        if self.how.published is not None:  # the import writes these units; the teacher's logits are others
            raise IntegrityError(f"{self.file.path} is damaged or missing; run the same command again to recreate it")
        began = time.perf_counter()
        rows, view_indices = np.meshgrid(
            np.arange(self.start, self.stop), np.arange(self.how.policy.count), indexing="ij"
        )
        images, views = shard_pixels(self.how, self.shard), shard_views(self.how, self.shard)
        logits = label_views(self.how, images, views, rows.ravel(), view_indices.ravel())
        self.save(logits.reshape(*rows.shape, -1), time.perf_counter() - began)

    def save(self, logits: np.ndarray, seconds: float) -> None:
        """Encode the logits of the rows and write the result.

        Args:
            logits: float32 [n,V,C].
            seconds: Time that computing them took.

        Raises:
            Diverged: Logits are not finite or too large for the codecs.
            DiskError: The file cannot be written.
        """
        began = time.perf_counter()
        if not np.isfinite(logits).all():
            raise Diverged(
                f"the teacher {self.how.teacher} gives logits that are not finite; check its weights and normalisation"
            )
        centred = logits - logits.mean(-1, keepdims=True)
        if (largest := float(np.abs(centred).max())) > LARGEST:
            raise Diverged(
                f"the teacher {self.how.teacher} gives logits up to {largest:.3g}, which labels cannot store; train it "
                "again, with weight decay or fewer epochs"
            )
        codec = find_codec(self.how.codec)
        encoded = [codec.encode(row) for row in logits]
        tensors = {name: np.stack([row[name] for row in encoded]) for name in codec.TENSORS}
        sums = [fidelity_sums(z, codec.decode(row)) for z, row in zip(centred, encoded)]
        tensors["fidelity"] = np.sum(sums, axis=0)
        self.file.write(tensors, {"seconds": round(seconds + time.perf_counter() - began, 4)})


def label_views(how: Labelling, images: Tensor, views: Views, rows: np.ndarray, view_indices: np.ndarray) -> np.ndarray:
    """Return the teacher's logits for some views of a shard: float32 [n,C].

    Args:
        how: Settings for labelling.
        images: The stored images, uint8 [n,3,H,W] on the labelling device.
        views: Views of the same n rows.
        rows: Positions of the rows in the shard, int [n].
        view_indices: View index of each of them, int [n].
    """
    teacher, parts = how.open_teacher(), []
    for at in range(0, len(rows), FORWARD):
        part = slice(at, at + FORWARD)
        inputs = network_input(
            images, views, rows[part], view_indices[part], size=how.size, mean=teacher.spec.mean, std=teacher.spec.std
        )
        parts.append(teacher.logits(inputs).cpu().numpy())
    return np.concatenate(parts)


def label_jobs(how: Labelling, shards: Sequence[ShardPlan]) -> list[LabelJob]:
    """Return the labelling jobs of some shards.

    Args:
        how: Settings for labelling.
        shards: The shards.
    """
    return [LabelJob(how=how, shard=shard, start=s) for shard in shards for s in range(0, shard.rows, UNIT_ROWS)]
