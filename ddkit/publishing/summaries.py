"""The summaries of measures as a table for the card: the set beside its baselines and the teacher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ddkit.core.console import size_words
from ddkit.format.measurements import Measurement

COLUMNS = ("this set", "hard labels", "random", "teacher")
CONDITIONS = {"images per class": "ipc", "protocol": "protocol", "labels": "labels", "measured on": "val"}


@dataclass(frozen=True)
class SummaryRow:
    """One metric of the table.

    Attributes:
        title: What the metric is, with its unit.
        arch: Architecture of the students; "" for a metric of the sets.
        conditions: What it was measured under, one for each of the table's conditions; "" where that says nothing.
        cells: Values in words, one for each of COLUMNS; "–" where it was not measured.
        better: "higher", "lower" or "".
    """

    title: str
    arch: str
    conditions: tuple[str, ...]
    cells: tuple[str, ...]
    better: str


@dataclass(frozen=True)
class SummaryTable:
    """The summaries of a set.

    Attributes:
        conditions: Names of those of CONDITIONS that differ between rows, and "students" where their number does.
        columns: Names of the columns of values.
        rows: The rows.
    """

    conditions: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[SummaryRow, ...]


def summary_table(measurements: Sequence[Measurement]) -> SummaryTable:
    """Return one row for each metric, prefix, network and protocol, in the order of the measurements of the set.

    Args:
        measurements: The measurements; those with a condition are left out.
    """
    shown = [
        one
        for one in measurements
        if one.of == "this" and not one.condition
        if one.labels != "hard" or not _with(measurements, one, "this", "soft")
    ]
    differ = {
        name: texts
        for name, texts in ((name, [_condition(one, name) for one in shown]) for name in (*CONDITIONS, "students"))
        if len(set(texts) - {""}) > 1
    }
    rows = []
    for i, ours in enumerate(shown):
        others = [_with(measurements, ours, *kind) for kind in (("this", "hard"), ("random", "soft"), ("teacher", ""))]
        title = f"{ours.title} ({ours.unit})" if ours.unit and ours.unit != "bytes" else ours.title
        cells = tuple(_words(one) for one in (ours if ours.labels != "hard" else None, *others))
        conditions = tuple(texts[i] for texts in differ.values())
        rows.append(SummaryRow(title, ours.arch or "", conditions, cells, ours.better))
    return SummaryTable(tuple(differ), COLUMNS, tuple(rows))


def _condition(one: Measurement, name: str) -> str:
    """Return a condition of a measurement in words, "" where there is none."""
    value = len(one.seeds) or None if name == "students" else getattr(one, CONDITIONS[name])
    return "" if value is None else str(value)


def _with(measurements: Sequence[Measurement], ours: Measurement, of: str, labels: str) -> Measurement | None:
    """Return the same metric of something else: `labels` is "hard", "soft", or "" for any."""
    of_students = () if of == "teacher" else ("arch", "protocol", "seeds")
    alike = ("measure", "metric", "condition", "ipc", "val", *of_students)
    for other in measurements:
        same = other.of == of and all(getattr(other, name) == getattr(ours, name) for name in alike)
        if same and (not labels or (other.labels == "hard") == (labels == "hard")):
            return other
    return None


def _words(one: Measurement | None) -> str:
    if one is None:
        return "–"
    if one.unit == "bytes":
        return size_words(int(one.mean))
    spread = f" ± {_number(one.std)}" if sum(map(len, one.values)) > 1 else ""
    return f"{_number(one.mean)}{spread}"


def _number(value: float) -> str:
    return f"{value:.2f}" if 1 <= abs(value) < 1000 or value == 0 else f"{value:.3g}"
