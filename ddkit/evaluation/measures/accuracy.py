"""Top-1 and top-5 accuracy and the negative log-likelihood."""

from __future__ import annotations

from collections.abc import Iterator

from torch.nn.functional import cross_entropy

from ddkit.evaluation.measures.interface import Context, MeasuredNetwork, Metric, Row

NAME = "accuracy"
PAPER = "every paper of the field (top-1 after the last epoch)"
COST = "one pass over the validation images"
SUBJECT = "network"
NEEDS = ("student", "validation")
METRICS = (
    Metric(name="top-1", title="top-1 accuracy", unit="%", better="higher"),
    Metric(name="top-5", title="top-5 accuracy", unit="%", better="higher"),
    Metric(name="nll", title="negative log-likelihood", better="lower"),
)
FIVE = 5


def measure(network: MeasuredNetwork, context: Context) -> Iterator[Row]:
    """Yield the accuracies, and the mean of -log p of the true class (natural logarithm).

    Args:
        network: The network.
        context: With the validation images. With five classes or fewer there is no top-5 accuracy.
    """
    logits, labels = context.predictions(network), context.validation()[1]
    n = len(labels)
    yield Row("top-1", context.accuracy(network), n=n)
    if logits.shape[1] > FIVE:
        hits = (logits.topk(FIVE, dim=1).indices == labels[:, None]).any(1)
        yield Row("top-5", 100 * float(hits.float().mean()), n=n)
    yield Row("nll", float(cross_entropy(logits.double(), labels)), n=n)
