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
        red, green, blue: Colour of the pixels with these shares (_SHARES) of darker pixels.
    """

    exponent: float
    red: tuple[int, ...]
    green: tuple[int, ...]
    blue: tuple[int, ...]


# Measured on the photographs. ImageNet-C chooses among five, two of which are the same.
LOOKS = (
    Look(1.9, (39, 45, 58, 74, 93, 125, 147), (116, 124, 138, 148, 160, 177, 189), (136, 143, 157, 165, 174, 187, 197)),
    Look(
        1.8,
        (137, 162, 189, 204, 216, 230, 241),
        (139, 165, 193, 208, 221, 235, 245),
        (145, 172, 202, 219, 231, 244, 249),
    ),
    Look(
        1.3, (69, 91, 120, 137, 154, 183, 219), (83, 105, 135, 153, 170, 199, 234), (92, 115, 147, 166, 183, 214, 249)
    ),
    Look(1.8, (34, 48, 79, 107, 140, 195, 233), (45, 60, 91, 119, 151, 203, 238), (57, 72, 104, 131, 161, 211, 243)),
)
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
    channels = [np.interp(share, _SHARES, channel) for channel in (look.red, look.green, look.blue)]
    texture: NDArray[np.uint8] = np.rint(np.stack(channels, axis=-1)).astype(np.uint8)
    return texture
