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
_FREQUENCIES = tuple(cycles / 224 for cycles in (0.5, 1.5, 3, 6, 12, 24, 48, 88, 140))  # cycles a pixel
_SHARES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


@dataclass(frozen=True)
class Look:
    """What a photograph of frost looks like.

    Attributes:
        power: log10 of its power at the spatial frequencies _FREQUENCIES, of luminance in bytes, up to a constant.
        red, green, blue: Colour of the pixels with these shares (_SHARES) of darker pixels.
    """

    power: tuple[float, ...]
    red: tuple[int, ...]
    green: tuple[int, ...]
    blue: tuple[int, ...]


# Measured on random crops of the photographs. ImageNet-C chooses among five, two of which are the same.
LOOKS = (
    Look(
        (10.6, 9.3, 8.1, 7.35, 6.7, 6.3, 6.05, 5.5, 4.7),
        (38, 45, 58, 73, 94, 130, 152),
        (117, 124, 137, 147, 159, 177, 190),
        (137, 144, 156, 165, 173, 186, 195),
    ),
    Look(
        (10.4, 9.2, 7.95, 7.75, 7.45, 6.85, 6.3, 5.6, 4.5),
        (137, 160, 187, 201, 212, 225, 232),
        (139, 163, 191, 205, 216, 230, 237),
        (146, 171, 200, 215, 227, 240, 246),
    ),
    Look(
        (10.4, 9.2, 7.9, 7.9, 7.6, 7.2, 6.8, 6.15, 5.2),
        (71, 98, 127, 146, 160, 186, 214),
        (85, 112, 142, 159, 174, 201, 229),
        (95, 123, 154, 171, 188, 216, 245),
    ),
    Look(
        (10.4, 9.5, 8.8, 8.5, 7.95, 7.35, 6.8, 6.3, 6.1),
        (33, 46, 73, 97, 126, 175, 211),
        (44, 57, 85, 109, 138, 185, 219),
        (56, 69, 97, 121, 149, 194, 226),
    ),
)
CHOICE = (0, 1, 1, 2, 3)  # the look of each of the five photographs


def frost_textures() -> NDArray[np.uint8]:
    """Return the textures, uint8 [look,SIDE,SIDE,3]; they continue at the opposite border. Made once per process."""
    return STATE.constant("frost textures", lambda: np.stack([_texture(i, look) for i, look in enumerate(LOOKS)]))


def _texture(index: int, look: Look) -> NDArray[np.uint8]:
    """Return the texture of a look, uint8 [SIDE,SIDE,3]."""
    spectrum = np.fft.rfft2(rng(0, "frost texture", index).standard_normal((SIDE, SIDE)))
    frequency = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE))
    frequency[0, 0] = _FREQUENCIES[0]
    power = np.interp(np.log10(frequency), np.log10(_FREQUENCIES), look.power)
    field = np.fft.irfft2(spectrum * 10 ** (power / 2), (SIDE, SIDE))
    field -= field.mean()
    share = ndtr(field / field.std())
    channels = [np.interp(share, _SHARES, channel) for channel in (look.red, look.green, look.blue)]
    texture: NDArray[np.uint8] = np.rint(np.stack(channels, axis=-1)).astype(np.uint8)
    return texture
