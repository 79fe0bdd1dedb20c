"""Corruption by spatter: drops of water, or of mud, on the lens."""

from __future__ import annotations

import numpy as np

from ddkit.evaluation.corruptions.edges import box_means, canny_edges, chamfer_distances, correlated, equalised
from ddkit.evaluation.corruptions.filters import Array, Pixels, smoothed, to_bytes_range
from ddkit.evaluation.corruptions.noise import Generators
from ddkit.evaluation.corruptions.tables import Strength

_WATER = np.array([175, 238, 238]) / 255.0
_MUD = np.array([63, 42, 20]) / 255.0
_EDGE_LOW, _EDGE_HIGH = 50, 150
_FARTHEST = 20  # pixels
_RELIEF = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
_THINNEST_MUD = np.float32(0.8)


def spatter(pixels: Pixels, strength: Strength, generators: Generators) -> Array:
    """Cover the image with drops: smoothed noise above a threshold.

    Args:
        pixels: uint8 [n,H,W,3].
        strength: (mean and standard deviation of the noise, standard deviation of its smoothing in pixels, threshold,
            strength of the water or standard deviation of the mud's smoothing, 0 for water or 1 for mud).
        generators: One for each image.
    """
    mean, scale, sigma, threshold, amount, mud = strength.values
    noise = np.stack([one.normal(mean, scale, pixels.shape[1:3]) for one in generators])
    liquid = smoothed(noise, sigma)
    liquid = np.where(liquid < threshold, 0, liquid)
    values = pixels.astype(np.float32) / np.float32(255)
    if mud:
        layer = smoothed((liquid > threshold).astype(np.float32), amount)
        layer = np.where(layer < _THINNEST_MUD, np.float32(0), layer)[..., None]
        colour = _MUD.astype(np.float32) if strength.small else _MUD
        return to_bytes_range(values * (1 - layer) + colour * layer)
    # The product with 255 exceeds the bytes where the noise exceeds 1; as in the published code, it wraps around.
    layer = _water((liquid * 255).astype(np.int64).astype(np.uint8), np.float32(amount))[..., None]
    return to_bytes_range(values + layer * _WATER.astype(np.float32))


def _water(liquid: Array, amount: np.float32) -> Array:
    """Return how much the drops brighten each pixel: most at their edges, float32 [n,H,W].

    Args:
        liquid: Thickness of the water, uint8 [n,H,W].
        amount: Largest brightening of an image.
    """
    distances = chamfer_distances(canny_edges(liquid, _EDGE_LOW, _EDGE_HIGH), _FARTHEST)
    relief = equalised(box_means(distances).astype(np.float32).astype(np.uint8))
    relief = np.clip(correlated(relief, _RELIEF), 0, 255)
    shine = liquid.astype(np.float32) * np.rint(box_means(relief)).astype(np.float32)
    highest = shine.max(axis=(1, 2), keepdims=True)
    return np.where(highest > 0, shine / np.where(highest > 0, highest, 1) * amount, 0)
