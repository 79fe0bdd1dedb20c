"""Measurements of a set and its students beside the accuracy: rows, statistics and figures, as stored and shown."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ddkit.core.files import read_limited, write_bytes
from ddkit.core.serialization import (
    Extensible,
    Mismatch,
    canonical,
    later,
    matching,
    one_of,
    read_dataclass,
    strict_json,
    to_plain,
)
from ddkit.errors import IntegrityError
from ddkit.format.fields import Architecture, Count, Line, Number, Percent, StudentSeed, Words
from ddkit.format.results import Difference, merged

# Identifies a measurement: a new one with the same values replaces the old one.
MEASUREMENT_KEY = ("measure", "metric", "condition", "of", "ipc", "arch", "protocol", "labels", "val", "seeds")
FIGURE_KEY = ("measure", "name", "of", "ipc", "arch", "protocol", "labels")


@dataclass(frozen=True, kw_only=True)
class Measurement(Extensible):
    """One metric under one condition, for all students of one architecture, or for the sets themselves.

    Attributes:
        measure: Name of the measure, as in `--measure`.
        metric: Name of the metric.
        title: What the metric is, in a few words.
        unit: Unit of the values: "%", "points", "bytes", "s", or "" for a plain number.
        better: "higher" or "lower"; "" where neither is better.
        condition: What the metric is measured under, as in "fog, severity 3"; "" for the measure's summary.
        of: What was measured, as in ResultEntry; "teacher" for the teacher itself, "full" for networks trained on the
            whole source.
        ipc: The prefix of the evaluated set.
        arch: Architecture of the students; None for a metric of the sets.
        protocol: Protocol of the students, with overrides; None for a metric of the sets.
        labels: Kind of labels of the students; None for a metric of the sets.
        val: Images it was measured on; None where no validation images are used.
        n: Number of images or other samples that one value is computed from.
        seeds: Seeds of the students; () for a metric of the sets.
        values: Values, one list per set, one value per student.
        mean: Mean over all values.
        std: Standard deviation over all values.
        differences: Paired differences to baselines.
        command: Command that measured it.
        hardware: Hardware it was measured on.
    """

    measure: Line
    metric: Line
    title: Line
    unit: Line = ""
    better: Annotated[str, one_of("higher", "lower", "")] = ""
    condition: Line = ""
    of: Annotated[str, one_of("this", "random", "equal-bytes", "teacher", "full")]
    ipc: Count
    arch: Architecture | None = None
    protocol: Line | None = None
    labels: Annotated[str, one_of("stored", "hard", "online", "relabelled")] | None = None
    val: Words | None = None
    n: Count | None = None
    seeds: tuple[StudentSeed, ...] = ()
    values: tuple[tuple[Number, ...], ...]
    mean: Number
    std: Number
    differences: tuple[Difference, ...] = later(())
    command: Words
    hardware: Words


@dataclass(frozen=True, kw_only=True)
class StoredFigure(Extensible):
    """A picture or chart that a measure made, stored in OUT.work.

    Attributes:
        measure: Name of the measure.
        name: Name of the figure, unique within the measure and its subject.
        caption: What it shows, one or two sentences.
        of, ipc, arch, protocol, labels: As in Measurement.
        kind: "png", or "vega-lite": a Vega-Lite specification with its data.
        file: The file, relative to OUT.work.
        private: Whether it shows real images, so that it is never published; where nothing is said, it does.
    """

    measure: Line
    name: Line
    caption: Words
    of: Line
    ipc: Count | None = later(None)
    arch: Architecture | None = None
    protocol: Line | None = later(None)
    labels: Line | None = later(None)
    kind: Annotated[str, one_of("png", "vega-lite")]
    file: Annotated[str, matching(r"measures/[^/\\\x00-\x1f]{1,250}")]
    private: bool = later(True)


@dataclass(frozen=True, kw_only=True)
class StoredCurve(Extensible):
    """Learning curves of the students of one row of the table.

    Attributes:
        of, ipc, arch, protocol, labels: As in Measurement.
        val: Images the accuracies were measured on; None: not measured.
        epochs: The logged epochs.
        losses: Loss at each of them, one list per student.
        accuracies: Top-1 accuracy in percent at each of them, None where it was not measured; one list per student.
        best: Highest of each student's accuracies, for information: the score is that of the last epoch.
    """

    of: Line
    ipc: Count
    arch: Architecture
    protocol: Line
    labels: Line
    val: Words | None = None
    epochs: tuple[int, ...]
    losses: tuple[tuple[Number, ...], ...]
    accuracies: tuple[tuple[Percent | None, ...], ...]
    best: tuple[Percent | None, ...]


@dataclass(frozen=True, kw_only=True)
class Measurements(Extensible):
    """All that was measured of one set: `measurements.json` in OUT.work. The manifest has the summaries alone.

    Attributes:
        content: Content hash of the measured set.
        measurements: The measurements.
        figures: The figures.
        curves: The learning curves.
    """

    content: Line
    measurements: tuple[Measurement, ...] = ()
    figures: tuple[StoredFigure, ...] = ()
    curves: tuple[StoredCurve, ...] = ()


FILE = "measurements.json"
LARGEST = 256 * 2**20  # bytes


def read_measurements(work: Path) -> Measurements | None:
    """Return the measurements of a set; None if nothing was measured.

    Args:
        work: The folder OUT.work.

    Raises:
        IntegrityError: The file is damaged.
    """
    path = work / FILE
    if not path.is_file():
        return None
    try:
        return read_dataclass(Measurements, strict_json(read_limited(path, LARGEST) or b""))
    except (ValueError, Mismatch) as error:
        raise IntegrityError(f"{path} is damaged ({error}); delete it and run `ddkit evaluate` again") from error


def write_measurements(work: Path, found: Measurements) -> None:
    """Write the measurements of a set atomically.

    Args:
        work: The folder OUT.work.
        found: The measurements.

    Raises:
        DiskError: The file cannot be written.
    """
    write_bytes(work / FILE, (canonical(to_plain(found), indent=None) + "\n").encode())


def merged_measurements(first: tuple[Measurement, ...], then: tuple[Measurement, ...]) -> tuple[Measurement, ...]:
    """Combine two lists. Of two entries for the same measurement (MEASUREMENT_KEY), the one in `first` is kept.

    Args:
        first: Measurements that take precedence.
        then: Measurements to add.
    """
    return merged(first, then, MEASUREMENT_KEY)
