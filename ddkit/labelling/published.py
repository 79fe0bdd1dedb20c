"""Published labels as the views and labels of a set: fractions become pixels, files become units of its rows.

Each epoch gives one view of every row. A CutMix region shows the partner's own crop and flip of the same epoch, which
is what a view of ddkit shows: the partner's unmixed view of the same number.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ddkit.core.console import progress
from ddkit.core.seeds import rng
from ddkit.errors import OptionError, SourceError
from ddkit.format.codecs.interface import centred
from ddkit.format.views import UNMIXED, Views
from ddkit.labelling.encoded import ShardPlan
from ddkit.labelling.labels import Computed, Labelling, label_jobs, label_views, views_unit
from ddkit.sources.published_labels import LabelledBatch, PublishedLabels
from ddkit.specs import ViewSpec

CHECKED_EPOCHS, CHECKED_VIEWS = 8, 256
LEAST_AGREEMENT = 0.5  # share of views with the teacher's top class
LARGEST_ERROR = 0.5  # of the error that labels of other views have
GROUP = 2**29  # bytes of logits that are held in memory; each group of units reads the files once


@dataclass(frozen=True)
class Agreement:
    """How well published labels agree with the teacher on randomly chosen views.

    Attributes:
        views: Number of views that were labelled again.
        top1: Share of them whose largest logit is the teacher's.
        error: Mean over them of the distance to the teacher's centred logits, relative to their length.
        chance: The same with the logits of another of these views, which is what a wrong order of the images gives.
        classes: Share of the labels of the checked epochs whose largest logit is the class of the image.
    """

    views: int
    top1: float
    error: float
    chance: float
    classes: float

    @classmethod
    def of(cls, labels: np.ndarray, teacher: np.ndarray, classes: float) -> Agreement:
        """Compare logits.

        Args:
            labels: The labels of some views, float [n,C].
            teacher: The teacher's logits of the same views, float [n,C].
            classes: As the attribute.
        """
        theirs, ours = centred(labels), centred(teacher)
        length = np.linalg.norm(ours, axis=1) + 1e-12
        return cls(
            views=len(ours),
            top1=float((theirs.argmax(1) == ours.argmax(1)).mean()),
            error=float((np.linalg.norm(theirs - ours, axis=1) / length).mean()),
            chance=float((np.linalg.norm(np.roll(theirs, 1, axis=0) - ours, axis=1) / length).mean()),
            classes=classes,
        )

    @property
    def good(self) -> bool:
        """Whether the labels belong to these images and views."""
        return self.top1 >= LEAST_AGREEMENT and self.error <= LARGEST_ERROR * self.chance


class PublishedViews:
    """The views and logits of a set that published labels give.

    Args:
        how: Settings for labelling.
        labels: The labels.
        places: Position in the set's only shard of each image, in the order in which the labels' sampler numbers them,
            int [n].
        side: Side of the stored images in pixels.
    """

    def __init__(self, how: Labelling, labels: PublishedLabels, places: np.ndarray, side: int) -> None:
        self._how, self._labels, self._places, self._side = how, labels, places, side

    def read(self, epochs: Sequence[int], start: int, stop: int) -> tuple[Views, np.ndarray]:
        """Return the views of all rows in some epochs, and the logits of some rows, float16 or float32 [n,V,C].

        Args:
            epochs: The epochs, ascending.
            start: Position of the first row whose logits are returned.
            stop: Position after the last of them.

        Raises:
            SourceError: A file is damaged, or its views are not inside these images.
            IntegrityError: A file has changed since the directory was opened.
        """
        labels, shape = self._labels, (len(self._places), len(epochs))
        dtype = np.uint8 if max(self._side, self._how.size) <= 255 else np.int16
        views = Views(
            box=np.zeros((*shape, 4), dtype), flip=np.zeros(shape, np.uint8),
            partner=None if labels.mix == "none" else np.full(shape, UNMIXED, np.uint16),
            mix_box=np.zeros((*shape, 4), dtype) if labels.mix == "cutmix" else None,
            mix_lam=np.ones(shape, np.float32) if labels.mix == "mixup" else None,
        )  # fmt: skip
        logits = np.empty((stop - start, len(epochs), labels.classes), np.float32 if labels.single else np.float16)
        with progress("reading labels", len(epochs) * labels.batches, "files") as advance:
            for v, batches in enumerate(labels.each_epoch(epochs)):
                for images, batch in batches:
                    rows = self._places[images]
                    self._fill(views, v, rows, batch)
                    wanted = (rows >= start) & (rows < stop)
                    logits[rows[wanted] - start, v] = batch.logits[wanted]
                    advance(1)
        order = self._how.order
        return views, logits if order is None else logits[..., list(order)]

    def _fill(self, views: Views, v: int, rows: np.ndarray, batch: LabelledBatch) -> None:
        """Enter the integers of one batch as view v of some rows."""
        size = self._how.size
        views.box[rows, v] = batch.boxes(self._side, self._side)
        views.flip[rows, v] = batch.flips
        if views.partner is None:
            return
        # A row that is its own partner, or an empty region, changes no pixel: such a view is stored as unmixed.
        mixed = batch.partners != np.arange(len(batch))
        if views.mix_box is not None:
            top, bottom, left, right = batch.region
            if max(bottom, right) > size or top > bottom or left > right:
                raise SourceError(
                    f"{batch.where}: its CutMix region is not inside a view of {size}x{size} px; give the teacher that "
                    "made the labels, whose input has the size of the views"
                )
            mixed &= bottom > top and right > left
            views.mix_box[rows[mixed], v] = (top, left, bottom - top, right - left)
        if views.mix_lam is not None:
            views.mix_lam[rows[mixed], v] = batch.weight
        views.partner[rows[mixed], v] = rows[batch.partners[mixed]]

    def check(self, images: Tensor, classes: np.ndarray) -> Agreement:
        """Compare a sample of the views with the policy and their logits with the teacher's.

        Args:
            images: The stored images by position, uint8 [n,3,side,side] on the labelling device.
            classes: Class of each image by position, int [n].

        Raises:
            SourceError: The labels do not belong to these images in this order, or are of another teacher, or a file
                is damaged.
            OptionError: The policy cannot have drawn the views.
            IntegrityError: A file has changed since the directory was opened.
        """
        labels, count, rows = self._labels, self._labels.epochs, len(classes)
        most = max(1, GROUP // (4 * rows * labels.classes))
        epochs = sorted({int(e) for e in np.linspace(0, count - 1, min(count, CHECKED_EPOCHS, most)).round()})
        views, stored = self.read(epochs, 0, rows)
        if problem := policy_problem(self._how.policy, views, self._side):
            raise OptionError(f"--labels {labels.root}: {problem}; give the --protocol that the labels were made with")
        chosen = rng(self._how.seed, "published-labels").permutation(rows * len(epochs))[:CHECKED_VIEWS]
        row, view = np.divmod(chosen, len(epochs))
        found = Agreement.of(
            stored[row, view], label_views(self._how, self._how.open_teacher(), images, views, row, view),
            classes=float((stored.argmax(-1) == classes[:, None]).mean()),
        )  # fmt: skip
        if found.good:
            return found
        raise SourceError(
            f"--labels {labels.root} do not fit these images: of {found.views} views, the teacher's top class is that "
            f"of the label in {found.top1:.0%}, and the logits differ by {found.error:.0%} ({found.chance:.0%} if "
            f"shuffled); what may differ: the teacher, the sampler's seed (--labels-seed, now {labels.seed}), the "
            f"batch size ({labels.batch} in the files), or the order of the images (by class folder, then by name)"
        )

    def save(self, shard: ShardPlan) -> None:
        """Write the units of views and labels that are missing, in groups of rows that fit into memory.

        Args:
            shard: The set's only shard.

        Raises:
            SourceError, IntegrityError: As `read`.
            DiskError: A unit cannot be written.
        """
        labels, file, every = self._labels, views_unit(self._how, shard), label_jobs(self._how, [shard])
        jobs = [job for job in every if not job.file.is_good()] or ([] if file.is_good() else every[:1])
        most = max(1, GROUP // (4 * labels.epochs * labels.classes * (every[0].stop - every[0].start)))
        for at in range(0, len(jobs), most):
            group, began = jobs[at : at + most], time.perf_counter()
            first = group[0].start
            views, logits = self.read(range(labels.epochs), first, group[-1].stop)
            file.write(views.tensors(), {})
            seconds = (time.perf_counter() - began) / len(group)
            for job in group:
                mine = logits[job.start - first : job.stop - first].astype(np.float32)
                job.save(Computed(centred(mine), None, None, seconds))


def policy_problem(policy: ViewSpec, views: Views, side: int) -> str | None:
    """Return what an augmentation policy cannot have drawn in views, or None.

    Args:
        policy: The policy.
        views: The views.
        side: Side of the stored images in pixels.
    """
    mix = "none" if views.partner is None else "cutmix" if views.mix_box is not None else "mixup"
    if policy.mix != mix:
        return f"mixing is {mix}, not {policy.mix}"
    if (policy.flip == 0 and views.flip.any()) or (policy.flip == 1 and not views.flip.all()):
        return f"{views.flip.mean():.0%} of the views are flipped, not {policy.flip:.0%}"
    sides = views.box[..., 2:].astype(np.float64)
    if ((sides + 0.5).prod(-1) < policy.scale[0] * side * side).any():  # each side was rounded
        return f"crops cover down to {sides.prod(-1).min() / side**2:.1%} of the image, not {policy.scale[0]:.0%}"
    return None
