"""Random generators: counter-based, identified by a seed and a path; global generators are never used."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np


def rng(seed: int, *path: str | int) -> np.random.Generator:
    """Return a generator that depends on (seed, path) alone, so that draws can be made in any order and on any machine.

    The Philox key is the first 128 bits of the sha256 over seed and path. `rng(0, "view", 7)` and `rng(0, "view", 8)`
    are independent streams; neither depends on what was drawn before.

    Args:
        seed: Seed of the run.
        *path: Names and indices that identify the stream.
    """
    name = "\x1f".join([str(int(seed)), *(f"{type(part).__name__[0]}{part}" for part in path)])
    digest = hashlib.sha256(name.encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def torch_seed(seed: int, *path: str | int) -> int:
    """Return a 63-bit seed for a `torch.Generator`.

    Args:
        seed: Seed of the run.
        *path: Names and indices that identify the stream, as in `rng`.
    """
    return int(rng(seed, *path).integers(0, 2**63 - 1))


def permutation(seed: int, n: int, *path: str | int) -> np.ndarray:
    """Return a permutation of range(n), int64.

    Args:
        seed: Seed of the run.
        n: Number of elements.
        *path: Names and indices that identify the stream, as in `rng`.
    """
    return rng(seed, *path).permutation(n)


def nested_choice(seed: int, items: Sequence[int] | np.ndarray, *path: str | int) -> np.ndarray:
    """Return items in a seeded order whose first k elements are the choice of k, so smaller choices are prefixes.

    Args:
        seed: Seed of the run.
        items: The items.
        *path: Names and indices that identify the stream, as in `rng`.
    """
    items = np.asarray(items)
    found: np.ndarray = items[permutation(seed, len(items), *path)]
    return found
