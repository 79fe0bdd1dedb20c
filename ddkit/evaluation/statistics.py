"""Mean, standard deviation, and paired difference with its 95 % confidence interval."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ddkit.core.seeds import rng
from ddkit.format.results import Difference

RESAMPLES = 10_000


def mean_std(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and sample standard deviation (0 for a single value).

    Args:
        values: At least one value.
    """
    mean = sum(values) / len(values)
    spread = sum((v - mean) ** 2 for v in values)
    return mean, math.sqrt(spread / (len(values) - 1)) if len(values) > 1 else 0.0


def paired_difference(
    ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]], to: str = "random", digits: int | None = 2
) -> Difference | None:
    """Mean of the paired differences (same set number and seed), with its 95 % confidence interval.

    With one set, or one student of each set, the interval is Student's t of the pairs. Where both sets and students
    vary, students of one set are not independent: the standard error is that of a bootstrap over sets and over the
    students of each drawn set (RESAMPLES seeded resamples), times sqrt(S / (S - 1)) for the small number S of sets
    (Davison & Hinkley 1997, section 2.4: resampling few units underestimates their variance), and the interval is that
    of Student's t with S - 1 degrees of freedom. It says what another set would give, so with two sets it is wide.

    Args:
        ours: Values, one list per set.
        theirs: Values of the baseline, in the same order.
        to: Name of the baseline.
        digits: Decimal places of the result; None: not rounded.

    Returns:
        The difference, where `pairs` is the number of sets if both vary, else of students; None for fewer than two
        pairs.
    """
    pairs = [[a - b for a, b in zip(x, y)] for x, y in zip(ours, theirs)]
    if len(pairs) > 1 and max(map(len, pairs)) > 1:
        values = [sum(p) / len(p) for p in pairs]
        error = _bootstrap_error(pairs) * math.sqrt(len(pairs) / (len(pairs) - 1))
    else:
        values = [d for p in pairs for d in p]
        error = mean_std(values)[1] / math.sqrt(len(values)) if values else 0.0
    if len(values) < 2:
        return None
    from scipy.stats import t

    mean, half = sum(values) / len(values), float(t.ppf(0.975, len(values) - 1)) * error
    low, high = mean - half, mean + half
    if digits is not None:
        mean, low, high = round(mean, digits), round(low, digits), round(high, digits)
    return Difference(mean=mean, low=low, high=high, pairs=len(values), to=to)


def _bootstrap_error(pairs: Sequence[Sequence[float]]) -> float:
    """Return the standard error of the mean of set means by a two-level bootstrap."""
    generator = rng(0, "bootstrap")
    drawn = generator.integers(len(pairs), size=(RESAMPLES, len(pairs)))
    means = np.empty((len(pairs), RESAMPLES, len(pairs)))  # of a resample of each set's students, for each place
    for i, mine in enumerate(pairs):
        students = generator.integers(len(mine), size=(RESAMPLES, len(pairs), len(mine)))
        means[i] = np.asarray(mine)[students].mean(axis=2)
    resampled = np.take_along_axis(means, drawn[None], axis=0)[0].mean(axis=1)
    return float(resampled.std(ddof=1))
