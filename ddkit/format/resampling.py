"""Resampling of stored images: crop, resize, patch order.

On a CPU images are resized with torch's antialiased bilinear interpolation of uint8; on other devices the same filter
is applied as two banded matrix products, whose result differs by at most 1/255.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate


def stack_images(images: Sequence[np.ndarray]) -> Tensor:
    """Stack images as uint8 [n,3,H,W] with the three values of a pixel side by side in memory (channels last).

    Args:
        images: uint8 [3,H,W] each.
    """
    first = images[0]
    stacked = np.empty((len(images), *first.shape[1:], len(first)), np.uint8)
    for i, image in enumerate(images):
        stacked[i] = image.transpose(1, 2, 0)
    return torch.from_numpy(stacked).permute(0, 3, 1, 2)


def resample(image: Tensor, box: Sequence[int] | np.ndarray, size: int) -> Tensor:
    """Crop an image and resize the crop: uint8 [3,size,size].

    Args:
        image: uint8 [3,H,W] on a CPU.
        box: Top, left, height, width in pixels.
        size: Side of the result in pixels.
    """
    return torch.from_numpy(resample_array(image.permute(1, 2, 0).numpy(), box, size)).permute(2, 0, 1)


def resample_array(image: np.ndarray, box: Sequence[int] | np.ndarray, size: int) -> np.ndarray:
    """As `resample`, for uint8 [H,W,3]; returns [size,size,3]."""
    top, left, height, width = (int(v) for v in box)
    crop = image[top : top + height, left : left + width].copy()  # contiguous: torch would convert it twice
    if height == width == size:
        return crop  # resampling would be the identity (tested); this is 50 times faster
    batch = torch.from_numpy(crop).permute(2, 0, 1)[None]
    pixels = interpolate(batch, (size, size), mode="bilinear", antialias=True, align_corners=False)
    found: np.ndarray = pixels[0].permute(1, 2, 0).numpy()
    return found


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


Pixels = TypeVar("Pixels", Tensor, np.ndarray)


def unshuffle(image: Pixels, order: Sequence[int] | np.ndarray) -> Pixels:
    """Permute the patches of an image: patch j of the result is patch order[j] of `image`.

    Args:
        image: [..., H, W], a square grid of N patches.
        order: Permutation of 0 to N - 1.
    """
    factor = math.isqrt(len(order))
    h, w = image.shape[-2] // factor, image.shape[-1] // factor
    result = torch.empty_like(image) if isinstance(image, Tensor) else np.empty_like(image)
    for j, p in enumerate(int(v) for v in order):
        (r, c), (pr, pc) = divmod(j, factor), divmod(p, factor)
        source = image[..., pr * h : (pr + 1) * h, pc * w : (pc + 1) * w]
        result[..., r * h : (r + 1) * h, c * w : (c + 1) * w] = source
    return result
