"""Corruptions by blur: Gaussian, defocus, glass, motion and zoom blur."""

from __future__ import annotations

import numpy as np

from ddkit.evaluation.corruptions.filters import (
    Array,
    Pixels,
    convolved,
    disk,
    motion_blurred,
    smoothed,
    to_bytes_range,
    unit_range,
    zoomed,
)
from ddkit.evaluation.corruptions.noise import Generators
from ddkit.evaluation.corruptions.tables import Strength


def gaussian_blur(pixels: Pixels, strength: Strength, generators: Generators) -> Array:
    """Smooth by a Gaussian.

    Args:
        pixels: uint8 [n,H,W,3].
        strength: (standard deviation,), pixels.
        generators: Not used.
    """
    (sigma,) = strength.values
    return to_bytes_range(smoothed(unit_range(pixels), sigma))


def defocus_blur(pixels: Pixels, strength: Strength, generators: Generators) -> Array:
    """Convolve with a disk, as of a lens out of focus.

    Args:
        pixels: uint8 [n,H,W,3].
        strength: (radius of the disk, standard deviation of its anti-aliasing), pixels.
        generators: Not used.
    """
    radius, sigma = strength.values
    return to_bytes_range(convolved(unit_range(pixels), disk(radius, sigma)))


def glass_blur(pixels: Pixels, strength: Strength, generators: Generators) -> Array:
    """Smooth, displace pixels at random from the last to the first, and smooth again, as seen through frosted glass.

    The paper exchanges pixels. The published code overwrites a pixel by another one (its exchange of views copies one
    way only), and so does this function.

    Args:
        pixels: uint8 [n,H,W,3].
        strength: (standard deviation of the Gaussian, largest displacement, both in pixels; number of passes).
        generators: One for each image.
    """
    sigma, reach, passes = strength.values[0], int(strength.values[1]), int(strength.values[2])
    n, height, width, _ = pixels.shape
    values = (smoothed(unit_range(pixels), sigma) * 255).astype(np.uint8)
    rows, columns = np.arange(height - reach, reach, -1), np.arange(width - reach, reach, -1)
    targets = np.tile((rows[:, None] * width + columns).ravel(), passes)
    drawn = [one.integers(-reach, reach, (len(targets), 2)) for one in generators]
    # Source of each step, as a flat index into [pixel,n]; red, green and blue are one 32-bit value.
    sources = (targets[:, None] + np.stack([right + width * down for right, down in (d.T for d in drawn)], axis=1)) * n
    sources += np.arange(n)
    packed = np.concatenate([values, np.zeros_like(values[..., :1])], axis=-1).view(np.uint32).reshape(n, -1)
    packed = np.ascontiguousarray(packed.T)
    flat = packed.reshape(-1)
    for target, source in zip(targets.tolist(), sources):
        packed[target] = flat[source]
    values = np.ascontiguousarray(packed.T).view(np.uint8).reshape(n, height, width, 4)[..., :3]
    return to_bytes_range(smoothed(values / 255.0, sigma))


def motion_blur(pixels: Pixels, strength: Strength, generators: Generators) -> Array:
    """Blur along a line of random direction between -45 and 45 degrees.

    Args:
        pixels: uint8 [n,H,W,3].
        strength: (radius, standard deviation), pixels.
        generators: One for each image.
    """
    radius, sigma = strength.values
    angles = [one.uniform(-45, 45) for one in generators]
    blurred = [motion_blurred(image, int(radius), sigma, angle) for image, angle in zip(pixels, angles)]
    values: Array = np.stack(blurred)
    if strength.small:  # CIFAR-10-C rounds here
        values = np.rint(values)
    return np.clip(values, 0, 255)


def zoom_blur(pixels: Pixels, strength: Strength, generators: Generators) -> Array:
    """Average enlargements of the image, as of a camera that moves towards it.

    Args:
        pixels: uint8 [n,H,W,3].
        strength: (end, step) of the factors, which begin at 1.
        generators: Not used.
    """
    factors = np.arange(1, *strength.values)
    height, width = pixels.shape[1:3]
    values = unit_range(pixels).astype(np.float32)
    total = np.zeros_like(values)
    for factor in factors:
        total += zoomed(values, float(factor))[:, :height, :width]
    return to_bytes_range((values + total) / (len(factors) + 1))
