"""The integer weights of the resize function (docs/format.md), as tables: for kernels that do not call PyTorch's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MOST_BITS = 22  # largest precision p


@dataclass(frozen=True)
class ResizeTables:
    """Weights of a pass from n to S pixels, for every n up to the side of the stored images.

    out[i] = clamp((2^(p-1) + sum_j weight[n, i, j] * in[first[n, i] + j]) >> p, 0, 255) with p = bits[n] and j below
    taps[n]. Weights beyond the taps of an output pixel are 0.

    Attributes:
        first: First input pixel, int32 [side+1, S]; n = 0 is unused.
        weight: int32 [side+1, S, K].
        bits: Precision p, int32 [side+1].
        taps: Largest number of input pixels of an output pixel, int32 [side+1].
    """

    first: np.ndarray
    weight: np.ndarray
    bits: np.ndarray
    taps: np.ndarray


def resize_tables(side: int, size: int) -> ResizeTables:
    """Compute the weights of all passes to `size` pixels.

    Args:
        side: Largest input length in pixels.
        size: S, the output length in pixels.
    """
    passes = [_pass(n, size) for n in range(1, side + 1)]
    most = max(weight.shape[1] for _, weight, _ in passes)
    tables = ResizeTables(
        first=np.zeros((side + 1, size), np.int32), weight=np.zeros((side + 1, size, most), np.int32),
        bits=np.ones(side + 1, np.int32), taps=np.zeros(side + 1, np.int32),
    )  # fmt: skip
    for n, (first, weight, bits) in enumerate(passes, start=1):
        taps = weight.shape[1]
        tables.first[n], tables.weight[n, :, :taps], tables.bits[n], tables.taps[n] = first, weight, bits, taps
    return tables


def _pass(n: int, size: int) -> tuple[np.ndarray, np.ndarray, int]:
    """(first input pixels [S], integer weights [S,K], precision) of a pass from n to `size` pixels."""
    ratio = n / size
    support = max(ratio, 1.0)
    centre = ratio * (np.arange(size) + 0.5)
    low = np.maximum(np.trunc(centre - support + 0.5), 0).astype(np.int64)
    high = np.minimum(np.trunc(centre + support + 0.5), n).astype(np.int64)
    pixel = low[:, None] + np.arange(int((high - low).max()))
    weight = np.maximum(1 - np.abs(pixel - centre[:, None] + 0.5) * (1 / support), 0)
    weight[pixel >= high[:, None]] = 0
    weight /= weight.sum(1, keepdims=True)
    largest = weight.max()
    enough = (bits for bits in range(MOST_BITS) if np.trunc(0.5 + largest * 2.0 ** (bits + 1)) >= 2**15)
    bits = next(enough, MOST_BITS)
    return low, np.trunc(0.5 + weight * 2.0**bits).astype(np.int64), bits
