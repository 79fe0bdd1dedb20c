"""Corruptions by noise: Gaussian, shot, impulse and speckle noise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ddkit.evaluation.corruptions.filters import Array, Pixels, to_bytes_range, unit_range
from ddkit.evaluation.corruptions.tables import Strength

Generators = Sequence[np.random.Generator]


def gaussian_noise(pixels: Pixels, strength: Strength, generators: Generators) -> Array:
    """Add Gaussian noise.

    Args:
        pixels: uint8 [n,H,W,3].
        strength: (standard deviation,), in units of the range.
        generators: One for each image.
    """
    (scale,) = strength.values
    noise = np.stack([one.normal(0.0, scale, pixels.shape[1:]) for one in generators])
    return to_bytes_range(unit_range(pixels) + noise)


def shot_noise(pixels: Pixels, strength: Strength, generators: Generators) -> Array:
    """Replace values by Poisson counts, as of a sensor in low light.

    Args:
        pixels: uint8 [n,H,W,3].
        strength: (expected count of white,).
        generators: One for each image.
    """
    (count,) = strength.values
    expected = unit_range(pixels) * count
    return to_bytes_range(np.stack([one.poisson(e) for one, e in zip(generators, expected)]) / float(count))


def impulse_noise(pixels: Pixels, strength: Strength, generators: Generators) -> Array:
    """Set random values to 0 or 1 with equal probability (salt and pepper).

    Args:
        pixels: uint8 [n,H,W,3].
        strength: (share of the values,).
        generators: One for each image.
    """
    (share,) = strength.values
    shape = pixels.shape[1:]
    drawn = [(one.random(shape) <= share, one.random(shape) <= 0.5) for one in generators]
    hit, white = (np.stack(kind) for kind in zip(*drawn))
    return to_bytes_range(np.where(hit, white, unit_range(pixels)))


def speckle_noise(pixels: Pixels, strength: Strength, generators: Generators) -> Array:
    """Add Gaussian noise proportional to the value.

    Args:
        pixels: uint8 [n,H,W,3].
        strength: (standard deviation,), in units of the value.
        generators: One for each image.
    """
    (scale,) = strength.values
    values = unit_range(pixels)
    noise = np.stack([one.normal(0.0, scale, pixels.shape[1:]) for one in generators])
    return to_bytes_range(values + values * noise)
