"""k-center greedy: real images that leave no other far away in the teacher's features."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ddkit.synthesis.coresets import choose, coreset_costs, coreset_units, k_center
from ddkit.synthesis.interface import Context, Plan, Synthetic, Unit

NAME = "kcenter"
PAPER = "Sener and Savarese, arXiv 1708.00489; baseline of dataset distillation"
COST = "one pass of the teacher over the source"
costs = coreset_costs


@dataclass(frozen=True, kw_only=True)
class Config:
    """No settings."""


def units(plan: Plan) -> list[Unit]:
    return coreset_units(plan, NAME)


def run(unit: Unit, context: Context) -> dict[str, Any] | Iterator[Synthetic]:
    return choose(unit, context, k_center)
