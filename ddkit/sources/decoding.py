"""Any image file becomes uint8 RGB, upright; and whole images become squares, by the one resampler."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn.functional import interpolate

# Named, so that no format is opened that nobody asked for (Pillow knows more than fifty).
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jfif"))


class Unreadable(Exception):
    """An image that does not decode. Collected by the source into one refusal (errors.ImagesUnreadable)."""


def decode_rgb(data: bytes) -> np.ndarray:
    """The bytes of an image file -> uint8 [3,H,W]: grey, palette, alpha, 16-bit and CMYK converted, EXIF upright.

    Raises Unreadable with the reason.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode.startswith("I") or image.mode == "F":
                grey = np.asarray(image)
                # 16-bit grey: Pillow's own conversion would clip it to white.
                scaled = grey.astype(np.float64) / (257 if grey.max(initial=0) > 255 else 1)
                image = Image.fromarray(np.clip(np.rint(scaled), 0, 255).astype(np.uint8))
            return np.asarray(image.convert("RGB")).transpose(2, 0, 1).copy()
    except UnidentifiedImageError as error:
        raise Unreadable("no image of a known format") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise Unreadable(str(error).splitlines()[0] if str(error) else type(error).__name__) from error


def image_extent(data: bytes) -> tuple[int, int]:
    """(height, width) in pixels from the header alone; EXIF rotation does not matter for the shorter side."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return image.height, image.width
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise Unreadable(str(error)) from error


def centre_square(image: Tensor, resize: int, crop: int) -> Tensor:
    """uint8 [3,H,W] -> uint8 [3,crop,crop]: shorter side to `resize` (bilinear, antialias), then the centre."""
    height, width = image.shape[-2:]
    short = min(height, width)
    if short != resize:
        shape = (max(resize, round(height * resize / short)), max(resize, round(width * resize / short)))
        image = interpolate(image[None], shape, mode="bilinear", antialias=True, align_corners=False)[0]
        height, width = shape
    top, left = (height - crop) // 2, (width - crop) // 2
    return image[:, top : top + crop, left : left + crop].contiguous()


def whole_image(image: np.ndarray, size: int) -> Tensor:
    """uint8 [3,H,W] array -> uint8 [3,size,size] tensor: what "the whole image" means everywhere in ddkit."""
    return centre_square(torch.from_numpy(image), size, size)
