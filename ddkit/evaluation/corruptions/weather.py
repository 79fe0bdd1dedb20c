"""Corruptions by weather: snow, frost, fog and brightness."""

from __future__ import annotations

import numpy as np

from ddkit.evaluation.corruptions.filters import (
    Array,
    Pixels,
    from_hsv,
    motion_blurred,
    to_bytes_range,
    to_hsv,
    unit_range,
    zoomed,
)
from ddkit.evaluation.corruptions.frost import CHOICE, SIDE, frost_textures
from ddkit.evaluation.corruptions.noise import Generators
from ddkit.evaluation.corruptions.tables import Strength

_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_SMALL_SCALE = 5  # CIFAR-10-C reduces the pictures of frost to a fifth
_FIRST_WOBBLE = 100.0


def snow(pixels: Pixels, strength: Strength, generators: Generators) -> Array:
    """Whiten the image and add flakes: enlarged noise above a threshold, blurred along a line, and its half turn.

    Args:
        pixels: uint8 [n,H,W,3].
        strength: (mean and standard deviation of the noise, its enlargement, threshold, radius and standard deviation
            of the blur in pixels, share of the original image).
        generators: One for each image.
    """
    mean, scale, factor, threshold, radius, sigma, share = strength.values
    height, width = pixels.shape[1:3]
    noise = np.stack([one.normal(mean, scale, (height, width)) for one in generators])
    angles = [one.uniform(-135, -45) for one in generators]
    flakes = zoomed(noise[..., None], factor)[..., 0]
    if strength.small:  # CIFAR-10-C crops and rounds the flakes before the blur
        top, left = (flakes.shape[1] - height) // 2, (flakes.shape[2] - width) // 2
        flakes = flakes[:, top : top + height, left : left + width]
    flakes = np.clip(np.where(flakes < threshold, 0, flakes), 0, 1)
    if strength.small:
        flakes = np.floor(flakes * 255) / 255
    blurred = np.stack([motion_blurred(one, int(radius), sigma, angle) for one, angle in zip(flakes, angles)])
    layer = (np.rint(blurred * 255) / 255)[:, :height, :width, None]
    values = pixels.astype(np.float32) / np.float32(255)
    whitened = np.maximum(values, (values @ _LUMA)[..., None] * np.float32(1.5) + np.float32(0.5))
    values = np.float32(share) * values + np.float32(1 - share) * whitened
    return to_bytes_range(values + layer + layer[:, ::-1, ::-1])


def frost(pixels: Pixels, strength: Strength, generators: Generators) -> Array:
    """Blend with a random crop of a texture of frost.

    ImageNet-C uses photographs of frost; this uses generated textures (`frost_textures`), so its bytes differ.

    Args:
        pixels: uint8 [n,H,W,3].
        strength: (weight of the image, weight of the frost).
        generators: One for each image.
    """
    weight, frost_weight = strength.values
    step = _SMALL_SCALE if strength.small else 1
    textures = frost_textures()
    layers = []
    for one in generators:
        texture = textures[CHOICE[int(one.integers(0, len(CHOICE)))]]
        top, left = one.integers(0, SIDE, 2)
        rows = (top + step * np.arange(pixels.shape[1])) % SIDE
        columns = (left + step * np.arange(pixels.shape[2])) % SIDE
        layers.append(texture[rows[:, None], columns])
    return np.clip(weight * pixels + frost_weight * np.stack(layers), 0, 255)


def fog(pixels: Pixels, strength: Strength, generators: Generators) -> Array:
    """Add a plasma fractal, and scale the sum so that the brightest value stays what it is.

    Args:
        pixels: uint8 [n,H,W,3].
        strength: (thickness, decay of the fractal's displacement with each halving of the scale).
        generators: One for each image.
    """
    thickness, decay = strength.values
    height, width = pixels.shape[1:3]
    values = unit_range(pixels)
    brightest = values.max(axis=(1, 2, 3), keepdims=True)
    layer = plasma_fractals(1 << (max(height, width, 3) - 1).bit_length(), decay, generators)
    values = values + thickness * layer[:, :height, :width, None]
    return to_bytes_range(values * brightest / (brightest + thickness))


def plasma_fractals(side: int, decay: float, generators: Generators) -> Array:
    """Return height maps of the diamond-square algorithm (Fournier et al., 1982) on a torus, in [0, 1].

    Args:
        side: A power of two, pixels.
        decay: The displacement is divided by it with each halving of the scale.
        generators: One for each map.

    Returns:
        float64 [n,side,side].
    """
    maps = np.zeros((len(generators), side, side))
    wobble = _FIRST_WOBBLE

    def displaced(sums: Array) -> Array:
        drawn = np.stack([one.uniform(-wobble, wobble, sums.shape[1:]) for one in generators])
        return sums / 4 + wobble * drawn

    step = side
    while step >= 2:
        half = step // 2
        corners = maps[:, ::step, ::step]
        sums = corners + np.roll(corners, -1, axis=1)
        maps[:, half::step, half::step] = displaced(sums + np.roll(sums, -1, axis=2))
        centres = maps[:, half::step, half::step]
        vertical = centres + np.roll(centres, 1, axis=1)
        maps[:, ::step, half::step] = displaced(vertical + (corners + np.roll(corners, -1, axis=2)))
        horizontal = centres + np.roll(centres, 1, axis=2)
        maps[:, half::step, ::step] = displaced(horizontal + (corners + np.roll(corners, -1, axis=1)))
        step = half
        wobble /= decay
    maps -= maps.min(axis=(1, 2), keepdims=True)
    found: Array = maps / maps.max(axis=(1, 2), keepdims=True)
    return found


def brightness(pixels: Pixels, strength: Strength, generators: Generators) -> Array:
    """Add to the value of hue, saturation and value.

    Args:
        pixels: uint8 [n,H,W,3].
        strength: (addend,).
        generators: Not used.
    """
    (addend,) = strength.values
    hue, saturation, value = to_hsv(unit_range(pixels))
    return to_bytes_range(from_hsv(hue, saturation, np.clip(value + addend, 0, 1)))
