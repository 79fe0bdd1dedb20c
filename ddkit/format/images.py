"""Encoding, decoding and checking of stored images. All code uses these functions, so all readers get equal pixels."""

from __future__ import annotations

import io
import re
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

from ddkit.errors import IntegrityError, unknown

IMAGE_FORMATS = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}  # formats that a set may use
# formats that ddkit encodes: png is lossless and has checksums, webp lossless and smaller, jpg smaller and lossy
WRITTEN = ("png", "webp", "jpg")
JPEG_QUALITY = 75  # of `jpg`: Pillow's default, and what the baselines of equal bytes are stored with
# How each format is encoded. Optimised Huffman tables change no pixel and make small JPEGs much smaller.
_ENCODING: dict[str, dict[str, Any]] = {
    "png": {},
    "webp": {"lossless": True, "quality": 100},
    "jpg": {"quality": JPEG_QUALITY, "subsampling": "4:2:0", "optimize": True},
}
LARGEST_PIXELS = 50_000_000  # limit for untrusted images: decoding takes about ten bytes per pixel
ORIENTATION = 0x0112  # EXIF tag: readers treat it differently, so stored images must not have it
_PNG_TEXT = {b"eXIf", b"iTXt", b"tEXt", b"zTXt"}  # chunks that can hold an orientation
_PNG_CRITICAL = {b"IHDR", b"PLTE", b"IDAT", b"IEND"}
_PNG_FRAMES = {b"acTL", b"fcTL", b"fdAT"}
IMAGE_ERRORS = (
    *(OSError, SyntaxError, ValueError, LookupError, TypeError, AttributeError, EOFError, ArithmeticError, MemoryError),
    *(AssertionError, RuntimeError, struct.error, zlib.error),
    *(Image.DecompressionBombError, Image.DecompressionBombWarning),
)  # raised by Pillow for bytes that are not a valid image
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # a marker, but neither stuffing nor a restart


def encode_image(pixels: np.ndarray, codec: str = "png") -> bytes:
    """Encode an image. Equal pixels and equal versions of Pillow give equal bytes.

    Args:
        pixels: uint8 [3,H,W].
        codec: Image format, one of WRITTEN: `png` and `webp` are lossless; `jpg` has quality JPEG_QUALITY with chroma
            at half the resolution (4:2:0).

    Raises:
        OptionError: ddkit does not write this format.
    """
    if codec not in WRITTEN:
        raise unknown("image format", codec, WRITTEN)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(
        buffer, IMAGE_FORMATS[codec], **_ENCODING[codec]
    )
    return buffer.getvalue()


def check_image(data: bytes, codec: str, where: str, side: int) -> None:
    """Check that bytes are an image that `decode_image` accepts.

    A PNG must also contain every line and no further data, which Pillow does not check.

    Args:
        data: Bytes of the image.
        codec: Image format.
        where: Name of the row in messages.
        side: Width and height in pixels.

    Raises:
        IntegrityError: The image is not valid.
    """
    try:
        kinds, end = _png_chunks(data) if codec == "png" else (_PNG_TEXT, 0)
        plain = not kinds & _PNG_TEXT and end == len(data) and data[24:29] == b"\x08\x02\0\0\0"
        extent = struct.unpack(">II", data[16:24])
        if plain and extent == (side, side):  # a PNG as ddkit writes it: Pillow is not needed
            if not _png_is_whole(data, side, side):
                raise ValueError("it holds fewer pixels than its header says")
            return
        decode_image(data, codec, where, side)
        if codec == "png" and not _png_is_whole(data, side, side):
            raise ValueError("it holds fewer pixels than its header says")
    except IMAGE_ERRORS as error:
        raise IntegrityError(f"{where}: the image does not decode ({error}); fetch the set again") from error


def decode_image(data: bytes, codec: str, where: str, side: int | None = None) -> np.ndarray:
    """Decode an image to uint8 [3,side,side], as a read-only array.

    Args:
        data: Bytes of the image.
        codec: Image format.
        where: Name of the row in messages.
        side: Width and height in pixels; None accepts any size up to LARGEST_PIXELS.

    Raises:
        IntegrityError: The image does not decode, or other readers could decode it differently: another size, mode or
            depth than 8-bit RGB, an EXIF orientation, several frames, or data after the end of the image.
    """
    try:
        problem, pixels = _decoded(data, codec, side)
    except IMAGE_ERRORS as error:
        raise IntegrityError(f"{where}: the image does not decode ({error}); fetch the set again") from error
    if problem or pixels is None:
        raise IntegrityError(f"{where}: the image {problem}; fetch the set again")
    return pixels


