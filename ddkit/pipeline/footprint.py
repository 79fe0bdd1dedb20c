"""The bytes, files and units of a set that is planned."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ddkit.format.codecs.interface import FLOAT16, layout_bytes
from ddkit.format.codecs.registry import find_codec
from ddkit.format.images import encode_image
from ddkit.format.row_format import views_layout
from ddkit.labelling.budget import BudgetGoal, TarBytes
from ddkit.labelling.encoded import ShardPlan, plan_shards
from ddkit.pipeline.pricing import LabelCost, label_units
from ddkit.specs import ViewSpec
from ddkit.synthesis.interface import Distiller, Plan
from ddkit.teachers.teacher import Teacher

CARD_FILES = 4  # ddkit.json, README.md, _info.json and preview.png
ROW_RECORD = 175  # bytes of a line of a `.rows` file, about

# Bytes per pixel of images up to a size, by `real_pixels` of the manifest and image format. Real images: the mean of
# 200 of CIFAR-10, Tiny-ImageNet and ImageNet. Optimised ones, which are noisier: 20 by the CIFAR-10 recipes of CUDD
# (initial) and SRe2L (none), and at 224 pixels two by their ImageNet-1K recipes after 200 steps.
BYTES_A_PIXEL = {
    "whole": {
        32: {"png": 2.24, "webp": 1.51, "jpg": 0.59},
        64: {"png": 2.28, "webp": 1.48, "jpg": 0.40},
        224: {"png": 1.58, "webp": 1.05, "jpg": 0.19},
    },
    "initial": {32: {"png": 2.69, "webp": 2.46, "jpg": 0.66}, 224: {"png": 3.00, "webp": 2.99, "jpg": 0.56}},
    "none": {32: {"png": 2.97, "webp": 2.88, "jpg": 0.69}, 224: {"png": 3.01, "webp": 2.99, "jpg": 0.57}},
}


def typical_bytes(size: int, image_format: str, real_pixels: str | None, sample: Sequence[np.ndarray]) -> float:
    """Return the bytes of a typical encoded image.

    Args:
        size: Side of the image, pixels.
        image_format: png, webp or jpg.
        real_pixels: What remains of real images in it, as in the manifest; None: the images are real.
        sample: Some real images of the source, uint8 [3,size,size] each; empty if it is not at hand.
    """
    kind = real_pixels if real_pixels in ("initial", "none") else "whole"
    if sample and kind == "whole":
        return float(np.mean([len(encode_image(image, image_format)) for image in sample]))
    known = BYTES_A_PIXEL[kind]
    return known[min((s for s in known if s >= size), default=max(known))][image_format] * size**2


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """What a set and its making take. With a budget, bytes of labels and what depends on them are upper bounds.

    Attributes:
        units: Number of units.
        files: Number of files in the set.
        most_files: Their number if the images turn out half as large: then the set may have `images/` tars.
        image_tars: Whether it has them.
        image_bytes: Bytes of the encoded images, an estimate.
        label_bytes: Bytes of the tensors of labels; with a budget also those of the views.
        view_bytes: Bytes of the tensors of views; 0 with a budget.
        download_bytes: Bytes that a student needs: shards, row records and the labels that all rows share.
        set_bytes: Bytes of the whole set, without manifest, card and preview.
        work_bytes: Bytes of OUT.work: images as pixels and encoded, the teacher's logits of all views in half
            precision, and the stage students. Predictions and features of the source's images are not counted.
    """

    units: int
    files: int
    most_files: int
    image_tars: bool
    image_bytes: int
    label_bytes: int
    view_bytes: int
    download_bytes: int
    set_bytes: int
    work_bytes: int


@dataclass(frozen=True, kw_only=True)
class PlannedSet:
    """What determines the footprint of a set.

    Attributes:
        distiller: The method.
        plans: Its increments.
        size: Side of the images and views, pixels.
        policy: Augmentation policy of the views.
        patches: N of the stitched grid.
        codec: Codec of the labels.
        budget: A budget that is not spent yet; None: `codec` is used.
        image_format: Encoding of the images.
        teacher: The teacher, or an untrained network of its architecture.
        sample: Some real images of the source, uint8 [3,size,size] each; empty if it is not at hand.
    """

    distiller: Distiller
    plans: Sequence[Plan]
    size: int
    policy: ViewSpec
    patches: int
    codec: str
    budget: str | None
    image_format: str
    teacher: Teacher
    sample: Sequence[np.ndarray] = ()

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.plans[0].classes)

    @property
    def a_view(self) -> int:
        """Bytes of the integers of a view."""
        return layout_bytes(views_layout(self.policy, self.size, self.patches)) // self.policy.count

    @property
    def labels(self) -> LabelCost:
        """What the labels of an image cost."""
        return LabelCost.of(self.codec, self.budget, self.policy.count, self.classes, self.a_view)

    @property
    def has_shared_labels(self) -> bool:
        """Whether the set has a file of labels that all rows share; with a budget it may."""
        codec = find_codec(self.codec)
        return self.budget is not None or codec.FROM_PIXELS or bool(codec.shared_layout(1))

    @property
    def shared_label_bytes(self) -> int:
        """Bytes of the tensors of that file; 0 with a budget, which covers them."""
        codec = find_codec(self.codec)
        if self.budget is not None:
            return 0
        if not codec.FROM_PIXELS:
            return layout_bytes(codec.shared_layout(self.classes))
        state = self.teacher.network.state_dict().values()
        return sum(t.numel() * (2 if t.is_floating_point() else t.element_size()) for t in state)

    @functools.cached_property
    def shards(self) -> list[list[ShardPlan]]:
        """The shards of each increment."""
        return [
            plan_shards(
                size=self.size, rows=plan.images, first=plan.first * len(plan.classes), prefixes=plan.prefixes, key="",
            )
            for plan in self.plans
        ]  # fmt: skip

    @functools.cached_property
    def units(self) -> list[int]:
        """Number of units of each increment: the method's, and those that encode, label and pack its shards."""
        counts, known = [], 0
        made: set[str] = set()
        for plan, shards in zip(self.plans, self.shards):
            made |= {unit.id for unit in self.distiller.units(plan)}  # students of earlier stages are listed again
            counts.append(len(made) - known + 2 * len(shards) + label_units(shard.rows for shard in shards))
            known = len(made)
        counts[0] += self.has_shared_labels
        return counts

    @property
    def students(self) -> int:
        """Number of stage students."""
        return len({unit.id for plan in self.plans for unit in self.distiller.units(plan) if unit.kind == "student"})

    def footprint(self) -> Footprint:
        """Return what the set and its making take."""
        rows, views = sum(plan.images for plan in self.plans), self.policy.count
        shards = sum(map(len, self.shards))
        hook = self.distiller.real_pixels
        kind = hook(self.plans[0].config) if hook is not None else None
        image = typical_bytes(self.size, self.image_format, kind, self.sample)
        goal = BudgetGoal.parse(self.budget) if self.budget is not None else None
        view_bytes = 0 if goal is not None else views * self.a_view
        tensors = view_bytes + self.labels.bytes
        tars, smaller = TarBytes.of(rows, image, tensors), TarBytes.of(rows, image / 2, tensors)
        few = CARD_FILES + self.has_shared_labels + 2 * shards
        download = tars.shards + rows * ROW_RECORD + self.shared_label_bytes
        whole = download + tars.image_tars
        if goal is not None and goal.bytes is not None:
            download, whole = min(download, goal.bytes), min(whole, goal.bytes)
        carried = goal is None and find_codec(self.codec).FROM_PIXELS
        pixels = 3 * self.size**2 * (2 if kind == "initial" else 1)
        weights = sum(t.numel() * t.element_size() for t in self.teacher.network.state_dict().values())
        work = rows * (image + pixels + (0 if carried else views * self.classes * FLOAT16.itemsize))
        return Footprint(
            units=sum(self.units), files=few + shards * bool(tars.image_tars),
            most_files=few + shards * bool(smaller.image_tars), image_tars=bool(tars.image_tars),
            image_bytes=round(rows * image),
            label_bytes=round(rows * self.labels.bytes) + self.shared_label_bytes, view_bytes=rows * view_bytes,
            download_bytes=round(download), set_bytes=round(whole), work_bytes=round(work + self.students * weights),
        )  # fmt: skip
