"""Edges, distances and 3 x 3 filters of 8-bit images, with the roundings of OpenCV, for `spatter`."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import label

from ddkit.evaluation.corruptions.filters import Array

_TANGENT = 13573  # tan(22.5 degrees) * 2**15
_FIXED = 1 << 16  # distances are counted in 1 / 65536 pixel
# Lengths of a step to a neighbour, a diagonal one, and a knight's move: the 5 x 5 chamfer distance (Borgefors, 1986).
_STEPS = {(0, 1): 1.0, (1, 1): 1.4, (1, 2): 2.1969}


def canny_edges(images: Array, low: int, high: int) -> Array:
    """Return the edges of images by Canny's detector (1986): Sobel gradients, L1 magnitude.

    Args:
        images: uint8 [n,H,W].
        low: Magnitude that an edge pixel exceeds if it is connected with one that exceeds `high`.
        high: Magnitude that begins an edge.

    Returns:
        bool [n,H,W].
    """
    padded = np.pad(images.astype(np.int64), ((0, 0), (1, 1), (1, 1)), mode="edge")
    rows = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    columns = padded[:, :, :-2] + 2 * padded[:, :, 1:-1] + padded[:, :, 2:]
    right, down = rows[:, :, 2:] - rows[:, :, :-2], columns[:, 2:] - columns[:, :-2]
    magnitude = np.abs(right) + np.abs(down)
    around = np.pad(magnitude, ((0, 0), (1, 1), (1, 1)))
    height, width = images.shape[1:]

    def neighbour(dy: int, dx: int) -> Array:
        return around[:, 1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]

    x, y = np.abs(right), np.abs(down) << 15
    horizontal = y < x * _TANGENT
    vertical = ~horizontal & (y > x * _TANGENT + (x << 16))
    falling = (right ^ down) >= 0  # the gradient points down and right, or up and left
    before = np.where(falling, neighbour(-1, -1), neighbour(-1, 1))
    after = np.where(falling, neighbour(1, 1), neighbour(1, -1))
    peak = np.select(
        [horizontal, vertical],
        [
            (magnitude > neighbour(0, -1)) & (magnitude >= neighbour(0, 1)),
            (magnitude > neighbour(-1, 0)) & (magnitude >= neighbour(1, 0)),
        ],
        (magnitude > before) & (magnitude > after),
    )
    candidates = peak & (magnitude > low)
    inside_an_image = np.zeros((3, 3, 3), dtype=bool)
    inside_an_image[1] = True
    labels, count = label(candidates, inside_an_image)
    begun = np.zeros(count + 1, dtype=bool)
    begun[labels[candidates & (magnitude > high)]] = True
    found: Array = begun[labels] & candidates
    return found


def chamfer_distances(targets: Array, largest: int) -> Array:
    """Return each pixel's chamfer distance (5 x 5 mask) to the nearest target of its image, at most `largest`.

    Args:
        targets: bool [n,H,W].
        largest: Largest distance, pixels; also that of the pixels of an image without targets.

    Returns:
        float32 [n,H,W].
    """
    moves = []
    for (a, b), length in _STEPS.items():
        for dy, dx in {(s * p, t * q) for s in (1, -1) for t in (1, -1) for p, q in ((a, b), (b, a))}:
            moves.append((dy, dx, round(length * _FIXED)))
    limit = largest * _FIXED
    height, width = targets.shape[1:]
    padded = np.pad(np.where(targets, 0, limit).astype(np.int32), ((0, 0), (2, 2), (2, 2)), constant_values=limit)
    middle = padded[:, 2:-2, 2:-2]
    for _ in range(largest):  # a shortest path has at most this many steps
        last = padded.copy()
        for dy, dx, length in moves:
            np.minimum(middle, last[:, 2 + dy : 2 + dy + height, 2 + dx : 2 + dx + width] + length, out=middle)
        if np.array_equal(last, padded):
            break
    return (middle / _FIXED).astype(np.float32)


def correlated(images: Array, kernel: Array) -> Array:
    """Return the correlation of images with a 3 x 3 kernel, mirrored at the border without its last pixel, float64.

    Args:
        images: [n,H,W].
        kernel: [3,3].
    """
    height, width = images.shape[1:]
    padded = np.pad(images.astype(np.float64), ((0, 0), (1, 1), (1, 1)), mode="reflect")
    total = np.zeros(images.shape)
    for y in range(3):
        for x in range(3):
            total += kernel[y, x] * padded[:, y : y + height, x : x + width]
    return total


def box_means(images: Array) -> Array:
    """Return the means of 3 x 3 pixels, float64 [n,H,W].

    Args:
        images: [n,H,W].
    """
    return correlated(images, np.ones((3, 3))) * (1 / 9)


def equalised(images: Array) -> Array:
    """Return images with equalised histograms.

    Args:
        images: uint8 [n,H,W]. An image of one value stays as it is.
    """
    found = images.copy()
    for one in found:
        counts = np.bincount(one.ravel(), minlength=256)
        lowest = int(np.flatnonzero(counts)[0])
        rest = one.size - int(counts[lowest])
        if rest:
            sums = np.cumsum(counts) - counts[lowest]
            table = np.rint(np.float32(255) / np.float32(rest) * sums.astype(np.float32))
            one[...] = np.clip(table, 0, 255).astype(np.uint8)[one]
    return found
