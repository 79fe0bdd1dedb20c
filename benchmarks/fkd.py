"""Relabels images as SRe2L, CDA and CUDD do: writes the layout of FKD, rebuilt from its description."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import BatchSampler, RandomSampler
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms import functional as pil

from ddkit.teachers.teacher import Teacher


@dataclass
class Published:
    """What one file says of one image: integers, and its logits as stored."""

    box: tuple[int, int, int, int]
    flip: bool
    partner: int  # number of the image
    region: tuple[int, int, int, int]  # top, left, height, width; zeros: none
    weight: float
    logits: np.ndarray


def relabel(
    root: Path,
    images: list[bytes],
    teacher: Teacher,
    *,
    epochs: int,
    batch: int,
    mix: str = "cutmix",
    seed: int = 42,
    half: bool = True,
    half_crops: bool = False,
    scale: tuple[float, float] = (0.08, 1.0),
) -> dict[tuple[int, int], Published]:
    """Write `root`/epoch_E/batch_B.tar; returns what they say by (number of the image, epoch).

    images: encoded, in the order of class folders and names.
    """
    generator, draws = torch.Generator(), np.random.default_rng(seed)
    generator.manual_seed(seed)
    torch.manual_seed(seed)
    sampler = BatchSampler(RandomSampler(images, generator=generator), batch_size=batch, drop_last=False)
    found = {}
    for epoch in range(epochs):
        (root / f"epoch_{epoch}").mkdir(parents=True)
        for number, chosen in enumerate(sampler):
            views, boxes, crops, flips = [], [], [], []
            for i in chosen:
                image = Image.open(io.BytesIO(images[i])).convert("RGB")
                box = RandomResizedCrop.get_params(image, list(scale), [3 / 4, 4 / 3])
                view = pil.resized_crop(image, *box, [teacher.spec.image_size] * 2)
                flips.append(bool(torch.rand(1) < 0.5))
                views.append(pil.to_tensor(pil.hflip(view) if flips[-1] else view))
                boxes.append(box)
                crops.append(torch.tensor(box) / torch.tensor([image.height, image.width] * 2))
            inputs = pil.normalize(torch.stack(views), teacher.spec.mean, teacher.spec.std)
            partners, weight, corners = _mixing(mix, len(chosen), teacher.spec.image_size, draws)
            if mix == "cutmix":
                x1, y1, x2, y2 = corners
                inputs[:, :, x1:x2, y1:y2] = inputs[partners, :, x1:x2, y1:y2]
            elif mix == "mixup":
                inputs = weight * inputs + (1 - weight) * inputs[partners]
            logits = teacher.logits(inputs)
            logits = logits.half() if half else logits
            stacked = torch.stack(crops).half() if half_crops else torch.stack(crops)
            parts = [stacked, torch.tensor(flips), partners, weight, corners, logits]
            torch.save(parts, root / f"epoch_{epoch}" / f"batch_{number}.tar")
            for k, i in enumerate(chosen):
                x1, y1, x2, y2 = (0, 0, 0, 0) if corners is None else (int(c) for c in corners)
                region = (x1, y1, x2 - x1, y2 - y1) if x2 > x1 and y2 > y1 else (0, 0, 0, 0)
                partner = i if partners is None else chosen[int(partners[k])]
                found[i, epoch] = Published(boxes[k], flips[k], partner, region, weight or 1.0, logits[k].numpy())
    return found


def _mixing(mix: str, count: int, size: int, draws: np.random.Generator):
    """(permutation, weight, corners) of a batch, with the types that those trainings store."""
    if mix == "none":
        return None, None, None
    partners = torch.randperm(count)
    weight = float(draws.beta(1.0, 1.0))
    if mix == "mixup":
        return partners, weight, None
    side, x, y = int(size * np.sqrt(1 - weight)), draws.integers(size), draws.integers(size)
    corners = [np.clip(c, 0, size) for c in (x - side // 2, y - side // 2, x + side // 2, y + side // 2)]
    return partners, weight, corners
