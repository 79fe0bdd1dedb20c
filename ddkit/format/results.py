"""Measured results, as they stand in the manifest and on the card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from ddkit.core.serialization import Extensible, between, one_of
from ddkit.format.fields import NOT_EMPTY, Architecture, Count, Line, Number, Percent, Seconds, StudentSeed, Words

RESULT_KEY = ("of", "ipc", "arch", "protocol", "labels", "val", "seeds")  # measuring the same again replaces it

FEW = 100  # images of a measurement


@dataclass(frozen=True, kw_only=True)
class Difference(Extensible):
    """Mean of the paired differences to a baseline and its 95 % interval, in points.

    pairs: how many there are; to: which baseline.
    """

    mean: Number
    low: Number
    high: Number
    pairs: Count | None = None
    to: Line | None = None


@dataclass(frozen=True, kw_only=True)
class ResultEntry(Extensible):
    """What students of one network reached. Accuracies in percent.

    of: what they were trained on; labels: the kind of labels; val: what they were measured on; val_images: how many
    images that are; seeds: of the students; values: their accuracies, one list a set; std: over all students;
    difference: to `random`, None where there is no such baseline; total_bytes: of the shards; seconds: of all trainings.
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
        """Whether it rests on enough: two students or more, and where the images are counted, at least FEW of them, so
        that one image is no more than a point."""
        return self.n_students >= 2 and (self.val_images is None or self.val_images >= FEW)


EvalReport = tuple[ResultEntry, ...]


def merged_results(first: Sequence[ResultEntry], then: Sequence[ResultEntry]) -> tuple[ResultEntry, ...]:
    """All measured rows of both; of the same measurement (RESULT_KEY) the one in `first`."""

    def key(result: ResultEntry) -> tuple[object, ...]:
        return tuple(getattr(result, name) for name in RESULT_KEY)

    known = {key(result) for result in first}
    return (*first, *(result for result in then if key(result) not in known))
