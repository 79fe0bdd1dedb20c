"""The replay order (docs/format.md): depends only on seed, epoch and shard sizes, not on ranks or batch size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ddkit.core.seeds import permutation
from ddkit.errors import OptionError

GROUP = 8  # shards whose rows are permuted together; bounds the memory that streaming a set needs


def epoch_order(sizes: Sequence[int], seed: int, epoch: int) -> np.ndarray:
    """Return the row positions of one epoch in replay order, int64 [sum(sizes)].

    Shards are permuted and taken in groups of 8, and the rows of each group are permuted. For up to 8 shards this is a
    full permutation.

    Args:
        sizes: Rows of each shard, in manifest order.
        seed: Seed of the order.
        epoch: Number of the epoch, from 0.
    """
    starts = np.concatenate([[0], np.cumsum(sizes)])
    shards = permutation(seed, len(sizes), "shards", epoch)
    parts = []
    for group in range(0, len(shards), GROUP):
        rows = np.concatenate([np.arange(starts[s], starts[s] + sizes[s]) for s in shards[group : group + GROUP]])
        parts.append(rows[permutation(seed, len(rows), "rows", epoch, group // GROUP)])
    return np.concatenate(parts)


def check_batch(rows: int, batch_size: int, world_size: int) -> None:
    """Check that every rank gets at least one row of every batch.

    Args:
        rows: Rows per epoch.
        batch_size: Rows per global batch.
        world_size: Number of ranks.

    Raises:
        OptionError: The last batch has fewer rows than there are ranks (the message suggests batch sizes that work), or
            `batch_size` is below 1.
    """
    if batch_size < 1:
        raise OptionError(f"batch_size is {batch_size}; at least 1 is needed")
    last = rows % min(batch_size, rows) or min(batch_size, rows)
    if last < world_size:
        sizes = sorted(range(1, rows + 1), key=lambda b: abs(b - batch_size))
        good = [b for b in sizes if (rows % b or b) >= world_size][:3]
        advice = f"sizes that work: {', '.join(map(str, sorted(good)))}" if good else f"use at most {rows} ranks"
        short = f"batch_size {batch_size} leaves {last} of {rows} rows for the last batch"
        raise OptionError(f"{short}, too few for {world_size} ranks; {advice}")
