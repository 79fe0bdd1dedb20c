"""Labelling units: compute the teacher's logits for every view of the decoded published images."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ddkit.core.device import device_class
from ddkit.core.files import below
from ddkit.core.serialization import later
from ddkit.core.worker_state import STATE
from ddkit.engine.units import UnitFile, UnitStore
from ddkit.errors import Diverged, IntegrityError
from ddkit.format.codecs.fidelity import compared_logits, fidelity_sums
from ddkit.format.codecs.interface import LARGEST, Codec, centred
from ddkit.format.codecs.registry import find_codec
from ddkit.format.images import decode_image
from ddkit.format.resampling import stack_images
from ddkit.format.view_pixels import network_input
from ddkit.format.views import Views, draw
from ddkit.labelling.encoded import ShardPlan, load_encoded
from ddkit.specs import ViewSpec
from ddkit.teachers.teacher import Precision, Teacher

UNIT_ROWS = 32  # rows of a labelling unit; changing it can change the bytes of labels
FORWARD = 128  # views per forward pass; fixed, because the last bits of logits depend on it
GROUP = 16  # units of a group on a GPU
COMPARED = 4  # views of each row by which a carried teacher, or another precision, is compared with the teacher


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
        precision: Arithmetic of the teacher.
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
    precision: Precision = later("float32")
    published: str | None = later(None)

    @property
    def label_codec(self) -> Codec:
        """The codec."""
        return find_codec(self.codec)

    @property
    def store(self) -> UnitStore:
        """The units of the set."""
        return UnitStore(self.work)

    def below(self, root: Path) -> Labelling:
        """Return the same settings on a copy of the file system.

        Args:
            root: Directory of the copy; see core.files.below.
        """
        out, work, teacher = (str(below(root, path)) for path in (self.out, self.work, self.teacher))
        return replace(self, out=out, work=work, teacher=teacher)

    @property
    def backend(self) -> str:
        """Type of the device that labels: "cpu", "cuda", ..."""
        return self.device.partition(":")[0]

    def open_teacher(self) -> Teacher:
        """Return the teacher on its device; it is loaded once per process. Raises TeacherError if it is another one."""
        return Teacher.of_run(self.teacher, self.teacher_hash, torch.device(self.device), self.order)


def shard_pixels(how: Labelling, shard: ShardPlan) -> Tensor:
    """Decode the published images of a shard, onto the labelling device: uint8 [n,3,H,W].

    Args:
        how: Settings for labelling.
        shard: The shard.
    """

    def decode() -> Tensor:
        rows = load_encoded(how.store, shard)
        pixels = stack_images([decode_image(image, how.image_codec, shard.path) for image in rows.images])
        return pixels if how.device == "cpu" else pixels.to(how.device).contiguous()

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


@dataclass(frozen=True)
class Computed:
    """The logits of a labelling unit, centred, float32.

    Attributes:
        logits: Of the teacher, [n,V,C].
        carried: Of the teacher that the set carries, [n,V,C]; None: the set stores labels.
        exact: Of the teacher in float32 for the first views, [n,v,C]; None: that is its precision.
        seconds: Time that computing them took.
    """

    logits: np.ndarray
    carried: np.ndarray | None
    exact: np.ndarray | None
    seconds: float


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
    gpu_share = 1.0

    @property
    def id(self) -> str:
        """Id of the job: `label-PREFIX-SHARD-NUMBER`."""
        return f"label-{self.shard.name}-{self.start // UNIT_ROWS:04d}"

    @property
    def stop(self) -> int:
        """Position after the last row."""
        return min(self.start + UNIT_ROWS, self.shard.rows)

    @property
    def count(self) -> int:
        """Views of each row to label: all, or those that are compared if the set carries its teacher."""
        count = self.how.policy.count
        return min(count, COMPARED) if self.how.label_codec.FROM_PIXELS else count

    @property
    def views(self) -> int:
        """Number of views to label."""
        return (self.stop - self.start) * self.count

    @property
    def file(self) -> UnitFile:
        """The result, which `packing` encodes: see `run`."""
        return self.shard.unit(self.how.store, self.id)

    @property
    def files(self) -> tuple[UnitFile, ...]:
        """The file of the result."""
        return (self.file,)

    def run(self) -> None:
        """Label the views and write the result.

        Its tensors are `logits`, centred, float16 [n,V,C], unless the set carries its teacher; `fidelity`, the sums of
        `fidelity_sums` for codec fp16, or of the carried against the original teacher; and for another precision than
        float32 `precision`, its sums against float32.

        Raises:
            Diverged: Logits are not finite or too large for the codecs.
            IntegrityError, DiskError.
        """
        self.save(self.compute())

    def compute(self) -> Computed:
        """Run the teacher on the views; the first half of `run`."""
        if self.how.published is not None:  # the import writes these units; the teacher's logits are others
            raise IntegrityError(f"{self.file.path} is damaged or missing; run the same command again to recreate it")
        began, teacher, how = time.perf_counter(), self.how.open_teacher(), self.how
        logits = self._logits(teacher, self.count, how.precision)
        other = exact = None
        if how.label_codec.FROM_PIXELS:
            other = self._logits(teacher.rounded(), self.count, how.precision)
        if how.precision != "float32":
            exact = self._logits(teacher, min(self.count, COMPARED), "float32")
        return Computed(logits, other, exact, time.perf_counter() - began)

    def save(self, found: Computed) -> None:
        """Compare the logits and write the result; the second half of `run`.

        Args:
            found: What `compute` returned.
        """
        tensors: dict[str, np.ndarray] = {}
        if found.carried is not None:
            sums = [compared_logits(z, other) for z, other in zip(found.logits, found.carried)]
        else:
            codec, none = find_codec("fp16"), np.random.default_rng()
            encoded = [codec.encode(row, {}, none) for row in found.logits]
            tensors = {"logits": np.stack([row["logits"] for row in encoded])}
            sums = [fidelity_sums(z, codec, row, {}) for z, row in zip(found.logits, encoded)]
        tensors["fidelity"] = np.sum(sums, axis=0)
        if found.exact is not None:
            pairs = zip(found.exact, found.logits)
            tensors["precision"] = np.sum([compared_logits(z, other[: len(z)]) for z, other in pairs], axis=0)
        device = device_class(torch.device(self.how.device))
        self.file.write(tensors, {"seconds": round(found.seconds, 4), "device": device})

    def _logits(self, teacher: Teacher, count: int, precision: Precision) -> np.ndarray:
        """The centred logits for the first `count` views of every row: float32 [n,count,C]."""
        how = self.how
        images, views = shard_pixels(how, self.shard), shard_views(how, self.shard)
        grid = np.meshgrid(np.arange(self.start, self.stop), np.arange(count), indexing="ij")
        rows, view_indices = (axis.ravel() for axis in grid)
        found = label_views(how, teacher, images, views, rows, view_indices, precision)
        if not np.isfinite(found).all():
            raise Diverged(
                f"the teacher {how.teacher} gives logits that are not finite; check its weights and normalisation"
            )
        if (largest := float(np.abs(found - found.mean(-1, keepdims=True)).max())) > LARGEST:
            raise Diverged(
                f"the teacher {how.teacher} gives logits up to {largest:.3g}, which labels cannot store; train it "
                "again, with weight decay or fewer epochs"
            )
        return centred(found).reshape(self.stop - self.start, count, -1)


def label_views(
    how: Labelling, teacher: Teacher, images: Tensor, views: Views, rows: np.ndarray, view_indices: np.ndarray,
    precision: Precision = "float32",
) -> np.ndarray:  # fmt: skip
    """Return a teacher's logits for some views of a shard: float32 [n,C].

    Args:
        how: Settings for labelling.
        teacher: The teacher.
        images: The stored images, uint8 [n,3,H,W] on the labelling device.
        views: Views of the same n rows.
        rows: Positions of the rows in the shard, int [n].
        view_indices: View index of each of them, int [n].
        precision: Arithmetic of the teacher.
    """
    parts = []
    for at in range(0, len(rows), FORWARD):
        part = slice(at, at + FORWARD)
        inputs = network_input(
            images, views, rows[part], view_indices[part], size=how.size, mean=teacher.spec.mean, std=teacher.spec.std
        )
        parts.append(teacher.logits(inputs, precision))
    return torch.cat(parts).cpu().numpy()  # copied once, so that a GPU never waits for the next views


@dataclass(frozen=True, kw_only=True)
class LabelGroup:
    """Labelling units of one device in turn: while the teacher runs, the result before is compared and written.

    Attributes:
        jobs: The units.
        needs: Ids of jobs that must be done before.
    """

    jobs: tuple[LabelJob, ...]
    needs: frozenset[str] = frozenset()
    gpu_share = 1.0

    @property
    def id(self) -> str:
        """Id of the first unit."""
        return self.jobs[0].id

    @property
    def files(self) -> tuple[UnitFile, ...]:
        """The files of the results."""
        return tuple(job.file for job in self.jobs)

    @property
    def views(self) -> int:
        """Number of views to label."""
        return sum(job.views for job in self.jobs)

    @property
    def inputs(self) -> tuple[Path, ...]:
        """The teacher, the images, and finished results."""
        how = self.jobs[0].how
        shards = dict.fromkeys(job.shard for job in self.jobs)
        mine = (file.path for file in self.files)  # those that are done are not run again
        return (Path(how.teacher), *(shard.encoded(how.store).path for shard in shards), *mine)

    @property
    def outputs(self) -> tuple[Path, ...]:
        """The files that it wrote."""
        return tuple(file.path for file in self.files)

    def below(self, root: Path) -> LabelGroup:
        """Return the same units on a copy of the file system.

        Args:
            root: Directory of the copy.
        """
        how = self.jobs[0].how.below(root)
        return replace(self, jobs=tuple(replace(job, how=how) for job in self.jobs))

    def run(self) -> None:
        """Label the views that are not labelled and write the results; raises as LabelJob.run."""
        with ThreadPoolExecutor(1) as behind:
            writing: Future[None] | None = None
            for job in (job for job in self.jobs if not job.file.is_good()):
                found = job.compute()
                if writing is not None:
                    writing.result()
                writing = behind.submit(job.save, found)
            if writing is not None:
                writing.result()


def label_groups(jobs: Sequence[LabelJob]) -> list[LabelGroup]:
    """Group labelling units: several for a GPU, so that it need not wait for files; one each for the cores of a CPU.

    Args:
        jobs: The units.
    """
    size = GROUP if jobs and jobs[0].how.backend != "cpu" else 1
    return [LabelGroup(jobs=tuple(jobs[at : at + size])) for at in range(0, len(jobs), size)]


def label_jobs(how: Labelling, shards: Sequence[ShardPlan]) -> list[LabelJob]:
    """Return the labelling jobs of some shards.

    Args:
        how: Settings for labelling.
        shards: The shards.
    """
    return [LabelJob(how=how, shard=shard, start=s) for shard in shards for s in range(0, shard.rows, UNIT_ROWS)]
