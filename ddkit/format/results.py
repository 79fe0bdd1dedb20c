"""Measured results, as stored in the manifest and shown on the card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from ddkit.core.serialization import Extensible, between, one_of
from ddkit.format.fields import NOT_EMPTY, Architecture, Count, Line, Number, Percent, Seconds, StudentSeed, Words

# Identifies a measurement: a new result with the same values replaces the old one.
RESULT_KEY = ("of", "ipc", "arch", "protocol", "labels", "val", "seeds")

FEW = 100  # minimum number of images of a meaningful measurement


@dataclass(frozen=True, kw_only=True)
class Difference(Extensible):
    """Mean of the paired differences to a baseline and its 95 % confidence interval, in percentage points.

    Attributes:
        mean: Mean difference.
        low, high: Bounds of the interval.
        pairs: Number of pairs.
        to: The baseline.
    """

    mean: Number
    low: Number
    high: Number
    pairs: Count | None = None
    to: Line | None = None


@dataclass(frozen=True, kw_only=True)
class ResultEntry(Extensible):
    """Accuracy in percent of the students of one architecture.

    Attributes:
        of: What the students were trained on.
        ipc: The prefix that was used.
        arch: Architecture of the students.
        protocol: Protocol, with overrides.
        labels: Kind of labels.
        val: Dataset the accuracy was measured on.
        val_images: Number of images it was measured on.
        seeds: Seeds of the students.
        n_sets: Number of sets.
        n_students: Number of students over all sets.
        values: Accuracies, one list per set.
        mean: Mean accuracy over all students.
        std: Standard deviation over all students.
        difference: Paired difference to `random`; None without that baseline.
        total_bytes: Size of the shards that were used.
        seconds: Duration of all trainings.
        command: Command that measured the result.
        hardware: Hardware it was measured on.
    """

    of: Annotated[str, one_of("this", "random", "equal-bytes", "teacher")]
    ipc: Count
    arch: Architecture
    protocol: Line
    labels: Annotated[str, one_of("stored", "hard", "online", "relabelled")]
    val: Words
    val_images: Count | None = None
    seeds: Annotated[tuple[StudentSeed, ...], NOT_EMPTY]
    n_sets: Count
    n_students: Count
    values: tuple[tuple[Number, ...], ...] | None = None
    mean: Percent
    std: Seconds
    difference: Difference | None
    total_bytes: Annotated[int, between(1, 10**15)]
    seconds: Seconds = 0.0
    command: Words
    hardware: Words

    def carries_a_claim(self) -> bool:
        """Return whether the result has at least two students and, if `val_images` is known, at least FEW images.

        With FEW images, one image changes the accuracy by at most one percentage point.
        """
        return self.n_students >= 2 and (self.val_images is None or self.val_images >= FEW)


EvalReport = tuple[ResultEntry, ...]


def merged_results(first: Sequence[ResultEntry], then: Sequence[ResultEntry]) -> tuple[ResultEntry, ...]:
    """Combine two lists of results. Of two entries for the same measurement (RESULT_KEY), the one in `first` is kept.

    Args:
        first: Results that take precedence.
        then: Results to add.
    """

    def key(result: ResultEntry) -> tuple[object, ...]:
        return tuple(getattr(result, name) for name in RESULT_KEY)

    known = {key(result) for result in first}
    return (*first, *(result for result in then if key(result) not in known))
