"""Checks of a source's tar files before `datasets` reads them: regular files only, no archives or pickles."""

from __future__ import annotations

import tarfile
from pathlib import Path, PurePosixPath
from typing import Self

from ddkit.errors import SourceError

_CODE = {"pth", "pt", "pkl", "pickle"}  # reading them executes code
_PACKED = {"gz", "bz2", "xz", "lzma", "zst", "zstd", "lz4", "zip", "7z", "tar", "tgz"}  # may expand to gigabytes


_EXTENSIONS = (b"x", b"g", b"X", b"L", b"K")  # types of members that extend the next header, by a long name for example
LONGEST_EXTENSION = 2**20  # bytes of such a member


class _Header(tarfile.TarInfo):
    """A header of a possible size.

    `tarfile` itself reads the same members for ever if one has a negative size, and allocates what an extension says.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        found = super().frombuf(buf, encoding, errors)
        if found.size < 0 or (found.type in _EXTENSIONS and found.size > LONGEST_EXTENSION):
            raise ValueError(f"a header or a member of {found.size} bytes")
        return found


def check_tar(path: Path) -> None:
    """Check that a tar file is safe and complete.

    Args:
        path: The tar file.

    Raises:
        SourceError: It is compressed or truncated, or contains links, devices, sparse files, pickles or archives; the
            message names the member.
    """
    size = path.stat().st_size
    try:
        with tarfile.open(path, "r:", tarinfo=_Header) as tar:
            for info in tar:
                if problem := _problem(info, size):
                    raise SourceError(f"{path}: {info.name[:200]!r} is {problem}; remove it and pack the rest again")
    except (tarfile.TarError, EOFError, ValueError, IndexError, OverflowError, RecursionError, OSError) as error:
        raise SourceError(
            f"{path} is not a complete, uncompressed tar file ({error}); fetch it again, or unpack it first"
        ) from error


def _problem(info: tarfile.TarInfo, size: int) -> str | None:
    if info.isdir():
        return None
    if not info.isreg() or info.issparse():
        return "not a regular file (a link, a device or a sparse file)"
    if info.size < 0 or info.offset_data + info.size > size:  # a pax header states another size than the first
        return "not whole"
    suffix = PurePosixPath(info.name).suffix[1:].lower()
    if suffix in _CODE:
        return "a pickle or code, which ddkit does not read"
    if suffix in _PACKED:
        return "an archive, which ddkit does not unpack"
    return None
