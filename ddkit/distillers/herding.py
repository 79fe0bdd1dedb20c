"""Herding: real images whose mean in the teacher's features is nearest to their class's mean."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ddkit.synthesis.coresets import choose, coreset_costs, coreset_units, herding
from ddkit.synthesis.interface import Context, Plan, Synthetic, Unit

NAME = "herding"
PAPER = "Welling, ICML 2009; baseline of dataset distillation"
COST = "one pass of the teacher over the source"
costs = coreset_costs


@dataclass(frozen=True, kw_only=True)
class Config:
    """No settings."""


def units(plan: Plan) -> list[Unit]:
    return coreset_units(plan, NAME)


def run(unit: Unit, context: Context) -> dict[str, Any] | Iterator[Synthetic]:
    return choose(unit, context, herding)
