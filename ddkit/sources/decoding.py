"""Any image file becomes uint8 RGB, upright; and whole images become squares, by the one resampler."""

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

# Named, so that no format is opened that nobody asked for (Pillow knows more than fifty).
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jfif"))


LARGEST_BYTES = 100_000_000  # of an encoded image
BIG_PIXELS = 8_000_000  # above it images are decoded one after the other: memory is bounded, whatever the cores
_BIG = threading.Lock()


class Unreadable(Exception):
    """An image that does not decode. Collected by the source into one refusal (errors.ImagesUnreadable)."""


def decode_rgb(data: bytes) -> np.ndarray:
    """The bytes of an image file -> uint8 [3,H,W]: grey, palette, alpha, 16-bit and CMYK converted, EXIF upright.

    Raises Unreadable with the reason, for images of more than LARGEST_PIXELS before they are decoded.
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
    """An image whose header was read and found acceptable. Raises Unreadable, and what Pillow raises."""
    if len(data) > LARGEST_BYTES:
        raise Unreadable(f"{len(data)} bytes, more than {LARGEST_BYTES}")
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    if image.width * image.height > LARGEST_PIXELS:
        raise Unreadable(
            f"{image.width}x{image.height} pixels, more than {LARGEST_PIXELS / 1e6:.0f} million: resize it"
        )
    return image


def _grey(values: np.ndarray) -> np.ndarray:
    """Grey of more than 8 bits [H,W] -> uint8, some lines at a time. (Pillow's own conversion clips it to white.)"""
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
    """(height, width) in pixels from the header alone; EXIF rotation does not matter for the shorter side."""
    try:
        with _opened(data) as image:
            return image.height, image.width
    except IMAGE_ERRORS as error:
        raise Unreadable(_reason(error)) from error


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
