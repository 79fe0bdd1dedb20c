"""The pixels of views: crop, resize, flip, CutMix and Mixup of stored images, as the stored integers specify.

Labelling and replay both use this module, so teacher and student see the same pixels. On a CPU images are resized with
torch's antialiased bilinear interpolation of uint8; on other devices the same filter is applied as two banded matrix
products, whose result differs by at most 1/255.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ddkit.core.device import each_on_one_thread
from ddkit.format.views import Views

LARGE = 2**20  # output pixels of a batch from which on several threads are used


def resample(image: Tensor, box: Sequence[int] | np.ndarray, size: int) -> Tensor:
    """Crop an image and resize the crop: uint8 [3,size,size].

    Args:
        image: uint8 [3,H,W] on a CPU.
        box: Top, left, height, width in pixels.
        size: Side of the result in pixels.
    """
    top, left, height, width = (int(v) for v in box)
    crop = image[:, top : top + height, left : left + width]
    if height == width == size:
        return crop.clone()  # resampling would be the identity (tested); this is 50 times faster
    return interpolate(crop[None], (size, size), mode="bilinear", antialias=True, align_corners=False)[0]


def resample_banded(images: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Crop and resize a batch on any device, differentiably: float [B,3,size,size].

    The antialiased triangle filter is applied as two banded matrices. The backward pass then consists of matrix
    products too, which are deterministic; the backward pass of interpolation is not.

    Args:
        images: float [B,3,H,W].
        boxes: int [B,4]: top, left, height, width in pixels.
        size: Side of the result in pixels.
    """
    rows = resize_matrices(boxes[:, 0], boxes[:, 2], images.shape[2], size, images.dtype)
    columns = resize_matrices(boxes[:, 1], boxes[:, 3], images.shape[3], size, images.dtype)
    return torch.einsum("bsh,bchw,btw->bcst", rows, images, columns)


