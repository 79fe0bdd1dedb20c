"""The summaries of measures as a table for the card: the set beside its baselines and the teacher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ddkit.core.console import size_words
from ddkit.format.measurements import Measurement

COLUMNS = ("this set", "hard labels", "random", "teacher")


@dataclass(frozen=True)
class SummaryRow:
    """One metric of the table.

    Attributes:
        measure: Name of the measure.
        title: What the metric is, with its unit.
        arch: Architecture of the students; "" for a metric of the sets.
        ipc: Images per class.
        cells: Values in words, one for each of COLUMNS; "–" where it was not measured.
        better: "higher", "lower" or "".
    """

    measure: str
    title: str
    arch: str
    ipc: int
    cells: tuple[str, ...]
    better: str


def summary_rows(measurements: Sequence[Measurement]) -> list[SummaryRow]:
    """Return one row for each metric, prefix and network, in the order of the measurements of the set.

    Args:
        measurements: The measurements; those with a condition are left out.
    """
    rows = []
    for ours in measurements:
        if ours.of != "this" or ours.condition or (ours.labels == "hard" and _with(measurements, ours, "this", "soft")):
            continue
        others = [_with(measurements, ours, *kind) for kind in (("this", "hard"), ("random", "soft"), ("teacher", ""))]
        title = f"{ours.title} ({ours.unit})" if ours.unit and ours.unit != "bytes" else ours.title
        shown = ours if ours.labels != "hard" else None
        cells = tuple(_words(one) for one in (shown, *others))
        rows.append(SummaryRow(ours.measure, title, ours.arch or "", ours.ipc, cells, ours.better))
    return rows


def _with(measurements: Sequence[Measurement], ours: Measurement, of: str, labels: str) -> Measurement | None:
    """Return the same metric of something else: `labels` is "hard", "soft", or "" for any."""
    alike = ("measure", "metric", "condition", "ipc", "val", *(() if of == "teacher" else ("arch", "protocol")))
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
