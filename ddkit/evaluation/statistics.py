"""Mean, standard deviation, and paired difference with its 95 % confidence interval."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ddkit.format.results import Difference


def mean_std(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and sample standard deviation (0 for a single value).

    Args:
        values: At least one value.
    """
    mean = sum(values) / len(values)
    spread = sum((v - mean) ** 2 for v in values)
    return mean, math.sqrt(spread / (len(values) - 1)) if len(values) > 1 else 0.0


def paired_difference(
    ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]], to: str = "random"
) -> Difference | None:
    """Mean of the paired differences (same set number and seed), with its 95 % confidence interval by Student's t.

    With three or more sets, each pair is a set mean, since students of one set are not independent.

    Args:
        ours: Accuracies in percent, one list per set.
        theirs: Accuracies of the baseline, in the same order.
        to: Name of the baseline.

    Returns:
        The difference in percentage points, or None for fewer than two pairs.
    """
    pairs = [[a - b for a, b in zip(x, y)] for x, y in zip(ours, theirs)]
    values = [sum(p) / len(p) for p in pairs] if len(pairs) >= 3 else [d for p in pairs for d in p]
    if len(values) < 2:
        return None
    from scipy.stats import t

    mean, std = mean_std(values)
    half = float(t.ppf(0.975, len(values) - 1)) * std / math.sqrt(len(values))
    return Difference(
        mean=round(mean, 2), low=round(mean - half, 2), high=round(mean + half, 2), pairs=len(values), to=to
    )
