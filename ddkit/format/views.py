"""A view is integers: `draw()` gives them, `apply()` makes pixels of them. Teacher and student share these two.

Pixels: permute patches -> crop `box` -> resize to S x S -> flip -> CutMix, all in uint8. The one resampler is
`torch.nn.functional.interpolate(mode="bilinear", antialias=True)` on uint8 on CPU: measured equal to the last bit with
AVX-512, AVX2 and neither. Other devices use two banded matrix products made from the same integers (`resample_banded`),
within 1 of 255 of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ddkit.core.seeds import rng
from ddkit.specs import ViewSpec

UNMIXED = 65535
CROP_TRIES = 10  # of RandomResizedCrop, before it falls back to the centre


@dataclass(frozen=True)
class Views:
    """V views of n rows as integers (docs/format.md). Optional members are None for all rows of a set, or for none.

    box: [n,V,4] top, left, height, width in pixels of the stored image; flip: [n,V] 0 or 1; partner: [n,V] position
    in the shard, 65535 = not mixed; mix_box: [n,V,4] in output pixels; mix_lam: float32 [n,V]; patches: [n,V,N].
    """

    box: np.ndarray
    flip: np.ndarray
    partner: np.ndarray | None = None
    mix_box: np.ndarray | None = None
    mix_lam: np.ndarray | None = None
    patches: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.box)

    @property
    def count(self) -> int:
        return self.box.shape[1]

    def tensors(self) -> dict[str, np.ndarray]:
        """The members that are there, by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}

    def rows(self, index: Sequence[int] | np.ndarray | slice) -> Views:
        """The views of some rows (their partners still count in the shard)."""
        return Views(**{name: array[index] for name, array in self.tensors().items()})

    def partners(self, rows: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """int64 [B]: the rows mixed in, -1 = not mixed. (Readers that join shards store int64 and -1 themselves.)"""
        assert self.partner is not None
        partner = self.partner[rows, numbers].astype(np.int64)
        return np.where(partner == UNMIXED, -1, partner) if self.partner.dtype == np.uint16 else partner

    @classmethod
    def stack(cls, parts: Sequence[Views]) -> Views:
        """Rows of several parts, one after the other."""
        names = parts[0].tensors()
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


# ------------------------------------------------------------------ integers


def draw(
    law: ViewSpec,
    *,
    seed: int,
    first: int,
    rows: int,
    height: int,
    width: int,
    size: int,
    patches: int = 1,
    groups: np.ndarray | None = None,
) -> Views:
    """The views of one shard: `law.count` for each of its rows.

    first: row number of the shard's first row; height, width: of the stored images; size: output side; all in pixels.
    patches: N of the stitched grid; groups: int [rows], partners come from the same group only (docs/format.md, mix_groups).
    Row r's integers depend on (seed, r, the shard's extent) alone, and view v does not depend on the count.
    Source: torchvision's RandomResizedCrop; CutMix, arXiv 1905.04899; RDED, arXiv 2312.03526.
    """
    small = max(height, width, size) <= 255
    dtype = np.uint8 if small else np.int16
    factor = math.isqrt(patches)
    parts = []
    members = _members(rows, groups)
    for row in range(rows):
        # One row of uniforms a view, in a fixed layout: flip, partner, lambda, mix centre (2), 10 crop tries (4 each),
        # column order, row order. Changing this layout changes every set that is made again.
        u = rng(seed, "view", first + row).random((law.count, 5 + 4 * CROP_TRIES + 2 * factor))
        tries, orders = u[:, 5 : 5 + 4 * CROP_TRIES], u[:, 5 + 4 * CROP_TRIES :]
        view: dict[str, np.ndarray] = {
            "box": crop_boxes(tries.reshape(-1, CROP_TRIES, 4), law.scale, law.ratio, height, width).astype(dtype)[
                None
            ],
            "flip": (u[:, 0] < law.flip).astype(np.uint8)[None],
        }
        if law.mix != "none":
            partner = _choose(members[row], row, u[:, 1])
            mixed = partner != UNMIXED
            lam = _beta(u[:, 2], law.mix_alpha)
            view["partner"] = partner[None]
            if law.mix == "cutmix":
                box = _mix_boxes(lam, u[:, 3], u[:, 4], size) * mixed[:, None]
                view["mix_box"] = box.astype(dtype)[None]
            else:
                view["mix_lam"] = np.where(mixed, lam, 1.0).astype(np.float32)[None]
        if law.patches == "shuffle" and patches > 1:
            columns = np.argsort(orders[:, :factor], axis=1, kind="stable")
            strips = np.argsort(orders[:, factor:], axis=1, kind="stable")
            grid = strips[:, :, None] * factor + columns[:, None, :]
            view["patches"] = grid.reshape(len(grid), -1).astype(np.uint8)[None]
        parts.append(Views(**view))
    return Views.stack(parts)


def _members(rows: int, groups: np.ndarray | None) -> list[np.ndarray]:
    """For each row, the positions it may be mixed with, its own among them (one shared array a group)."""
    if groups is None:
        return [np.arange(rows)] * rows
    by_group = {group: np.flatnonzero(groups == group) for group in np.unique(groups)}
    return [by_group[group] for group in groups]


def _choose(members: np.ndarray, row: int, u: np.ndarray) -> np.ndarray:
    """uint16: one of the members other than `row` for each uniform; 65535 where there is no other."""
    others = len(members) - 1
    if others == 0:
        return np.full(len(u), UNMIXED, np.uint16)
    pick = (u * others).astype(np.int64)
    pick += pick >= np.searchsorted(members, row)
    return members[pick].astype(np.uint16)


def _beta(u: np.ndarray, alpha: float) -> np.ndarray:
    """Beta(alpha, alpha) by its inverse distribution, so that a lambda is a function of one uniform."""
    if alpha == 1:
        return u
    from scipy.special import betaincinv

    return betaincinv(alpha, alpha, u)


def crop_boxes(
    u: np.ndarray,
    scale: tuple[float | np.ndarray, float | np.ndarray],
    ratio: tuple[float, float],
    height: int,
    width: int,
) -> np.ndarray:
    """Uniforms [V,10,4] -> boxes int64 [V,4]: the first of ten tries that fits, else the centre (torchvision's law).

    scale: lowest and highest share of the area, each one number or [V,1]; ratio: width over height; pixels.
    """
    area = height * width * (scale[0] + (scale[1] - scale[0]) * u[..., 0])
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = np.exp(low + (high - low) * u[..., 1])
    w = np.rint(np.sqrt(area * aspect)).astype(np.int64)
    h = np.rint(np.sqrt(area / aspect)).astype(np.int64)
    fits = np.asarray((w > 0) & (w <= width) & (h > 0) & (h <= height))
    top = np.floor(u[..., 2] * (height - h + 1)).astype(np.int64)
    left = np.floor(u[..., 3] * (width - w + 1)).astype(np.int64)
    boxes = np.stack([top, left, h, w], axis=-1)
    first = np.argmax(fits, axis=1)
    chosen = boxes[np.arange(len(boxes)), first]
    return np.where(np.max(fits, axis=1, keepdims=True), chosen, _centre_box(ratio, height, width))


def _centre_box(ratio: tuple[float, float], height: int, width: int) -> np.ndarray:
    """The largest centred box whose aspect ratio the law allows."""
    w, h = width, height
    if width / height < ratio[0]:
        h = min(height, max(1, round(width / ratio[0])))
    elif width / height > ratio[1]:
        w = min(width, max(1, round(height * ratio[1])))
    return np.array([(height - h) // 2, (width - w) // 2, h, w])


def _mix_boxes(lam: np.ndarray, centre_y: np.ndarray, centre_x: np.ndarray, size: int) -> np.ndarray:
    """CutMix's regions [V,4]: side int(S*sqrt(1-lambda)), centre uniform, clipped to the image; 0 where empty."""
    side = (size * np.sqrt(1 - lam)).astype(np.int64)
    y, x = (centre_y * size).astype(np.int64), (centre_x * size).astype(np.int64)
    top, left = np.clip(y - side // 2, 0, size), np.clip(x - side // 2, 0, size)
    bottom, right = np.clip(y + side // 2, 0, size), np.clip(x + side // 2, 0, size)
    boxes = np.stack([top, left, bottom - top, right - left], axis=-1)
    return boxes * ((bottom > top) & (right > left))[:, None]


# ------------------------------------------------------------------ pixels


def resample(image: Tensor, box: Sequence[int] | np.ndarray, size: int) -> Tensor:
    """Crop `box` (top, left, height, width) of a uint8 [3,H,W] CPU image and resize it: uint8 [3,size,size]."""
    top, left, height, width = (int(v) for v in box)
    crop = image[:, top : top + height, left : left + width]
    if height == width == size:
        return crop.clone()  # the resampler is the identity here (tested), at a fiftieth of the time
    return interpolate(crop[None], (size, size), mode="bilinear", antialias=True, align_corners=False)[0]


def resample_banded(images: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Crop and resize a batch on any device: float [B,3,H,W], int boxes [B,4] -> float [B,3,size,size], differentiable.

    The antialiased triangle filter as two banded matrices, so that the backward pass is two matrix products as well,
    which are deterministic where the backward of interpolation is not.
    """
    rows = resize_matrices(boxes[:, 0], boxes[:, 2], images.shape[2], size, images.dtype)
    columns = resize_matrices(boxes[:, 1], boxes[:, 3], images.shape[3], size, images.dtype)
    return torch.einsum("bsh,bchw,btw->bcst", rows, images, columns)


def resize_matrices(
    start: Tensor, length: Tensor, extent: int, size: int, dtype: torch.dtype, antialias: bool = True
) -> Tensor:
    """[B,size,extent]: the bilinear resize of `length` pixels from `start` to `size` pixels, as matrices.

    antialias: the triangle grows with the reduction, as in `resample`; without, it always spans two pixels.
    """
    ratio = (length.to(dtype) / size)[:, None, None]
    support = ratio.clamp(min=1) if antialias else torch.ones_like(ratio)
    out = torch.arange(size, device=start.device, dtype=dtype)[None, :, None]
    centre = (out + 0.5) * ratio
    pixel = torch.arange(extent, device=start.device, dtype=dtype)[None, None, :] - start.to(dtype)[:, None, None]
    weight = (1 - ((pixel + 0.5 - centre) / support).abs()).clamp(min=0)
    inside = (pixel >= 0) & (pixel < length.to(dtype)[:, None, None])
    weight = weight * inside
    return weight / weight.sum(-1, keepdim=True)


def unshuffle(image: Tensor, order: Sequence[int] | np.ndarray) -> Tensor:
    """Rearrange a [..., H, W] image of N patches: patch j of the result is patch order[j] of `image`."""
    factor = math.isqrt(len(order))
    h, w = image.shape[-2] // factor, image.shape[-1] // factor
    result = torch.empty_like(image)
    for j, p in enumerate(int(v) for v in order):
        (r, c), (pr, pc) = divmod(j, factor), divmod(p, factor)
        source = image[..., pr * h : (pr + 1) * h, pc * w : (pc + 1) * w]
        result[..., r * h : (r + 1) * h, c * w : (c + 1) * w] = source
    return result


def apply(images: Tensor, views: Views, rows: np.ndarray, numbers: np.ndarray, size: int) -> Tensor:
    """The pixels of some views: uint8 [B,3,size,size] on the device of `images`, CutMix included, Mixup not.

    images: uint8 [n,3,H,W], the shard's images; views: of the same n rows; rows, numbers: int [B], which row and which
    of its views. A CutMix partner shows its own unmixed view of the same number.
    """
    pixels = _unmixed(images, views, rows, numbers, size)
    if views.mix_box is None or views.partner is None:
        return pixels
    partner = views.partners(rows, numbers)
    region = views.mix_box[rows, numbers].astype(np.int64)
    mixed = np.flatnonzero((partner >= 0) & (region[:, 2] > 0) & (region[:, 3] > 0))
    if len(mixed):
        other = _unmixed(images, views, partner[mixed], numbers[mixed], size)
        if pixels.device.type == "cpu":
            for i, source in zip(mixed, other):
                t, left, h, w = region[i]
                pixels[i, :, t : t + h, left : left + w] = source[:, t : t + h, left : left + w]
        else:
            box = torch.as_tensor(region[mixed], device=pixels.device)
            line = torch.arange(size, device=pixels.device)
            inside = _between(line, box[:, 0], box[:, 2])[:, :, None] & _between(line, box[:, 1], box[:, 3])[:, None, :]
            index = torch.as_tensor(mixed, device=pixels.device)
            pixels[index] = torch.where(inside[:, None], other, pixels[index])
    return pixels


def _between(line: Tensor, start: Tensor, length: Tensor) -> Tensor:
    return (line >= start[:, None]) & (line < (start + length)[:, None])


def _unmixed(images: Tensor, views: Views, rows: np.ndarray, numbers: np.ndarray, size: int) -> Tensor:
    """Patches, crop, resize, flip: uint8 [B,3,size,size]."""
    boxes, flips = views.box[rows, numbers], views.flip[rows, numbers]
    orders = None if views.patches is None else views.patches[rows, numbers]
    if images.device.type == "cpu":
        pixels = torch.empty((len(rows), 3, size, size), dtype=torch.uint8)
        for i, row in enumerate(rows):
            image = images[row] if orders is None else unshuffle(images[row], orders[i])
            view = resample(image, boxes[i], size)
            pixels[i] = view.flip(-1) if flips[i] else view
        return pixels
    batch = images[torch.as_tensor(rows, device=images.device)]
    if orders is not None:
        for order in np.unique(orders, axis=0):
            chosen = torch.as_tensor(np.flatnonzero((orders == order).all(axis=1)), device=images.device)
            batch[chosen] = unshuffle(batch[chosen], order)
    boxes_device = torch.as_tensor(boxes.astype(np.int64), device=images.device)
    pixels = resample_banded(batch.float(), boxes_device, size).round_().clamp_(0, 255).to(torch.uint8)
    flipped = torch.as_tensor(flips.astype(bool), device=images.device)[:, None, None, None]
    return torch.where(flipped, pixels.flip(-1), pixels)


def network_input(
    images: Tensor,
    views: Views,
    rows: np.ndarray,
    numbers: np.ndarray,
    *,
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> Tensor:
    """What a network sees of some views: float32 [B,3,size,size], normalised, CutMix or Mixup included.

    mean, std: of the teacher, per channel, for pixels in [0, 1]. Arguments else as `apply`.
    """
    pixels = normalise(apply(images, views, rows, numbers, size), mean, std)
    if views.mix_lam is not None and views.partner is not None:
        partner = views.partners(rows, numbers)
        mixed = np.flatnonzero(partner >= 0)
        if len(mixed):
            other = normalise(_unmixed(images, views, partner[mixed], numbers[mixed], size), mean, std)
            lam = torch.as_tensor(views.mix_lam[rows, numbers][mixed], device=pixels.device)[:, None, None, None]
            index = torch.as_tensor(mixed, device=pixels.device)
            pixels[index] = lam * pixels[index] + (1 - lam) * other
    return pixels


def normalise(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8 [B,3,H,W] -> float32: / 255, minus mean, over std."""
    shape = (1, 3, 1, 1)
    mean_t = torch.tensor(mean, dtype=torch.float32, device=pixels.device).view(shape)
    std_t = torch.tensor(std, dtype=torch.float32, device=pixels.device).view(shape)
    return (pixels.float() / 255 - mean_t) / std_t
