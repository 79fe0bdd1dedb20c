"""Tar files of a source, before `datasets` reads them: plain files only, none that would be unpacked or executed."""

from __future__ import annotations

import tarfile
from pathlib import Path, PurePosixPath

from ddkit.errors import SourceError

_CODE = {"pth", "pt", "pkl", "pickle"}  # decoded by running what is in them
_PACKED = {"gz", "bz2", "xz", "lzma", "zst", "zstd", "lz4", "zip", "7z", "tar", "tgz"}  # a few bytes become gigabytes


def check_tar(path: Path) -> None:
    """Raises SourceError, naming the member, for a tar that holds links, devices, holes, pickles or archives, that is
    compressed itself, or whose members reach beyond its end."""
    size = path.stat().st_size
    try:
        with tarfile.open(path, "r:") as tar:
            for info in tar:
                if problem := _problem(info, size):
                    raise SourceError(f"{path}: {info.name[:200]!r} is {problem}; take it out and pack the rest again")
    except (tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError, OSError) as error:
        raise SourceError(
            f"{path} is no plain, whole tar file ({error}); fetch it again, or unpack it first"
        ) from error


def _problem(info: tarfile.TarInfo, size: int) -> str | None:
    if info.isdir():
        return None
    if not info.isreg() or info.issparse():
        return "no plain file (a link, a device, or one with holes)"
    if info.offset_data + info.size > size:
        return "not whole"
    suffix = PurePosixPath(info.name).suffix[1:].lower()
    if suffix in _CODE:
        return "a pickle or code, which ddkit does not read"
    if suffix in _PACKED:
        return "an archive, which ddkit does not unpack"
    return None
