"""Images inside zip files, read in place without extraction."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from ddkit.errors import SourceError
from ddkit.sources.decoding import LARGEST_BYTES, SUFFIXES

ZIP_ERRORS = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError, OverflowError),
    *(RuntimeError, NotImplementedError, KeyError, IndexError, UnicodeError, MemoryError),
)  # raised by the standard library for invalid zip files
_BOUNDED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # methods of which zipfile can unpack a part


class Archive:
    """The images of some zip files.

    Args:
        files: The zip files.

    Attributes:
        names: Paths of the images within the archives, sorted; an image outside folders gets the stem of its zip as
            folder.

    Raises:
        SourceError: A file is not a complete zip file, or there are no images.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._opened: list[zipfile.ZipFile] = []
        found: list[tuple[str, int, zipfile.ZipInfo]] = []
        for number, file in enumerate(files):
            try:
                archive = zipfile.ZipFile(file)
            except ZIP_ERRORS as error:
                raise SourceError(f"{file} is not a complete zip file ({error}); fetch it again") from error
            self._opened.append(archive)
            for info in archive.infolist():
                path = PurePosixPath(info.filename)
                hidden = any(part.startswith((".", "__MACOSX")) for part in path.parts)
                if path.suffix.lower() in SUFFIXES and not info.is_dir() and not hidden:
                    prefix = f"{file.stem}/" if len(path.parts) == 1 else ""  # a zip of loose images is one class
                    found.append((prefix + info.filename, number, info))
        self._entries = sorted(found, key=lambda entry: (entry[0], entry[1]))
        self.names = [name for name, _, _ in self._entries]
        if not self.names:
            raise SourceError(f"{files[0]} holds no images; expected CLASS/IMAGE.jpg inside")

    def read(self, i: int) -> bytes:
        """Return the bytes of image `i`.

        Raises:
            OSError: The archive is damaged, the image is larger than LARGEST_BYTES, or it is compressed by a method
                other than deflate.
        """
        name, number, info = self._entries[i]
        if info.file_size > LARGEST_BYTES:
            raise OSError(f"{name} unpacks to {info.file_size} bytes")
        if info.compress_type not in _BOUNDED:
            raise OSError(f"{name} is compressed by another method than deflate; pack the archive again")
        try:
            with self._opened[number].open(info) as member:
                return member.read(info.file_size)  # `read()` would unpack all there is, and keep as much as this
        except ZIP_ERRORS as error:
            raise OSError(f"{name}: {error or type(error).__name__}") from error

    def class_folders(self) -> list[str]:
        """Return, for each image, the name of the folder that contains it, which is its class."""
        return [PurePosixPath(name).parent.name for name in self.names]
