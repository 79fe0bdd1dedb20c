"""Reads many images of a source at once, and keeps those of small sources for the next network that reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from ddkit.core.console import progress
from ddkit.core.device import cores

Result = TypeVar("Result")

KEPT_BYTES = 2**30  # larger sources are decoded again by every network that reads them,
KEPT_PART = 32  # and so are those that take more than this part of the free memory: every worker process may keep one


class Squares:
    """The images of a small source as squares of one size, decoded when they are first taken.

    Memory is used only by what has been decoded.

    Args:
        images: Number of images.
        size: Side of a square, pixels.
        read: Index of an image -> its square, uint8 [3,size,size].
    """

    def __init__(self, images: int, size: int, read: Callable[[int], Tensor]) -> None:
        with torch.inference_mode(False):  # the first network that reads them may be in that mode, the next not
            self._pixels = torch.empty((images, 3, size, size), dtype=torch.uint8)
        self._is_read = np.zeros(images, bool)
        self._read = read

    def take(self, images: np.ndarray) -> Tensor:
        """Return some squares: uint8 [n,3,size,size].

        Args:
            images: Their indices, int64 [n].

        Raises:
            ImagesUnreadable: An image does not decode.
        """
        self._fill(np.unique(images), None)
        return self._pixels[torch.from_numpy(images)]

    def all(self, title: str) -> Tensor:
        """Return all squares, which are not to be changed: uint8 [n,3,size,size]; raises as `take`.

        Args:
            title: Of the progress bar.
        """
        self._fill(np.arange(len(self._is_read)), title)
        return self._pixels

    def _fill(self, images: np.ndarray, title: str | None) -> None:
        """Read those of some images that have not been read."""
        missing = images[~self._is_read[images]]

        def read(i: int) -> None:
            self._pixels[missing[i]] = self._read(int(missing[i]))
            self._is_read[missing[i]] = True

        for _ in side_by_side(read, len(missing), title):
            pass


def side_by_side(work: Callable[[int], Result], n: int, title: str | None) -> Iterator[Result]:
    """Yield work(0) … work(n-1) in order, computed on all cores, with progress if there are many.

    A thread takes several images at a time: handing over one small image takes as long as decoding it. A few thousand
    are submitted at a time, which bounds the number of queued tasks.

    Args:
        work: What to compute for an index.
        n: Number of indices.
        title: Of the progress bar; None: it is not shown.
    """
    threads = cores()
    several = min(32, -(-n // (4 * threads)) or 1)
    shown = n if title is not None and n > 5000 else 0
    with ThreadPoolExecutor(threads) as pool, progress(title or "", shown, "images") as advance:
        for start in range(0, n, 4096):
            stop = min(start + 4096, n)
            tasks = [range(first, min(first + several, stop)) for first in range(start, stop, several)]
            for results in pool.map(lambda task: [work(i) for i in task], tasks):
                yield from results
                advance(len(results))
