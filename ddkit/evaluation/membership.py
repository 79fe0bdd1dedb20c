"""Membership inference: RMIA, and how good an attack is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

OFFLINE = 0.3  # a of the offline approximation, as the paper sets it for CIFAR-10
FLOOR = 1e-12  # probabilities below are taken for this


@dataclass(frozen=True)
class AttackQuality:
    """How well scores tell members from non-members.

    Attributes:
        auc: Area under the ROC curve, 0.5 for chance.
        tpr_at_01: True positive rate, in percent, at a false positive rate of at most 0.1 %.
        tpr_at_1: The same at 1 %.
    """

    auc: float
    tpr_at_01: float
    tpr_at_1: float


def rmia(
    target: np.ndarray,
    reference: np.ndarray,
    population_target: np.ndarray,
    population_reference: np.ndarray,
    *,
    gamma: float = 1.0,
    a: float = OFFLINE,
) -> np.ndarray:
    """Return RMIA's membership scores with one reference model (Zarifzadeh et al. 2024, "Low-Cost High-Power
    Membership Inference Attacks", section 3).

    The score of x is the share of population points z for which (p(x | target) / p(x)) / (p(z | target) / p(z)) is at
    least gamma. With reference models that were not trained on x alone ("offline"), p(x) is approximated by
    ((1 + a) p(x | reference) + (1 - a)) / 2, and p(z) likewise.

    Args:
        target: p(true class | x) by the attacked model, float [n].
        reference: The same by the reference model, float [n].
        population_target: p(true class | z) of population points by the attacked model, float [m].
        population_reference: The same by the reference model, float [m].
        gamma: The threshold.
        a: Constant of the offline approximation, from 0 to 1.

    Returns:
        Scores from 0 to 1, float64 [n]; members have higher ones.
    """
    ratio_x = _ratio(target, reference, a)
    ratio_z = np.sort(_ratio(population_target, population_reference, a))
    return np.searchsorted(ratio_z, ratio_x / gamma, side="right") / len(ratio_z)


def _ratio(target: np.ndarray, reference: np.ndarray, a: float) -> np.ndarray:
    """Return p(x | target) / p(x)."""
    marginal = 0.5 * ((1 + a) * np.asarray(reference, np.float64) + (1 - a))
    found: np.ndarray = np.maximum(np.asarray(target, np.float64), FLOOR) / np.maximum(marginal, FLOOR)
    return found


def attack_quality(members: np.ndarray, others: np.ndarray) -> AttackQuality:
    """Return how well scores tell members from non-members.

    Args:
        members: Scores of members, float [n].
        others: Scores of non-members, float [m].
    """
    from sklearn.metrics import roc_auc_score, roc_curve

    truth = np.r_[np.ones(len(members)), np.zeros(len(others))]
    scores = np.r_[members, others]
    fpr, tpr, _ = roc_curve(truth, scores, drop_intermediate=False)
    at = [100 * float(tpr[fpr <= limit].max(initial=0.0)) for limit in (0.001, 0.01)]
    return AttackQuality(float(roc_auc_score(truth, scores)), at[0], at[1])
