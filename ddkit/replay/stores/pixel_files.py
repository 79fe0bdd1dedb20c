"""Decoded images of a shard as a file in the user's cache, so that each image is decoded once and not every epoch."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL

from ddkit.core.console import size_words
from ddkit.core.files import atomic_file, cache_dir, is_abandoned
from ddkit.core.locks import locked
from ddkit.errors import DiskError
from ddkit.format.damage import mapped
from ddkit.format.entries import RowRecord

EXACT = ("png",)  # formats that every version of every decoder decodes to the same pixels


@dataclass(frozen=True)
class PixelFile:
    """The images of a shard as uint8 [n,H,W,3].

    The file is named by a hash of what determines the pixels, so sets with the same images share it. It may be deleted
    at any time; a file of another size is made again.

    Attributes:
        path: The file.
        shape: (n, H, W, 3).
    """

    path: Path
    shape: tuple[int, int, int, int]

    @classmethod
    def of(cls, records: Sequence[RowRecord], codec: str, side: int) -> PixelFile:
        """Return the file for the images of a shard, which need not exist.

        Args:
            records: Row records of the shard.
            codec: Image format.
            side: Width and height of the images in pixels.
        """
        decoder = "" if codec in EXACT else PIL.__version__
        lines = [f"pixels 1 {codec} {decoder} {side}", *(record.image.sha256 for record in records)]
        name = hashlib.sha256("\n".join(lines).encode()).hexdigest()
        return cls(cache_dir() / "pixels" / f"{name}.u8", (len(records), side, side, 3))

    @property
    def bytes(self) -> int:
        """Size of the file."""
        return int(np.prod(self.shape))

    def is_there(self) -> bool:
        """Return whether the file exists and has the right size."""
        return self.path.is_file() and self.path.stat().st_size == self.bytes

    def open(self) -> np.ndarray:
        """Return the images as a read-only mapped array, uint8 [n,H,W,3]."""
        return np.frombuffer(mapped(self.path), np.uint8).reshape(self.shape)

    @contextlib.contextmanager
    def writing(self) -> Iterator[Callable[[np.ndarray], None] | None]:
        """Write the file atomically, while other processes that need it wait.

        Yields:
            The function to call with each image, uint8 [3,H,W], in order; None if another process has written the file.

        Raises:
            DiskError: The file cannot be written.
        """
        try:
            with locked(self.path, "decoding images"):
                if self.is_there():
                    yield None
                    return
                for other in self.path.parent.iterdir():
                    if is_abandoned(other):
                        other.unlink(missing_ok=True)
                with atomic_file(self.path) as temporary, open(temporary, "wb") as file:
                    yield lambda image: _write(file, image)
        except DiskError as error:
            raise DiskError(
                f"the decoded images of a shard ({size_words(self.bytes)}) cannot be kept: {error}; set DDKIT_CACHE to "
                'a folder on a larger disk, or give store="memory"'
            ) from error


def _write(file: Any, image: np.ndarray) -> None:
    file.write(np.ascontiguousarray(image.transpose(1, 2, 0)))
