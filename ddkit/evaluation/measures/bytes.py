"""What the accuracy of a set's students costs in bytes."""

from __future__ import annotations

from collections.abc import Iterator

from ddkit.evaluation.measures.interface import Context, MeasuredSet, Metric, Row
from ddkit.evaluation.training_data import image_bytes

NAME = "bytes"
PAPER = "Qin et al. 2024 (a label is worth a thousand images); Xiao & He 2024 (labels larger than images)"
COST = "nothing beside the students"
SUBJECT = "set"
NEEDS = ("student", "validation")
METRICS = (
    Metric(name="total", title="bytes that have to be shipped for the training", unit="bytes", better="lower"),
    Metric(name="images", title="bytes of the encoded images", unit="bytes", better="lower"),
    Metric(name="labels", title="bytes of views, soft labels and archives", unit="bytes", better="lower"),
    Metric(name="top-1", title="top-1 accuracy", unit="%", better="higher"),
    Metric(name="per-point", title="bytes for each point of accuracy", unit="bytes", better="lower"),
)


def measure(subject: MeasuredSet, context: Context) -> Iterator[Row]:
    """Yield the bytes of a set by part, and the bytes for each point of its students' mean top-1 accuracy.

    "total" is counted as in results (docs/format.md), "labels" is what remains of it without the encoded images: views,
    soft labels and the archives.

    Args:
        subject: The set.
        context: With the validation images.
    """
    labels = context.validation()[1]
    total, images = subject.total_bytes, image_bytes(subject.manifest, subject.ipc)
    yield Row("total", total)
    yield Row("images", images)
    yield Row("labels", max(total - images, 0))
    accuracies = []
    for network in subject.networks:
        accuracies.append(context.accuracy(network))
        yield Row("top-1", accuracies[-1], n=len(labels), seed=network.seed)
    mean = sum(accuracies) / len(accuracies)
    if mean > 0:
        yield Row("per-point", total / mean)
