"""Components of RDED: crops of real images, their scores under the teacher, and stitching of the best ones.

Source: RDED, arXiv 2312.03526, sections 4.2-4.3, and the authors' scripts where they differ (docs/methods.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, pad

from ddkit.core.seeds import rng
from ddkit.format.entries import Origin
from ddkit.format.resampling import resample
from ddkit.format.views import draw
from ddkit.specs import ViewSpec
from ddkit.synthesis.interface import Context, Synthetic
from ddkit.synthesis.settings import Patches

if TYPE_CHECKING:
    from ddkit.sources.images import Source
    from ddkit.teachers.teacher import Teacher

CROP_POLICY = ViewSpec(scale=(0.08, 1.0), ratio=(1.0, 1.0), flip=0.0, mix="none")
BATCH = 100  # patches per teacher pass; fixed, because scores depend on it in the last bits


@dataclass(frozen=True)
class Candidate:
    """One crop of one image.

    Attributes:
        image: Position of the image in the source.
        crop: Number of the crop.
        loss: Cross-entropy under the teacher, nats.
    """

    image: int
    crop: int
    loss: float


def candidate_boxes(source: Source, image: int, crops: int, seed: int, height: int, width: int) -> np.ndarray:
    """Draw square random crops of an image that cover 0.08 to 1 of its area.

    Args:
        source: The source.
        image: Position of the image in the source.
        crops: Number of crops. Crop k does not depend on it.
        seed: Seed of the run.
        height: Height of the image, pixels.
        width: Width of the image, pixels.

    Returns:
        Boxes (top, left, height, width), int64 [crops,4].
    """
    policy = ViewSpec(**{**CROP_POLICY.__dict__, "count": crops})
    key = int(rng(seed, "rded-crops").integers(2**62))
    row = int(source.rows[image])
    found: np.ndarray = (
        draw(policy, seed=key, first=row, rows=1, height=height, width=width, size=1).box[0].astype(np.int64)
    )
    return found


def cut(source: Source, image: int, numbers: list[int], seed: int, side: int) -> list[Tensor]:
    """Cut crops from an image at full resolution and resize them.

    Args:
        source: The source.
        image: Position of the image in the source.
        numbers: Numbers of the crops.
        seed: Seed of the run.
        side: Side of the results, pixels.

    Returns:
        One uint8 [3,side,side] for each number.
    """
    pixels = torch.from_numpy(source.read(image))
    boxes = candidate_boxes(source, image, max(numbers) + 1, seed, pixels.shape[1], pixels.shape[2])
    return [resample(pixels, boxes[k], side) for k in numbers]


def score(patches: Tensor, label: int, teacher: Teacher, size: int) -> np.ndarray:
    """Compute the teacher's cross-entropy of each patch; a lower one is more realistic.

    Args:
        patches: uint8 [n,3,side,side]. After normalisation each is placed in the centre of a canvas of zeros.
        label: The class.
        teacher: The teacher.
        size: Side of the canvas, pixels.

    Returns:
        Nats, float32 [n].
    """
    border = size - patches.shape[-1]
    losses = []
    for start in range(0, len(patches), BATCH):
        inputs = teacher.normalise(patches[start : start + BATCH])
        inputs = pad(inputs, (border // 2, border - border // 2) * 2)
        logits = teacher.logits(inputs)
        target = torch.full((len(logits),), label, device=logits.device)
        losses.append(cross_entropy(logits, target, reduction="none").cpu().numpy())
    return np.concatenate(losses)


def best_crops(
    source: Source,
    images: np.ndarray,
    label: int,
    teacher: Teacher,
    *,
    crops: int,
    keep: int,
    seed: int,
    size: int,
    side: int,
) -> list[Candidate]:
    """Return the crops with the lowest loss of each image, all sorted by loss, then image, then crop.

    Args:
        source: The source.
        images: Positions of the images in the source.
        label: Their class.
        teacher: The teacher that scores the crops.
        crops: Random crops per image.
        keep: Crops to return per image.
        seed: Seed of the run.
        size: Side of the teacher's input, pixels.
        side: Side of the patches, pixels.
    """
    found = []
    group = max(1, BATCH // crops)
    for start in range(0, len(images), group):
        members = images[start : start + group]
        patches = torch.stack(
            [patch for image in members for patch in cut(source, int(image), list(range(crops)), seed, side)]
        )
        losses = score(patches, label, teacher, size).reshape(len(members), crops)
        for image, mine in zip(members, losses):
            order = np.argsort(mine, kind="stable")[:keep]
            found += [Candidate(int(image), int(k), float(mine[k])) for k in order]
    return sorted(found, key=lambda c: (c.loss, c.image, c.crop))


def stitch(patches: list[Tensor], factor: int) -> Tensor:
    """Stitch factor² patches, given row by row, into one image.

    Args:
        patches: uint8 [3,h,w] each.
        factor: Patches per side.

    Returns:
        uint8 [3,factor*h,factor*w].
    """
    rows = [torch.cat(patches[r * factor : (r + 1) * factor], dim=2) for r in range(factor)]
    return torch.cat(rows, dim=1)


def pool_and_keep(settings: Patches, images: int, ipc: int) -> tuple[int, int]:
    """Return the number of images in the pool of a class and of crops to keep of each.

    Args:
        settings: Settings of the patches.
        images: Number of images of the class.
        ipc: Number of images to make.
    """
    needed = settings.factor**2 * ipc
    pool = min(images, max(settings.pool, math.ceil(1.5 * needed)))
    return pool, math.ceil(needed / max(pool, 1))


def stitched(
    context: Context, settings: Patches, label: int, pool: np.ndarray, keep: int, ranks: Sequence[int]
) -> Iterator[Synthetic]:
    """Stitch images of a class from the best crops of a pool, leaving out crops that earlier prefixes used.

    Args:
        context: Context of the unit.
        settings: Settings of the patches.
        label: The class.
        pool: Positions of the pool's images in the source.
        keep: Crops of each image that may be used.
        ranks: IPC ranks of the images. Image i of n = len(ranks) has the crops ranked i, n+i, 2n+i, ... by loss,
            or of random ones among the best if `settings.stitch` is `random`.
    """
    side, n = context.size // settings.factor, settings.factor**2
    ranked = best_crops(
        context.source, pool, label, context.teacher,
        crops=settings.crops, keep=keep, seed=context.seed, size=context.size, side=side,
    )  # fmt: skip
    used = {
        (row, crop) for origin in context.earlier.get(label, []) for row, crop in zip(origin.rows, origin.crops or ())
    }
    rows = context.source.rows
    chosen = [c for c in ranked if (int(rows[c.image]), c.crop) not in used][: n * len(ranks)]
    if settings.stitch == "random":
        order = context.rng("rded-stitch", label, ranks[0]).permutation(len(chosen))
        chosen = [chosen[i] for i in order]
    for i, rank in enumerate(ranks):
        mine = chosen[i :: len(ranks)]
        pieces = [cut(context.source, c.image, [c.crop], context.seed, side)[0] for c in mine]
        yield Synthetic(
            pixels=np.ascontiguousarray(stitch(pieces, settings.factor).numpy()),
            label=label,
            rank=rank,
            origin=Origin(
                kind="patches",
                rows=tuple(int(rows[c.image]) for c in mine),
                crops=tuple(c.crop for c in mine),
            ),
            patches=n,
        )
