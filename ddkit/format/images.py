"""The stored image: encoded and decoded by one pair of functions, so that everyone sees the same pixels."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, UnidentifiedImageError

from ddkit.errors import IntegrityError, unknown

IMAGE_FORMATS = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}  # what a set may hold
WRITTEN = ("png",)  # what ddkit encodes itself: lossless, and with a checksum of its own


def encode_image(pixels: np.ndarray, codec: str = "png") -> bytes:
    """uint8 [3,H,W] -> the bytes of the published member, lossless. Same pixels and same Pillow, same bytes."""
    if codec not in WRITTEN:
        raise unknown("image format", codec, WRITTEN)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(buffer, IMAGE_FORMATS[codec])
    return buffer.getvalue()


def decode_image(data: bytes, codec: str, where: str) -> np.ndarray:
    """The bytes of a published member -> uint8 [3,H,W]. Raises IntegrityError naming `where`."""
    try:
        with Image.open(io.BytesIO(data), formats=[IMAGE_FORMATS[codec]]) as image:
            return np.asarray(image.convert("RGB")).transpose(2, 0, 1).copy()
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise IntegrityError(f"{where}: the image does not decode ({error}); fetch the set again") from error
