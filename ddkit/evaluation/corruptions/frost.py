"""Generated textures of frost.

ImageNet-C overlays photographs of frost. These are not shipped: the textures here are Gaussian random fields with about
the power spectrum, the colours and the histogram of each of the photographs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from ddkit.core.seeds import rng
from ddkit.core.worker_state import STATE

SIDE = 1024  # pixels
_SHARES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


@dataclass(frozen=True)
class Look:
    """What a photograph of frost looks like.

    Attributes:
        exponent: Its power falls with the spatial frequency to this power.
        colours: Red, green and blue of the pixels with these shares (_SHARES) of darker pixels.
    """

    exponent: float
    colours: tuple[tuple[int, int, int], ...]


# Measured on the photographs. ImageNet-C chooses among five, two of which are the same.
LOOKS = (
    Look(
        1.9,
        ((39, 116, 136), (45, 124, 143), (58, 138, 157), (74, 148, 165), (93, 160, 174), (125, 177, 187), (147, 189, 197)),
    ),
    Look(
        1.8,
        ((137, 139, 145), (162, 165, 172), (189, 193, 202), (204, 208, 219), (216, 221, 231), (230, 235, 244), (241, 245, 249)),
    ),
    Look(
        1.3,
        ((69, 83, 92), (91, 105, 115), (120, 135, 147), (137, 153, 166), (154, 170, 183), (183, 199, 214), (219, 234, 249)),
    ),
    Look(
        1.8,
        ((34, 45, 57), (48, 60, 72), (79, 91, 104), (107, 119, 131), (140, 151, 161), (195, 203, 211), (233, 238, 243)),
    ),
)  # fmt: skip
CHOICE = (0, 1, 1, 2, 3)  # the look of each of the five photographs


def frost_textures() -> NDArray[np.uint8]:
    """Return the textures, uint8 [look,SIDE,SIDE,3]; they continue at the opposite border. Made once per process."""
    return STATE.keep("frost textures", SIDE, lambda: np.stack([_texture(i, look) for i, look in enumerate(LOOKS)]))


def _texture(index: int, look: Look) -> NDArray[np.uint8]:
    """Return the texture of a look, uint8 [SIDE,SIDE,3]."""
    spectrum = np.fft.rfft2(rng(0, "frost texture", index).standard_normal((SIDE, SIDE)))
    frequency = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE))
    frequency[0, 0] = np.inf  # no mean
    field = np.fft.irfft2(spectrum * frequency ** (-look.exponent / 2), (SIDE, SIDE))
    share = ndtr(field / field.std())
    channels = [np.interp(share, _SHARES, channel) for channel in zip(*look.colours)]
    return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)
