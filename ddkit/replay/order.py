"""The replay order (docs/format.md): a pure function of (seed, epoch), the same for every rank and batch size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ddkit.core.seeds import permutation
from ddkit.errors import OptionError

GROUP = 8  # shards whose rows are permuted together, so that any set streams in bounded memory


def epoch_order(sizes: Sequence[int], seed: int, epoch: int) -> np.ndarray:
    """Row positions of one epoch, int64 [sum(sizes)].

    sizes: rows of each shard, in manifest order. Permute the shards, take them in groups of 8, permute the rows of
    each group; up to 8 shards that is a full permutation.
    """
    starts = np.concatenate([[0], np.cumsum(sizes)])
    shards = permutation(seed, len(sizes), "shards", epoch)
    parts = []
    for group in range(0, len(shards), GROUP):
        rows = np.concatenate([np.arange(starts[s], starts[s] + sizes[s]) for s in shards[group : group + GROUP]])
        parts.append(rows[permutation(seed, len(rows), "rows", epoch, group // GROUP)])
    return np.concatenate(parts)


def rank_slice(n: int, rank: int, world_size: int) -> slice:
    """Which rows of a global batch of n rows a rank takes: n*r//R to n*(r+1)//R."""
    return slice(n * rank // world_size, n * (rank + 1) // world_size)


def check_batch(rows: int, batch_size: int, world_size: int) -> None:
    """Raises OptionError, naming batch sizes that work, where the last batch has fewer rows than there are ranks."""
    if batch_size < 1:
        raise OptionError(f"batch_size is {batch_size}; at least 1 is needed")
    last = rows % min(batch_size, rows) or min(batch_size, rows)
    if last < world_size:
        sizes = sorted(range(1, rows + 1), key=lambda b: abs(b - batch_size))
        good = [b for b in sizes if (rows % b or b) >= world_size][:3]
        advice = f"sizes that work: {', '.join(map(str, sorted(good)))}" if good else f"use at most {rows} ranks"
        short = f"batch_size {batch_size} leaves {last} of {rows} rows to the last batch"
        raise OptionError(f"{short}, too few for {world_size} ranks; {advice}")
