"""Calibration: expected calibration error and Brier score, before and after temperature scaling."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from ddkit.evaluation.measures.interface import Context, MeasuredNetwork, Metric, Row

NAME = "calibration"
PAPER = "Guo et al. 2017 (ECE, temperature scaling); Nguyen & O'Connor 2015 (equal mass); Brier 1950"
COST = "one pass over the validation images"
SUBJECT = "network"
NEEDS = ("student", "validation")
METRICS = tuple(
    Metric(name=f"{name}{suffix}", title=f"{title}{words}", better="lower")
    for suffix, words in (("", ""), ("-scaled", " after temperature scaling"))
    for name, title in (
        ("ece", "expected calibration error, 15 bins of equal width"),
        ("ece-equal-mass", "expected calibration error, 15 bins of equal mass"),
        ("brier", "Brier score"),
    )
) + (Metric(name="temperature", title="temperature fitted on the other half of the images"),)
BINS = 15
LOWEST, HIGHEST = 0.01, 100.0  # temperatures that are searched


def measure(network: MeasuredNetwork, context: Context) -> Iterator[Row]:
    """Yield the calibration of a network as it is, and with its logits divided by a fitted temperature.

    The temperature of each half of the images is the one that minimises the negative log-likelihood of the other half,
    so no image is measured with a temperature that was fitted to it. The halves are the even and odd images of each
    class. The temperature that is reported is the mean of both.

    Args:
        network: The network.
        context: With the validation images.
    """
    logits, labels = context.predictions(network).double(), context.validation()[1]
    first = first_half(labels)
    fitted = torch.empty(len(labels), 1, dtype=torch.float64)
    fitted[first] = best_temperature(logits[~first], labels[~first])
    fitted[~first] = best_temperature(logits[first], labels[first])
    for suffix, scaled in (("", logits), ("-scaled", logits / fitted)):
        p = scaled.softmax(1)
        yield Row(f"ece{suffix}", expected_calibration_error(p, labels), n=len(labels))
        yield Row(f"ece-equal-mass{suffix}", equal_mass_calibration_error(p, labels), n=len(labels))
        yield Row(f"brier{suffix}", brier_score(p, labels), n=len(labels))
    temperatures = fitted.unique()
    yield Row("temperature", float(temperatures.mean()), n=len(labels))


def first_half(labels: Tensor) -> Tensor:
    """Return which images belong to the first half: every other one of each class, bool [n].

    Args:
        labels: int64 [n].
    """
    half = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        half[(labels == label).nonzero().flatten()[::2]] = True
    return half


def best_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the temperature that minimises the negative log-likelihood of logits / temperature (Guo et al. 2017).

    Args:
        logits: float64 [n,C]; no rows give 1.
        labels: int64 [n].
    """
    from scipy.optimize import minimize_scalar

    if not len(labels):
        return 1.0
    found = minimize_scalar(
        lambda log_t: float(cross_entropy(logits / np.exp(log_t), labels)),
        bounds=(np.log(LOWEST), np.log(HIGHEST)), method="bounded", options={"xatol": 1e-5},
    )  # fmt: skip
    return float(np.exp(found.x))


def expected_calibration_error(p: Tensor, labels: Tensor, bins: int = BINS) -> float:
    """Return the mean gap between confidence and accuracy over bins of equal width, weighted by their images.

    Args:
        p: Probabilities, float [n,C].
        labels: int64 [n].
        bins: Number of bins.
    """
    from torchmetrics.functional.classification import multiclass_calibration_error

    below_one = p.clamp(max=1 - 2**-24)  # torchmetrics puts a confidence of exactly 1 into a bin of its own
    found = multiclass_calibration_error(below_one, labels, num_classes=p.shape[1], n_bins=bins, norm="l1")
    return float(found)


def equal_mass_calibration_error(p: Tensor, labels: Tensor, bins: int = BINS) -> float:
    """Return the calibration error over bins that hold equally many images, sorted by confidence.

    Args:
        p: Probabilities, float [n,C].
        labels: int64 [n].
        bins: Number of bins; those that would be empty are left out.
    """
    confidence, predicted = p.max(1)
    order = confidence.argsort(stable=True)
    right = (predicted == labels).double()
    parts = [part for part in order.tensor_split(bins) if len(part)]
    gaps = [len(part) * abs(float(confidence[part].mean() - right[part].mean())) for part in parts]
    return sum(gaps) / len(labels)


def brier_score(p: Tensor, labels: Tensor) -> float:
    """Return the mean squared distance of the probabilities to the one-hot classes, from 0 to 2.

    Args:
        p: Probabilities, float [n,C].
        labels: int64 [n].
    """
    return float((p - one_hot(labels, p.shape[1])).square().sum(1).mean())
