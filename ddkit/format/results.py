"""Measured results, as stored in the manifest and shown on the card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, TypeVar

from ddkit.core.serialization import Extensible, between, later, one_of
from ddkit.format.fields import NOT_EMPTY, Architecture, Count, Line, Number, Percent, Seconds, StudentSeed, Words

# Identifies a measurement: a new result with the same values replaces the old one.
RESULT_KEY = ("of", "ipc", "arch", "protocol", "labels", "val", "seeds")

# The baselines, by the name that `Difference.to` gives them: `of` and possible `labels` of their entries; (): those of
# the set's own entry.
BASELINE_NAMES: dict[str, tuple[str, tuple[str, ...]]] = {
    "random": ("random", ()),
    "hard": ("this", ("hard",)),
    "equal-bytes hard": ("equal-bytes", ("hard",)),
    "equal-bytes stored": ("equal-bytes", ("stored", "relabelled")),
    "labeller": ("this", ("online",)),
}

FEW = 100  # minimum number of images of a meaningful measurement


@dataclass(frozen=True, kw_only=True)
class Difference(Extensible):
    """Mean of the paired differences to a baseline and its 95 % confidence interval, in percentage points.

    Attributes:
        mean: Mean difference; positive where the set is better.
        low, high: Bounds of the interval.
        pairs: Number of pairs.
        to: The baseline, a name of BASELINE_NAMES.
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
        of: What the students were trained on; "teacher" for the teacher itself, and "full", which is not written into
            manifests, for networks trained on the whole source.
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
        differences: Paired differences to the other baselines.
        images: Number of images that the students were trained on, in the first set.
        total_bytes: What has to be shipped for this training (docs/format.md): the shards with stored labels, the
            encoded images alone with hard labels, images and teacher with online labels.
        seconds: Duration of all trainings.
        command: Command that measured the result.
        hardware: Hardware it was measured on.
    """

    of: Annotated[str, one_of("this", "random", "equal-bytes", "teacher", "full")]
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
    differences: tuple[Difference, ...] = later(())
    images: Count | None = later(None)
    total_bytes: Annotated[int, between(1, 10**15)]
    seconds: Seconds = 0.0
    command: Words
    hardware: Words

    def compared(self) -> tuple[Difference, ...]:
        """Return the paired differences to all baselines, that to `random` first."""
        return (*(() if self.difference is None else (self.difference,)), *self.differences)

    def carries_a_claim(self) -> bool:
        """Return whether the result has at least two students and, if `val_images` is known, at least FEW images.

        With FEW images, one image changes the accuracy by at most one percentage point.
        """
        return self.n_students >= 2 and (self.val_images is None or self.val_images >= FEW)


EvalReport = tuple[ResultEntry, ...]


def baseline_entry(ours: ResultEntry, name: str, results: Sequence[ResultEntry]) -> ResultEntry | None:
    """Return the entry of a baseline that was measured with the entry of a set, or None.

    Args:
        ours: Entry of the set.
        name: Name of the baseline, one of BASELINE_NAMES.
        results: All entries.
    """
    of, labels = BASELINE_NAMES.get(name, (name, ()))
    alike = ("ipc", "arch", "protocol", "val", "seeds")
    return next(
        (
            result
            for result in results
            if result is not ours
            and result.of == of
            and result.labels in (labels or (ours.labels,))
            and all(getattr(result, key) == getattr(ours, key) for key in alike)
        ),
        None,
    )


def with_earlier_differences(ours: ResultEntry, results: Sequence[ResultEntry]) -> ResultEntry:
    """Return a new entry of a set with the differences of its earlier measurement to baselines not measured now.

    They are kept only if the accuracies are the same, so that they are differences of the same students.

    Args:
        ours: The new entry.
        results: The earlier entries.
    """
    key = tuple(getattr(ours, name) for name in RESULT_KEY)
    earlier = next((r for r in results if tuple(getattr(r, name) for name in RESULT_KEY) == key), None)
    if earlier is None or earlier.values is None or earlier.values != ours.values:
        return ours
    known = {difference.to for difference in ours.differences}
    others = tuple(difference for difference in earlier.differences if difference.to not in known)
    return ours.changed(difference=ours.difference or earlier.difference, differences=ours.differences + others)


Entry = TypeVar("Entry")


def merged(first: Sequence[Entry], then: Sequence[Entry], key: Sequence[str]) -> tuple[Entry, ...]:
    """Combine two lists of entries. Of two entries with the same values of `key`, the one in `first` is kept.

    Args:
        first: Entries that take precedence.
        then: Entries to add.
        key: Names of the fields that identify an entry.
    """

    def identity(entry: Entry) -> tuple[object, ...]:
        return tuple(getattr(entry, name) for name in key)

    known = {identity(entry) for entry in first}
    return (*first, *(entry for entry in then if identity(entry) not in known))


def merged_results(first: Sequence[ResultEntry], then: Sequence[ResultEntry]) -> tuple[ResultEntry, ...]:
    """Combine two lists of results. Of two entries for the same measurement (RESULT_KEY), the one in `first` is kept.

    Args:
        first: Results that take precedence.
        then: Results to add.
    """
    return merged(first, then, RESULT_KEY)