def _decoded(data: bytes, codec: str, side: int | None) -> tuple[str | None, np.ndarray | None]:
    """(problem, pixels) of an image; one of them is None."""
    orientable = True
    if codec == "png":
        kinds, end = _png_chunks(data)
        orientable = bool(kinds & _PNG_TEXT)
        if data[24:26] != b"\x08\x02":  # IHDR: bits per channel, colour type
            return "is not 8-bit RGB", None
    else:
        end = _jpeg_end(data) if codec == "jpg" else _webp_end(data)
    if end != len(data):
        return f"ends at byte {end} of {len(data)}", None
    with Image.open(io.BytesIO(data), formats=[IMAGE_FORMATS[codec]]) as image:
        if image.size != (side or image.width, side or image.height) or image.width * image.height > LARGEST_PIXELS:
            return f"is {image.width}x{image.height}, not {side}x{side}", None
        if image.format != IMAGE_FORMATS[codec] or image.mode != "RGB":
            return f"is {image.format} of mode {image.mode}, not an RGB {IMAGE_FORMATS[codec]}", None
        if getattr(image, "n_frames", 1) != 1:
            return "has several frames", None
        pixels = np.asarray(image).transpose(2, 0, 1)
        if orientable and image.getexif().get(ORIENTATION, 1) not in (0, 1):
            return "has an EXIF orientation", None
    return None, pixels


def _png_chunks(data: bytes) -> tuple[set[bytes], int]:
    """(types of chunks, offset of the end) of a PNG. The end is behind the first IEND; checksums are verified.

    Raises ValueError if the PNG does not begin with one IHDR of 13 bytes, has an unknown critical chunk or an animation
    frame, or has no end.
    """
    if data[8:16] != b"\0\0\0\x0dIHDR" or data[26:28] != b"\0\0" or data[28:29] not in (b"\0", b"\1"):
        raise ValueError("it does not begin like a PNG")
    at, kinds = 8, set[bytes]()
    while at + 12 <= len(data):
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        at += 12 + length
        if at > len(data) or zlib.crc32(data[at - length - 8 : at - 4]) != int.from_bytes(data[at - 4 : at], "big"):
            raise ValueError(f"its chunk {kind!r} is not what was written")
        if kind == b"IHDR" and kind in kinds or kind in _PNG_FRAMES or kind[:1].isupper() and kind not in _PNG_CRITICAL:
            raise ValueError(f"it holds a chunk {kind!r}")
        kinds.add(kind)
        if kind == b"IEND":
            return kinds, at
    raise ValueError("it has no end")


def _png_is_whole(data: bytes, width: int, height: int) -> bool:
    """Whether the compressed data of a PNG holds exactly the lines of an image of this size and nothing more."""
    packed, at = [], 8
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        packed += [data[at + 8 : at + 8 + length]] if data[at + 4 : at + 8] == b"IDAT" else []
        at += 12 + length
    due = sum(h * (1 + 3 * w) for w, h in _png_passes(width, height, data[28] == 1) if w and h)
    unpacking = zlib.decompressobj()
    lines = unpacking.decompress(packed[0] if len(packed) == 1 else b"".join(packed), due + 1)
    filters = lines[:: 1 + 3 * width] if data[28] == 0 else b""  # the first byte of each line is its filter type
    return len(lines) == due and unpacking.eof and not unpacking.unused_data and max(filters, default=0) <= 4


def _png_passes(width: int, height: int, interlaced: bool) -> list[tuple[int, int]]:
    """Width and height of the passes of a PNG: one, or the seven of Adam7 if it is interlaced."""
    if not interlaced:
        return [(width, height)]
    starts = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    return [(-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in starts]


def _jpeg_end(data: bytes) -> int:
    """Offset of the end of a JPEG: behind its own end marker, not that of a thumbnail. Raises ValueError if missing."""
    at = 2
    while 0 < at + 2 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xD9:
            return at + 2
        at += 1 if marker == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xDA:
            found = _JPEG_MARKER.search(data, at)
            at = found.start() if found else -4
    raise ValueError("it has no end")


def _webp_end(data: bytes) -> int:
    """Offset of the end of a WebP. Raises ValueError if it does not hold exactly one still image."""
    at, kinds = 12, list[bytes]()
    while at + 8 <= len(data):
        kind, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        kinds.append(kind)
        if kind == b"EXIF" and _turned(data[at + 8 : at + 8 + length]):
            raise ValueError("it has an EXIF orientation")
        at += 8 + length + length % 2
    if sum(kinds.count(kind) for kind in (b"VP8L", b"VP8 ")) != 1 or {b"ANIM", b"ANMF"} & set(kinds):
        raise ValueError("it does not hold exactly one still image")
    return 8 + int.from_bytes(data[4:8], "little")


def _turned(exif: bytes) -> bool:
    """Whether EXIF data contains an orientation other than the default."""
    found = Image.Exif()
    found.load(exif if exif.startswith(b"Exif") else b"Exif\0\0" + exif)
    return found.get(ORIENTATION, 1) not in (0, 1)
