"""Digital corruptions: contrast, saturation, elastic deformation, pixelation and JPEG compression."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from PIL import Image
from scipy.ndimage import map_coordinates

from ddkit.evaluation.corruptions.filters import (
    Array,
    Pixels,
    from_hsv,
    smoothed,
    to_bytes_range,
    to_hsv,
    unit_range,
)
from ddkit.evaluation.corruptions.noise import Generators
from ddkit.evaluation.corruptions.tables import Strength


def contrast(pixels: Pixels, strength: Strength, generators: Generators) -> Array:
    """Shrink the values towards the image's mean colour.

    Args:
        pixels: uint8 [n,H,W,3].
        strength: (factor,).
        generators: Not used.
    """
    (factor,) = strength.values
    values = unit_range(pixels)
    means = np.stack([one.mean(axis=(0, 1), keepdims=True) for one in values])
    return to_bytes_range((values - means) * factor + means)


def saturate(pixels: Pixels, strength: Strength, generators: Generators) -> Array:
    """Scale the saturation of hue, saturation and value.

    Args:
        pixels: uint8 [n,H,W,3].
        strength: (factor, addend).
        generators: Not used.
    """
    factor, addend = strength.values
    hue, saturation, value = to_hsv(unit_range(pixels))
    return to_bytes_range(from_hsv(hue, np.clip(saturation * factor + addend, 0, 1), value))


def elastic_transform(pixels: Pixels, strength: Strength, generators: Generators) -> Array:
    """Displace pixels by smoothed noise; the images of CIFAR-10-C also by a random affine map.

    Args:
        pixels: uint8 [n,H,W,3].
        strength: (factor of the displacement, standard deviation of its smoothing as a share of the side, largest
            noise as a share of the height). Small images: (factor as a share of the shorter side, standard deviation
            as a share of it, largest displacement of the affine map's three corners as a share of it).
        generators: One for each image.
    """
    factor, sigma, largest = strength.values
    height, width = pixels.shape[1:3]
    side = min(height, width)
    if strength.small:
        factor, sigmas, corner, largest = factor * side, (sigma * side, sigma * side), largest * side, 1.0
        maps = [_affine_map(height, width, one.uniform(-corner, corner, (3, 2))) for one in generators]
    else:
        sigmas, largest = (height * sigma, width * sigma), height * largest
        maps = []
    drawn = [[one.uniform(-largest, largest, (height, width)) for _ in "xy"] for one in generators]
    right, down = (
        (smoothed(np.stack(noise), sigmas, "reflect", 3) * factor).astype(np.float32) for noise in zip(*drawn)
    )
    y, x = np.mgrid[:height, :width]
    found = []
    for i, image in enumerate(pixels.astype(np.float32) / np.float32(255)):
        if maps:
            image = _sampled(image, maps[i][1], maps[i][0], "mirror")
        found.append(_sampled(image, y + down[i], x + right[i], "reflect"))
    return to_bytes_range(np.stack(found))


def _sampled(image: Array, rows: Array, columns: Array, mode: str) -> Array:
    """Return an image interpolated linearly at places, float32 [H,W,3].

    Args:
        image: float32 [H,W,3].
        rows, columns: The places, float64 [H,W].
        mode: Border, as in `scipy.ndimage.map_coordinates`.
    """
    channels = [map_coordinates(image[..., c], (rows, columns), order=1, mode=mode) for c in range(image.shape[-1])]
    return np.stack(channels, axis=-1)


def _affine_map(height: int, width: int, moves: Array) -> Array:
    """Return where each pixel of the result comes from, x and y, float64 [2,H,W].

    Args:
        height, width: Size of the image.
        moves: Displacements of three corners of a square around the centre, x and y in pixels, [3,2].
    """
    centre, reach = np.array([height // 2, width // 2], dtype=np.float32), min(height, width) // 3
    signs = np.array([[1, 1], [1, -1], [-1, -1]])
    corners = np.float32(centre + signs * reach)
    moved = (corners + moves.astype(np.float32)).astype(np.float64)
    # Solve for the map from moved corners to corners: rows (x, y, 1).
    inverse = np.linalg.solve(np.column_stack([moved, np.ones(3)]), corners.astype(np.float64))
    y, x = np.mgrid[:height, :width]
    return np.stack([inverse[0, k] * x + inverse[1, k] * y + inverse[2, k] for k in (0, 1)])


def pixelate(pixels: Pixels, strength: Strength, generators: Generators) -> Array:
    """Reduce the image by averaging and enlarge it again.

    Args:
        pixels: uint8 [n,H,W,3].
        strength: (factor of the reduction,).
        generators: Not used.
    """
    (factor,) = strength.values
    height, width = pixels.shape[1:3]
    enlarge = Image.Resampling.BOX if strength.small else Image.Resampling.NEAREST
    reduced = (max(1, int(width * factor)), max(1, int(height * factor)))
    found = []
    for image in pixels:
        small = Image.fromarray(image).resize(reduced, Image.Resampling.BOX)
        found.append(np.asarray(small.resize((width, height), enlarge)))
    return np.stack(found)


def jpeg_compression(pixels: Pixels, strength: Strength, generators: Generators) -> Array:
    """Compress as a JPEG.

    Args:
        pixels: uint8 [n,H,W,3].
        strength: (quality,).
        generators: Not used.
    """
    found = []
    for image in pixels:
        file = BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=int(strength.values[0]))
        found.append(np.asarray(Image.open(file)))
    return np.stack(found)
