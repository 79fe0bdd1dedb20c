"""Accuracy of every class, the worst ones, the gap to the teacher, and what classes are taken for."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ddkit.evaluation.measures.interface import Context, MeasuredNetwork, Metric, Row

NAME = "per-class"
PAPER = "Cui et al. 2022 (DC-BENCH); arXiv 2305.03355 (gaps between classes grow with distillation)"
COST = "one pass over the validation images"
SUBJECT = "network"
NEEDS = ("student", "validation")
METRICS = (
    Metric(name="worst", title="accuracy of the worst class", unit="%", better="higher"),
    Metric(name="worst-10%", title="mean accuracy of the worst tenth of the classes", unit="%", better="higher"),
    Metric(name="spread", title="standard deviation of the accuracy over classes", unit="points", better="lower"),
    Metric(name="accuracy", title="accuracy of a class", unit="%", better="higher"),
    Metric(name="confusion", title="images of a class that are taken for another", unit="%", better="lower", absent=0.0,
           largest=3),
)  # fmt: skip


def measure(network: MeasuredNetwork, context: Context) -> Iterator[Row]:
    """Yield the accuracy of every class with validation images, its confusions, and the summary.

    Conditions are the class for "accuracy", and "CLASS > PREDICTED" for "confusion". Differences to random images and
    to the teacher are those of the table's rows.

    Args:
        network: The network.
        context: With the validation images.
    """
    labels = context.validation()[1]
    counts = confusion_counts(context.predictions(network).argmax(1), labels, len(context.classes))
    present = counts.sum(1).nonzero().flatten().tolist()
    accuracies = 100 * counts.diag()[present] / counts.sum(1)[present]
    worst = accuracies.sort().values
    tenth = max(round(len(worst) / 10), 1)
    yield Row("worst", float(worst[0]), n=len(labels))
    yield Row("worst-10%", float(worst[:tenth].mean()), n=len(labels))
    yield Row("spread", float(accuracies.std(correction=0)), n=len(labels))
    for label, accuracy in zip(present, accuracies.tolist()):
        n = int(counts[label].sum())
        yield Row("accuracy", accuracy, context.classes[label], n=n)
        for other in counts[label].nonzero().flatten().tolist():
            if other != label:
                share = 100 * float(counts[label, other]) / n
                yield Row("confusion", share, f"{context.classes[label]} > {context.classes[other]}", n=n)


def confusion_counts(predicted: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Return the number of images of each class that are taken for each class, float64 [C,C].

    Args:
        predicted: int64 [n].
        labels: int64 [n].
        classes: Number of classes C.
    """
    return torch.einsum("nc,nd->cd", one_hot(labels, classes).double(), one_hot(predicted, classes).double())
