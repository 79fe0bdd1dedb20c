"""The stored image: encoded and decoded by one pair of functions, so that everyone sees the same pixels."""

from __future__ import annotations

import io
import re
import struct
import zlib

import numpy as np
from PIL import Image

from ddkit.errors import IntegrityError, unknown

IMAGE_FORMATS = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}  # what a set may hold
WRITTEN = ("png",)  # what ddkit encodes itself: lossless, and with a checksum of its own
LARGEST_PIXELS = 50_000_000  # of any image that comes from outside: decoding takes about ten bytes a pixel
ORIENTATION = 0x0112  # of EXIF: readers treat it differently, so a stored image has none
_PNG_TEXT = {b"eXIf", b"iTXt", b"tEXt", b"zTXt"}  # chunks that can hold an orientation
_PNG_CRITICAL = {b"IHDR", b"PLTE", b"IDAT", b"IEND"}
_PNG_FRAMES = {b"acTL", b"fcTL", b"fdAT"}
IMAGE_ERRORS = (
    *(OSError, SyntaxError, ValueError, IndexError, KeyError, TypeError, AttributeError, EOFError, OverflowError),
    *(struct.error, zlib.error, MemoryError, Image.DecompressionBombError, Image.DecompressionBombWarning),
)  # what Pillow raises for bytes that are no image
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # in entropy-coded data: neither stuffing nor a restart


def encode_image(pixels: np.ndarray, codec: str = "png") -> bytes:
    """uint8 [3,H,W] -> the bytes of the published member, lossless. Same pixels and same Pillow, same bytes."""
    if codec not in WRITTEN:
        raise unknown("image format", codec, WRITTEN)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(buffer, IMAGE_FORMATS[codec])
    return buffer.getvalue()


def check_image(data: bytes, codec: str, where: str, side: int) -> None:
    """See that the bytes of a published member are an image as `decode_image` takes it, and that of a PNG every line is
    there and nothing else, which Pillow does not tell. Raises IntegrityError naming `where`."""
    try:
        kinds, end = _png_chunks(data) if codec == "png" else (_PNG_TEXT, 0)
        plain = not kinds & _PNG_TEXT and end == len(data) and data[24:29] == b"\x08\x02\0\0\0"
        extent = struct.unpack(">II", data[16:24])
        if plain and extent == (side, side):  # what ddkit writes: no other decoder is needed to know it
            if not _png_is_whole(data, side, side):
                raise ValueError("it does not hold as many pixels as it says")
            return
        decode_image(data, codec, where, side)
        if codec == "png" and not _png_is_whole(data, side, side):
            raise ValueError("it does not hold as many pixels as it says")
    except IMAGE_ERRORS as error:
        raise IntegrityError(f"{where}: the image does not decode ({error}); fetch the set again") from error


def decode_image(data: bytes, codec: str, where: str, side: int | None = None) -> np.ndarray:
    """The bytes of a published member -> uint8 [3,side,side], not to be written to.

    side: None takes any extent up to LARGEST_PIXELS.

    Raises IntegrityError naming `where` for what does not decode, and for what readers could see differently: another
    size, mode or depth than 8-bit RGB, an EXIF orientation, several frames, something behind the image.
    """
    try:
        problem, pixels = _decoded(data, codec, side)
    except IMAGE_ERRORS as error:
        raise IntegrityError(f"{where}: the image does not decode ({error}); fetch the set again") from error
    if problem or pixels is None:
        raise IntegrityError(f"{where}: the image {problem}; fetch the set again")
    return pixels


def _decoded(data: bytes, codec: str, side: int | None) -> tuple[str | None, np.ndarray | None]:
    orientable = True
    if codec == "png":
        kinds, end = _png_chunks(data)
        orientable = bool(kinds & _PNG_TEXT)
        if data[24:26] != b"\x08\x02":  # of IHDR: bits a channel, colour type
            return "is no 8-bit RGB", None
    else:
        end = _jpeg_end(data) if codec == "jpg" else _webp_end(data)
    if end != len(data):
        return f"ends at byte {end} of {len(data)}", None
    with Image.open(io.BytesIO(data), formats=[IMAGE_FORMATS[codec]]) as image:
        if image.size != (side or image.width, side or image.height) or image.width * image.height > LARGEST_PIXELS:
            return f"is {image.width}x{image.height}, not {side}x{side}", None
        if image.format != IMAGE_FORMATS[codec] or image.mode != "RGB":
            return f"is {image.format} of mode {image.mode}, no RGB {IMAGE_FORMATS[codec]}", None
        if getattr(image, "n_frames", 1) != 1:
            return "has several frames", None
        pixels = np.asarray(image).transpose(2, 0, 1)
        if orientable and image.getexif().get(ORIENTATION, 1) not in (0, 1):
            return "has an EXIF orientation", None
    return None, pixels


def _png_chunks(data: bytes) -> tuple[set[bytes], int]:
    """The kinds of chunks of a PNG, each compared with its checksum, and where it ends: behind its first IEND.

    Raises ValueError where it does not begin with one IHDR of 13 bytes, holds chunks that readers must know and may
    not, or frames of an animation, or has no end.
    """
    if data[8:16] != b"\0\0\0\x0dIHDR" or data[26:28] != b"\0\0" or data[28:29] not in (b"\0", b"\1"):
        raise ValueError("it does not begin as a PNG does")
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
    """Whether the packed lines of a PNG are as many as its extent asks for, and nothing is packed behind them."""
    packed, at = [], 8
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        packed += [data[at + 8 : at + 8 + length]] if data[at + 4 : at + 8] == b"IDAT" else []
        at += 12 + length
    due = sum(h * (1 + 3 * w) for w, h in _png_passes(width, height, data[28] == 1) if w and h)
    unpacking = zlib.decompressobj()
    lines = unpacking.decompress(packed[0] if len(packed) == 1 else b"".join(packed), due + 1)
    filters = lines[:: 1 + 3 * width] if data[28] == 0 else b""  # the first byte of each line says how it was filtered
    return len(lines) == due and unpacking.eof and not unpacking.unused_data and max(filters, default=0) <= 4


def _png_passes(width: int, height: int, interlaced: bool) -> list[tuple[int, int]]:
    """Width and height of the parts in which a PNG holds its lines (Adam7: seven)."""
    if not interlaced:
        return [(width, height)]
    starts = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    return [(-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in starts]


def _jpeg_end(data: bytes) -> int:
    """Where a JPEG ends: behind the end marker of its own image, not of a thumbnail's. Raises ValueError without."""
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
    """Where a WebP ends. Raises ValueError for one that does not hold exactly one still image."""
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
    found = Image.Exif()
    found.load(exif if exif.startswith(b"Exif") else b"Exif\0\0" + exif)
    return found.get(ORIENTATION, 1) not in (0, 1)
