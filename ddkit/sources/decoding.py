"""Decoding of image files to upright uint8 RGB, and resizing to squares with a single resampling method."""

from __future__ import annotations

import io
import threading
from contextlib import nullcontext

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn.functional import interpolate

from ddkit.format.images import IMAGE_ERRORS, LARGEST_PIXELS

# An explicit list: Pillow supports more than fifty formats, and untrusted files should not reach the other decoders.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jfif"))


LARGEST_BYTES = 100_000_000  # of an encoded image
BIG_PIXELS = 8_000_000  # larger images are decoded one at a time, which bounds memory on any number of cores
_BIG = threading.Lock()


class Unreadable(Exception):
    """An image does not decode. The source collects these and raises one ImagesUnreadable."""


def decode_rgb(data: bytes) -> np.ndarray:
    """Decode an image file; converts grey, palette, alpha, 16-bit and CMYK to RGB and applies the EXIF orientation.

    Args:
        data: Content of the file.

    Returns:
        uint8 [3, H, W].

    Raises:
        Unreadable: The image does not decode, or has more than LARGEST_PIXELS pixels, which is checked before decoding.
    """
    try:
        with _opened(data) as image, _BIG if image.width * image.height > BIG_PIXELS else nullcontext():
            ImageOps.exif_transpose(image, in_place=True)
            if image.mode.startswith("I") or image.mode == "F":
                return np.broadcast_to(_grey(np.asarray(image)), (3, image.height, image.width)).copy()
            rgb = image if image.mode == "RGB" else image.convert("RGB")
            return np.asarray(rgb).transpose(2, 0, 1).copy()
    except IMAGE_ERRORS as error:
        raise Unreadable(_reason(error)) from error


def _opened(data: bytes) -> Image.Image:
    """Open an image and check its size by the header. Raises Unreadable, and what Pillow raises."""
    if len(data) > LARGEST_BYTES:
        raise Unreadable(f"{len(data)} bytes, more than {LARGEST_BYTES}")
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    if image.width * image.height > LARGEST_PIXELS:
        raise Unreadable(
            f"{image.width}x{image.height} pixels, more than {LARGEST_PIXELS / 1e6:.0f} million: resize it"
        )
    return image


def _grey(values: np.ndarray) -> np.ndarray:
    """Convert grey of more than 8 bits [H, W] to uint8, in blocks of rows. (Pillow's conversion clips to white.)"""
    divisor = 257 if values.max(initial=0) > 255 else 1
    grey = np.empty(values.shape, np.uint8)
    for start in range(0, len(values), 256):
        part = values[start : start + 256].astype(np.float64) / divisor
        grey[start : start + 256] = np.clip(np.rint(part), 0, 255)
    return grey


def _reason(error: BaseException) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "no image of a known format"
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__


def image_extent(data: bytes) -> tuple[int, int]:
    """Return (height, width) in pixels from the header alone, before EXIF orientation.

    Args:
        data: Content of the image file.

    Raises:
        Unreadable: The header cannot be read or the image is too large.
    """
    try:
        with _opened(data) as image:
            return image.height, image.width
    except IMAGE_ERRORS as error:
        raise Unreadable(_reason(error)) from error


def centre_square(image: Tensor, resize: int, crop: int) -> Tensor:
    """Resize the shorter side (bilinear, antialias) and crop the centre.

    Args:
        image: uint8 [3, H, W].
        resize: Length of the shorter side after resizing, in pixels.
        crop: Side of the crop, in pixels.

    Returns:
        uint8 [3, crop, crop].
    """
    height, width = image.shape[-2:]
    short = min(height, width)
    if short != resize:
        shape = (max(resize, round(height * resize / short)), max(resize, round(width * resize / short)))
        image = interpolate(image[None], shape, mode="bilinear", antialias=True, align_corners=False)[0]
        height, width = shape
    top, left = (height - crop) // 2, (width - crop) // 2
    return image[:, top : top + crop, left : left + crop].contiguous()


def whole_image(image: np.ndarray, size: int) -> Tensor:
    """Resize an image to a square: shorter side to `size`, then centre crop; ddkit's definition of "the whole image".

    Args:
        image: uint8 [3, H, W].
        size: Side of the square, in pixels.

    Returns:
        uint8 [3, size, size].
    """
    return centre_square(torch.from_numpy(image), size, size)