def resize_matrices(
    start: Tensor, length: Tensor, extent: int, size: int, dtype: torch.dtype, antialias: bool = True
) -> Tensor:
    """Return matrices [B,size,extent] that crop a line of pixels and resize the crop bilinearly.

    Args:
        start: First pixel of each crop, int [B].
        length: Pixels of each crop, int [B].
        extent: Pixels of the line.
        size: Pixels of the result.
        dtype: Type of the matrices.
        antialias: Widen the triangle filter when reducing, as `resample` does; False: it always spans two pixels.
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
    """Permute the patches of an image: patch j of the result is patch order[j] of `image`.

    Args:
        image: [..., H, W], a square grid of N patches.
        order: Permutation of 0 to N - 1.
    """
    factor = math.isqrt(len(order))
    h, w = image.shape[-2] // factor, image.shape[-1] // factor
    result = torch.empty_like(image)
    for j, p in enumerate(int(v) for v in order):
        (r, c), (pr, pc) = divmod(j, factor), divmod(p, factor)
        source = image[..., pr * h : (pr + 1) * h, pc * w : (pc + 1) * w]
        result[..., r * h : (r + 1) * h, c * w : (c + 1) * w] = source
    return result


def apply(images: Tensor, views: Views, rows: np.ndarray, view_indices: np.ndarray, size: int) -> Tensor:
    """Compute the pixels of some views, with CutMix but without Mixup: uint8 [B,3,size,size] on the device of `images`.

    A CutMix region shows the partner's own unmixed view with the same view index.

    Args:
        images: The stored images, uint8 [n,3,H,W].
        views: Views of the same n rows.
        rows: Positions of the rows to use, int [B].
        view_indices: View index of each of them, int [B].
        size: Side of a view in pixels.
    """
    pixels = _unmixed(images, views, rows, view_indices, size)
    if views.mix_box is None or views.partner is None:
        return pixels
    partner = views.partners(rows, view_indices)
    region = views.mix_box[rows, view_indices].astype(np.int64)
    mixed = np.flatnonzero((partner >= 0) & (region[:, 2] > 0) & (region[:, 3] > 0))
    if len(mixed):
        other = _unmixed(images, views, partner[mixed], view_indices[mixed], size)
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


def _unmixed(images: Tensor, views: Views, rows: np.ndarray, view_indices: np.ndarray, size: int) -> Tensor:
    """Apply patch order, crop, resize and flip: uint8 [B,3,size,size]."""
    boxes, flips = views.box[rows, view_indices], views.flip[rows, view_indices]
    orders = None if views.patches is None else views.patches[rows, view_indices]
    if images.device.type == "cpu":
        pixels = torch.empty((len(rows), 3, size, size), dtype=torch.uint8)

        def make(i: int) -> None:
            image = images[rows[i]] if orders is None else unshuffle(images[rows[i]], orders[i])
            view = resample(image, boxes[i], size)
            pixels[i] = view.flip(-1) if flips[i] else view

        each_on_one_thread(make, len(rows), large=len(rows) * size * size > LARGE)
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


@dataclass(frozen=True)
class ViewPixels:
    """The pixels of some views before normalisation.

    Attributes:
        pixels: uint8 [B,3,S,S], with CutMix.
        mixed: Indices of the views that Mixup applies to, int [M].
        partners: Unmixed views of their partners, uint8 [M,3,S,S].
        weights: Weights of the views' own pixels, float32 [M].
    """

    pixels: Tensor
    mixed: np.ndarray
    partners: Tensor | None = None
    weights: np.ndarray | None = None

    def network_input(self, mean: Sequence[float], std: Sequence[float]) -> Tensor:
        """Return the network input: float32 [B,3,S,S], normalised, with Mixup.

        Args:
            mean: Mean per channel of the teacher's normalisation, for pixels in [0, 1].
            std: Standard deviation per channel of the teacher's normalisation.
        """
        inputs = normalise(self.pixels, mean, std)
        if self.partners is not None:
            other = normalise(self.partners, mean, std)
            lam = torch.as_tensor(self.weights, device=inputs.device)[:, None, None, None]
            index = torch.as_tensor(self.mixed, device=inputs.device)
            inputs[index] = lam * inputs[index] + (1 - lam) * other
        return inputs


def view_pixels(images: Tensor, views: Views, rows: np.ndarray, view_indices: np.ndarray, size: int) -> ViewPixels:
    """Compute the pixels of some views and those of their Mixup partners.

    Args:
        images, views, rows, view_indices, size: As in `apply`.
    """
    pixels = apply(images, views, rows, view_indices, size)
    if views.mix_lam is None or views.partner is None:
        return ViewPixels(pixels, np.array([], int))
    partner = views.partners(rows, view_indices)
    mixed = np.flatnonzero(partner >= 0)
    if not len(mixed):
        return ViewPixels(pixels, mixed)
    other = _unmixed(images, views, partner[mixed], view_indices[mixed], size)
    return ViewPixels(pixels, mixed, other, views.mix_lam[rows, view_indices][mixed])


def network_input(
    images: Tensor,
    views: Views,
    rows: np.ndarray,
    view_indices: np.ndarray,
    *,
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> Tensor:
    """Compute the network input for some views: float32 [B,3,size,size], normalised, with CutMix or Mixup.

    Args:
        images, views, rows, view_indices, size: As in `apply`.
        mean: Mean per channel of the teacher's normalisation, for pixels in [0, 1].
        std: Standard deviation per channel of the teacher's normalisation.
    """
    return view_pixels(images, views, rows, view_indices, size).network_input(mean, std)


def normalise(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Normalise uint8 images to float32: divide by 255, subtract the mean, divide by the standard deviation.

    Args:
        pixels: uint8 [B,3,H,W].
        mean: Mean per channel, for pixels in [0, 1].
        std: Standard deviation per channel.
    """
    shape = (1, 3, 1, 1)
    mean_t = torch.tensor(mean, dtype=torch.float32, device=pixels.device).view(shape)
    std_t = torch.tensor(std, dtype=torch.float32, device=pixels.device).view(shape)
    return (pixels.float() / 255 - mean_t) / std_t
