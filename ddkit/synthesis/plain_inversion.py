"""Hooks of the methods that are settings of inversion: SRe2L and CDA export these names as their own."""

from __future__ import annotations

from collections.abc import Iterator

from ddkit.synthesis.initialisation import random_initialisations
from ddkit.synthesis.inner.inversion import inversion_costs, inversion_units, optimise
from ddkit.synthesis.interface import Context, Plan, Probe, Synthetic, Unit
from ddkit.synthesis.settings import Inversion


def real_pixels(config: Inversion) -> str:
    """`initial` if real images are read, else `none`."""
    return "initial" if config.needs_real else "none"


def units(plan: Plan) -> list[Unit]:
    settings: Inversion = plan.config
    if settings.needs_real:
        needed = plan.last * (settings.patch.factor**2 if settings.init == "patch" else 1)
        plan.need_images(needed, f"init {settings.init} with {plan.last} images per class")
    return inversion_units(plan, settings)


def costs(plan: Plan, probe: Probe) -> dict[str, float]:
    return {"recover": inversion_costs(plan, plan.config, probe)}


def run(unit: Unit, context: Context) -> Iterator[Synthetic | None]:
    settings: Inversion = context.config
    starts = [random_initialisations(context, settings, label, unit.ranks) for label in unit.labels]
    yield from optimise(unit, context, settings, [start for mine in starts for start in mine])
