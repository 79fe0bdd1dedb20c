"""Image operations that the corruptions share. They treat every image of a batch independently of the others.

The public implementation of ImageNet-C uses OpenCV and scikit-image. Where these round or treat borders in a particular
way, the functions here do the same, because the corrupted values are truncated to bytes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.signal import fftconvolve

Pixels = NDArray[np.uint8]  # [n,H,W,3]
Array = NDArray[Any]


def unit_range(pixels: Pixels) -> Array:
    """Return bytes as float64 in [0, 1]."""
    return pixels / 255.0


def to_bytes_range(values: Array) -> Array:
    """Return values clipped to [0, 1] and scaled to [0, 255], of the same dtype."""
    return np.clip(values, 0, 1) * 255


def smoothed(values: Array, sigma: float | tuple[float, float], mode: str = "nearest", truncate: float = 4.0) -> Array:
    """Return images smoothed by a Gaussian along height and width, of the same dtype.

    Args:
        values: [n,H,W] or [n,H,W,C], float.
        sigma: Standard deviation, pixels; or one for the height and one for the width.
        mode: Border, as in `scipy.ndimage.gaussian_filter`.
        truncate: The kernel ends at this many standard deviations.
    """
    found: Array = gaussian_filter(values, sigma, mode=mode, truncate=truncate, axes=(1, 2))
    return found


def disk(radius: float, sigma: float) -> NDArray[np.float32]:
    """Return the kernel of a defocused lens: a disk of sum 1, anti-aliased by a small Gaussian, float32 [k,k].

    Args:
        radius: Radius of the disk, pixels. The kernel has at least 17 x 17 pixels.
        sigma: Standard deviation of the Gaussian, pixels; it is 3 pixels wide, 5 for a radius above 8.
    """
    reach = int(max(8, radius))
    squares = np.arange(-reach, reach + 1) ** 2
    kernel = (squares[:, None] + squares[None] <= radius**2).astype(np.float32)
    kernel /= kernel.sum()
    half = 1 if radius <= 8 else 2
    weights = np.exp(-(np.arange(-half, half + 1) ** 2) / (2 * sigma**2))
    weights = (weights / weights.sum()).astype(np.float32)
    for axis in (1, 0):
        widths = [(half, half) if a == axis else (0, 0) for a in (0, 1)]
        padded = np.pad(kernel, widths, mode="reflect")
        size = kernel.shape[axis]
        kernel = sum(w * np.take(padded, range(i, i + size), axis) for i, w in enumerate(weights))
    return kernel


def convolved(values: Array, kernel: Array) -> Array:
    """Return images convolved with a symmetric kernel, mirrored at the border without its last pixel.

    Args:
        values: float64 [n,H,W,C].
        kernel: [k,k], k odd.
    """
    half = len(kernel) // 2
    kernel = kernel[..., None].astype(values.dtype)
    padded = np.pad(values, ((0, 0), (half, half), (half, half), (0, 0)), mode="reflect")
    return np.stack([fftconvolve(one, kernel, mode="valid", axes=(0, 1)) for one in padded])


def motion_blurred(image: Array, radius: int, sigma: float, angle: float) -> Array:
    """Return an image blurred along a line: the sum of shifted copies with the weights of half a Gaussian, float64.

    Args:
        image: [H,W] or [H,W,C].
        radius: The line has 2 * radius + 1 pixels.
        sigma: Standard deviation of the Gaussian, pixels.
        angle: Direction, degrees. Copies that would be shifted beyond the image end the sum.
    """
    height, width = image.shape[:2]
    length = 2 * radius + 1
    weights = np.exp(-(np.arange(length) ** 2) / (2 * sigma**2)) / (np.sqrt(2 * np.pi) * sigma)
    weights /= np.sum(weights)
    down, right = length * np.sin(np.deg2rad(angle)), length * np.cos(np.deg2rad(angle))
    norm = math.hypot(down, right)
    padded = np.pad(image, [(length, length)] * 2 + [(0, 0)] * (image.ndim - 2), mode="edge")
    blurred = np.zeros(image.shape)
    for i, weight in enumerate(weights):
        dy, dx = -math.ceil(i * down / norm - 0.5), -math.ceil(i * right / norm - 0.5)
        if abs(dy) >= height or abs(dx) >= width:
            break
        blurred += weight * padded[length - dy : length - dy + height, length - dx : length - dx + width]
    return blurred


def zoomed(values: Array, factor: float) -> Array:
    """Return the centre of images, enlarged to at least their size by linear interpolation, of the same dtype.

    Args:
        values: float [n,H,W,C].
        factor: Factor of the enlargement, at least 1.

    Returns:
        [n,H',W',C], H' >= H and W' >= W: whole pixels of the crop are enlarged. Equals `scipy.ndimage.zoom` of order 1.
    """
    result = values
    for axis in (1, 2):
        side = values.shape[axis]
        crop = math.ceil(side / factor)
        size = round(crop * factor)
        places = np.arange(size) * ((crop - 1) / max(size - 1, 1))
        low = np.minimum(places.astype(np.int64), crop - 1)
        high = np.minimum(low + 1, crop - 1)
        shape = (-1,) + (1,) * (values.ndim - 1 - axis)
        inside = places <= crop - 1  # a place that rounding moves beyond the last pixel counts as outside, which is 0
        weight = (places - low).reshape(shape)
        start = (side - crop) // 2
        result = np.take(result, start + low, axis) * ((1 - weight) * inside.reshape(shape)) + np.take(
            result, start + high, axis
        ) * (weight * inside.reshape(shape))
    return result.astype(values.dtype)


def to_hsv(values: Array) -> tuple[Array, Array, Array]:
    """Return hue, saturation and value, each in [0, 1], float64 [n,H,W].

    Args:
        values: Red, green and blue in [0, 1], float64 [n,H,W,3].
    """
    red, green, blue = np.moveaxis(values, -1, 0)
    value = values.max(-1)
    chroma = value - values.min(-1)
    grey = chroma == 0
    divisor = np.where(grey, 1, chroma)
    sector = np.select(
        [blue == value, green == value],
        [4 + (red - green) / divisor, 2 + (blue - red) / divisor],
        (green - blue) / divisor,
    )
    hue = np.where(grey, 0, (sector / 6) % 1)
    saturation = np.where(grey, 0, chroma / np.where(grey, 1, value))
    return hue, saturation, value


def from_hsv(hue: Array, saturation: Array, value: Array) -> Array:
    """Return red, green and blue, float64 [n,H,W,3].

    Args:
        hue, saturation, value: In [0, 1], float64 [n,H,W].
    """
    sector = np.floor(hue * 6)
    rest = hue * 6 - sector
    low = value * (1 - saturation)
    falling = value * (1 - rest * saturation)
    rising = value * (1 - (1 - rest) * saturation)
    which = sector.astype(np.uint8) % 6
    return np.stack(
        [
            np.choose(which, (value, falling, low, low, rising, value)),
            np.choose(which, (rising, value, value, falling, low, low)),
            np.choose(which, (low, low, rising, value, value, falling)),
        ],
        axis=-1,
    )
