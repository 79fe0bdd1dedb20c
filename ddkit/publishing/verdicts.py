"""Which baselines are better than a set, in words: the first sentences of its card, and what `evaluate` prints."""

from __future__ import annotations

from collections.abc import Sequence

from ddkit.core.console import size_words
from ddkit.format.results import Difference, ResultEntry, baseline_entry

# what a baseline of `format.results.BASELINE_NAMES` is, as the subject of a sentence
SUBJECTS = {
    "random": "Random real images, as many and with {labels},",
    "hard": "The same images with class labels alone",
    "equal-bytes hard": "Random real images with class labels alone that take no more bytes ({images} images)",
    "equal-bytes stored": "Random real images with soft labels of the same codec that take no more bytes "
    "({images} images)",
    "labeller": "The same images, labelled by the teacher during training,",
}


def short_name(name: str) -> str:
    """Return what a baseline is, for tables and lists.

    Args:
        name: Its name, one of `format.results.BASELINE_NAMES`.
    """
    return {
        "random": "random real images",
        "hard": "hard labels",
        "equal-bytes hard": "random images of equal bytes, hard labels",
        "equal-bytes stored": "random images of equal bytes, soft labels",
        "labeller": "labels by the teacher during training",
    }.get(name, name)


def better_baselines(ours: ResultEntry, results: Sequence[ResultEntry]) -> list[tuple[Difference, ResultEntry]]:
    """Return the baselines that are better than a set, with the paired differences, largest first.

    A baseline is better where its mean is above the set's and the 95 % interval of the paired difference excludes 0.
    Where the interval includes 0, it is not known which is better, and nothing is claimed.

    Args:
        ours: Entry of the set; one that carries no claim gives nothing.
        results: All entries.
    """
    found = [
        (difference, theirs)
        for difference in ours.compared()
        if (theirs := baseline_entry(ours, difference.to or "", results)) is not None
        if difference.high < 0 and theirs.mean > ours.mean and ours.carries_a_claim()
    ]
    return sorted(found, key=lambda pair: pair[0].mean)


def verdicts(ours: ResultEntry, results: Sequence[ResultEntry]) -> list[str]:
    """Return a sentence for each baseline that is better than a set, with accuracies and bytes; largest margin first.

    Args:
        ours: Entry of the set.
        results: All entries.
    """
    labels = "class labels alone" if ours.labels == "hard" else "labels of the same teacher"
    sentences = []
    for difference, theirs in better_baselines(ours, results):
        subject = SUBJECTS.get(difference.to or "", "A baseline")
        if theirs.images is None:
            subject = subject.removesuffix(" ({images} images)")
        sentences.append(
            f"{subject.format(labels=labels, images=theirs.images)} train a better network: {theirs.mean:.1f} % with "
            f"{size_words(theirs.total_bytes)} against {ours.mean:.1f} % with {size_words(ours.total_bytes)}."
        )
    return sentences
