"""The only source of randomness: counter-based generators named by a path, never the global generator."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np


def rng(seed: int, *path: str | int) -> np.random.Generator:
    """A generator that depends on (seed, path) alone, so any draw can be made alone, anywhere, in any order.

    The Philox key is the first 128 bits of sha256 over the seed and the path. `rng(0, "view", 7)` and
    `rng(0, "view", 8)` are independent streams; neither depends on what was drawn before.
    """
    name = "\x1f".join([str(int(seed)), *(f"{type(part).__name__[0]}{part}" for part in path)])
    digest = hashlib.sha256(name.encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def torch_seed(seed: int, *path: str | int) -> int:
    """A 63-bit seed for a `torch.Generator`, by the same rule as `rng`."""
    return int(rng(seed, *path).integers(0, 2**63 - 1))


def permutation(seed: int, n: int, *path: str | int) -> np.ndarray:
    """A permutation of range(n), int64, named by (seed, path)."""
    return rng(seed, *path).permutation(n)


def nested_choice(seed: int, items: Sequence[int] | np.ndarray, *path: str | int) -> np.ndarray:
    """`items` in one seeded order: every shorter choice is a prefix of a longer one."""
    items = np.asarray(items)
    found: np.ndarray = items[permutation(seed, len(items), *path)]
    return found
