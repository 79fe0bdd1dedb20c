"""Memory of batches, which is used again as soon as nothing refers to a batch any more."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

ALIGNED = 64  # bytes, as torch aligns its own tensors


class BatchBuffers:
    """Hands out float32 tensors on the CPU. Fresh memory is as slow to write as a batch is to compute.

    A tensor from `torch.from_numpy` holds a reference to its array for as long as the tensor, a view of it, an array of
    it or a graph that saved it exists. An array without such a reference can therefore be used for another batch.

    Args:
        most: Number of arrays to keep; while all are in use, tensors have memory of their own.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._start()

    def _start(self) -> None:
        self._arrays, self._lock, self._process = list[np.ndarray](), threading.Lock(), os.getpid()

    def __reduce__(self) -> Any:
        return type(self), (self._most,)  # in another process: without the arrays

    def take(self, shape: Sequence[int]) -> Tensor:
        """Return a contiguous tensor with undefined values.

        Args:
            shape: Shape of the tensor.
        """
        size = int(np.prod(shape))
        if self._process != os.getpid():  # forked, possibly while a thread of the parent held the lock
            self._start()
        with self._lock:
            for i in range(len(self._arrays)):
                if _references(self._arrays, i) == _UNUSED:
                    if len(self._arrays[i]) < size:
                        self._arrays[i] = _allocate(size)
                    return torch.from_numpy(self._arrays[i])[:size].view(*shape)
            array = _allocate(size)
            if len(self._arrays) < self._most:
                self._arrays.append(array)
            return torch.from_numpy(array)[:size].view(*shape)


def _allocate(size: int) -> np.ndarray:
    """Float32 [size], aligned."""
    memory = np.empty(size + ALIGNED // 4, np.float32)
    start = -memory.ctypes.data % ALIGNED // 4
    found: np.ndarray = memory[start : start + size]
    return found


def _references(arrays: Sequence[np.ndarray], i: int) -> int:
    return sys.getrefcount(arrays[i])


_UNUSED = _references([np.empty(1)], 0)  # references to an array that only a list refers to
