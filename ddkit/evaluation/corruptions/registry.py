"""The corruptions by name, and the function that applies one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ddkit.core.seeds import rng
from ddkit.errors import OptionError, SetError, unknown
from ddkit.evaluation.corruptions import blur, digital, noise, spatter, weather
from ddkit.evaluation.corruptions.filters import Array, Pixels
from ddkit.evaluation.corruptions.noise import Generators
from ddkit.evaluation.corruptions.tables import SEVERITIES, Strength, strength

_FUNCTIONS: dict[str, Callable[[Pixels, Strength, Generators], Array]] = {
    "gaussian_noise": noise.gaussian_noise,
    "shot_noise": noise.shot_noise,
    "impulse_noise": noise.impulse_noise,
    "speckle_noise": noise.speckle_noise,
    "defocus_blur": blur.defocus_blur,
    "glass_blur": blur.glass_blur,
    "motion_blur": blur.motion_blur,
    "zoom_blur": blur.zoom_blur,
    "gaussian_blur": blur.gaussian_blur,
    "snow": weather.snow,
    "frost": weather.frost,
    "fog": weather.fog,
    "brightness": weather.brightness,
    "spatter": spatter.spatter,
    "contrast": digital.contrast,
    "elastic_transform": digital.elastic_transform,
    "pixelate": digital.pixelate,
    "jpeg_compression": digital.jpeg_compression,
    "saturate": digital.saturate,
}
CORRUPTIONS = tuple(_FUNCTIONS)  # the 15 of the benchmark, and speckle noise, Gaussian blur, spatter and saturate
SMALLEST_SIDE = 12  # pixels; the kernel of `defocus_blur` is mirrored at the border
_PIXELS_AT_ONCE = 2**21


def corrupt(images: Tensor, name: str, severity: int, seed: int = 0, first: int = 0) -> Tensor:
    """Corrupt images. The result depends on (seed, name, severity, index of the image) and the image alone.

    Formulas and parameters are those of ImageNet-C; for images of at most 64 pixels those of CIFAR-10-C, by the same
    authors. (Tiny-ImageNet-C, of 64 pixels, has parameters of its own, which are not used.) `frost` blends with
    generated textures instead of photographs, `motion_blur` and `snow` blur as the Python package imagecorruptions
    instead of ImageMagick, and `glass_blur` overwrites pixels instead of exchanging them, as the published code does.
    Above 64 pixels `elastic_transform` and `pixelate` are those of imagecorruptions too: the first bends more finely
    than in ImageNet-C and without its affine map, the second enlarges to squares where ImageNet-C averages.

    Args:
        images: uint8 [n,3,H,W], with sides of at least 12 pixels.
        name: One of CORRUPTIONS.
        severity: 1 to 5.
        seed: Seed of the random draws.
        first: Index of the first image, so that parts of a batch can be corrupted separately.

    Returns:
        uint8 [n,3,H,W] on the CPU. Values are truncated to bytes, not rounded, as in ImageNet-C.

    Raises:
        OptionError: The name or the severity is unknown.
        SetError: The images are not uint8 [n,3,H,W] or too small.
    """
    if name not in _FUNCTIONS:
        raise unknown("corruption", name, CORRUPTIONS)
    if severity not in SEVERITIES:
        raise OptionError(f"severity {severity} of a corruption; valid: {', '.join(map(str, SEVERITIES))}")
    if images.ndim != 4 or images.shape[1] != 3 or images.dtype != torch.uint8:
        raise SetError(f"corruptions need uint8 images [n,3,H,W], not {images.dtype} {list(images.shape)}")
    height, width = images.shape[2:]
    if min(height, width) < SMALLEST_SIDE:
        raise SetError(f"images of {width}x{height} pixels; corruptions need sides of at least {SMALLEST_SIDE}")
    if not len(images):
        return images.cpu()
    chosen = strength(name, severity, max(height, width))
    parts = []
    for part in images.cpu().split(max(1, _PIXELS_AT_ONCE // (height * width))):
        generators = [rng(seed, "corruption", name, severity, first + i) for i in range(len(part))]
        first += len(part)
        parts.append(_corrupted(part.permute(0, 2, 3, 1).contiguous().numpy(), name, chosen, generators))
    return torch.from_numpy(np.concatenate(parts)).permute(0, 3, 1, 2).contiguous()


def _corrupted(pixels: Pixels, name: str, chosen: Strength, generators: Generators) -> Pixels:
    """Return corrupted images, uint8 [n,H,W,3].

    Args:
        pixels: uint8 [n,H,W,3].
        name: One of CORRUPTIONS.
        chosen: Parameters.
        generators: One for each image.
    """
    return _FUNCTIONS[name](pixels, chosen, generators).astype(np.uint8)
