"""The stored image: encoded and decoded by one pair of functions, so that everyone sees the same pixels."""

from __future__ import annotations

import io
import re

import numpy as np
from PIL import Image

from ddkit.errors import IntegrityError, unknown

IMAGE_FORMATS = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}  # what a set may hold
WRITTEN = ("png",)  # what ddkit encodes itself: lossless, and with a checksum of its own
LARGEST_PIXELS = 50_000_000  # of any image that comes from outside: decoding takes about ten bytes a pixel
ORIENTATION = 0x0112  # of EXIF: readers treat it differently, so a stored image has none
_PNG_TEXT = {b"eXIf", b"iTXt", b"tEXt", b"zTXt"}  # chunks that can hold an orientation
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # in entropy-coded data: neither stuffing nor a restart


def encode_image(pixels: np.ndarray, codec: str = "png") -> bytes:
    """uint8 [3,H,W] -> the bytes of the published member, lossless. Same pixels and same Pillow, same bytes."""
    if codec not in WRITTEN:
        raise unknown("image format", codec, WRITTEN)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(buffer, IMAGE_FORMATS[codec])
    return buffer.getvalue()


def decode_image(data: bytes, codec: str, where: str, side: int | None = None) -> np.ndarray:
    """The bytes of a published member -> uint8 [3,side,side]. side: None takes any extent up to LARGEST_PIXELS.

    Raises IntegrityError naming `where` for what does not decode, and for what readers could see differently: another
    size, mode or depth than 8-bit RGB, an EXIF orientation, several frames, something behind the image.
    """
    try:
        problem, pixels = _decoded(data, codec, side)
    except (OSError, SyntaxError, ValueError, IndexError, Image.DecompressionBombError) as error:
        raise IntegrityError(f"{where}: the image does not decode ({error}); fetch the set again") from error
    if problem or pixels is None:
        raise IntegrityError(f"{where}: the image {problem}; fetch the set again")
    return pixels


def _decoded(data: bytes, codec: str, side: int | None) -> tuple[str | None, np.ndarray | None]:
    chunks: set[bytes] = set()
    if codec == "png":
        chunks, end = _png_chunks(data)
        if data[24:26] != b"\x08\x02":  # of IHDR: bits a channel, colour type
            return "is no 8-bit RGB", None
    else:
        end = _jpeg_end(data) if codec == "jpg" else 8 + int.from_bytes(data[4:8], "little")
    with Image.open(io.BytesIO(data), formats=[IMAGE_FORMATS[codec]]) as image:
        if image.size != (side or image.width, side or image.height) or image.width * image.height > LARGEST_PIXELS:
            return f"is {image.width}x{image.height}, not {side}x{side}", None
        if image.format != IMAGE_FORMATS[codec] or image.mode != "RGB":
            return f"is {image.format} of mode {image.mode}, no RGB {IMAGE_FORMATS[codec]}", None
        if getattr(image, "n_frames", 1) != 1 or b"acTL" in chunks:
            return "has several frames", None
        if end != len(data):
            return f"ends at byte {end} of {len(data)}", None
        pixels = np.asarray(image).transpose(2, 0, 1).copy()
        if (codec != "png" or chunks & _PNG_TEXT) and image.getexif().get(ORIENTATION, 1) not in (0, 1):
            return "has an EXIF orientation", None
    return None, pixels


def _png_chunks(data: bytes) -> tuple[set[bytes], int]:
    """The kinds of chunks of a PNG, and where it ends: behind its first IEND. Raises ValueError without one."""
    at, kinds = 8, set()
    while at + 12 <= len(data):
        kind = data[at + 4 : at + 8]
        kinds.add(kind)
        at += 12 + int.from_bytes(data[at : at + 4], "big")
        if kind == b"IEND":
            return kinds, at
    raise ValueError("it has no end")


def _jpeg_end(data: bytes) -> int:
    """Where a JPEG ends: behind the end marker of its own image, not of a thumbnail's. Raises ValueError without."""
    at = 2
    while 0 < at + 4 <= len(data) + 2 and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xD9:
            return at + 2
        at += 1 if marker == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xDA:
            found = _JPEG_MARKER.search(data, at)
            at = found.start() if found else -4
    raise ValueError("it has no end")
