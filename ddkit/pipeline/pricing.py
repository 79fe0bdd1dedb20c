"""The expected cost of the increments of a run, in seconds by part and in bytes of labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ddkit.format.codecs.registry import find_codec
from ddkit.labelling.budget import BudgetGoal
from ddkit.labelling.labels import COMPARED, UNIT_ROWS
from ddkit.synthesis.interface import Distiller, Plan, Probe


@dataclass(frozen=True)
class LabelCost:
    """What the labels of an image cost.

    Attributes:
        views: Views that the teacher labels.
        bytes: Bytes of the labels; with a budget the most that they can be, with the views.
    """

    views: int
    bytes: float

    @classmethod
    def of(cls, codec: str, budget: str | None, views: int, classes: int, a_view: int = 0) -> LabelCost:
        """Return the cost of the labels of an image.

        Args:
            codec: Codec of the labels.
            budget: The budget, if it has not been spent; None: `codec` is used.
            views: Stored views of an image, before a budget is spent.
            classes: Number of classes.
            a_view: Bytes of a view's integers, which a budget also covers.
        """
        if budget is not None:
            return cls(views, BudgetGoal.parse(budget).label_bytes((2.0 * classes + a_view) * views))
        chosen = find_codec(codec)
        seen = min(views, COMPARED) if chosen.FROM_PIXELS else views
        return cls(seen, float(chosen.bytes_per_view(classes) * views))


def price(distiller: Distiller, plans: Sequence[Plan], probe: Probe, labels: LabelCost) -> list[dict[str, float]]:
    """Return the expected seconds of increments, by part of the manifest's `cost`.

    Reading, resizing and encoding images is not counted.

    Args:
        distiller: The method.
        plans: The increments.
        probe: The measured or stated speed.
        labels: What the labels of an image cost.
    """
    found = []
    for plan in plans:
        relabel = plan.images * labels.views * probe.each
        parts = distiller.costs(plan, probe)
        found.append(parts | {"relabel": probe.spread(relabel, label_units([plan.images]))})
    return found


def total(prices: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Return the sum of prices, part by part."""
    found: dict[str, float] = {}
    for parts in prices:
        for part, seconds in parts.items():
            found[part] = found.get(part, 0.0) + seconds
    return found


def label_units(rows: Iterable[int]) -> int:
    """Return the number of labelling units of shards with these numbers of rows."""
    return sum(-(-n // UNIT_ROWS) for n in rows)
