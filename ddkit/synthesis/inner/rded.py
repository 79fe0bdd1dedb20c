"""RDED as an inner method: images stitched from the best crops of the selected real images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ddkit.synthesis.interface import Context, Plan, Probe, Synthetic, Unit, class_units
from ddkit.synthesis.patches import pool_and_keep, stitched
from ddkit.synthesis.settings import Patches


@dataclass(frozen=True)
class RdedMethod:
    """Images stitched from crops of the selected real images, without optimisation.

    Attributes:
        settings: Settings of the patches.
    """

    settings: Patches

    def units(self, plan: Plan, needs: Sequence[str]) -> list[Unit]:
        """Return one unit for each class."""
        return class_units(plan, needs=needs)

    def images_needed(self, available: int, ipc: int) -> int:
        """Return how many real images of a class have to be selected: the pool of its crops."""
        return pool_and_keep(self.settings, available, ipc)[0]

    def run(
        self, unit: Unit, context: Context, selected: Mapping[int, np.ndarray], ranks: Sequence[int]
    ) -> Iterator[Synthetic | None]:
        """Stitch the images of a unit."""
        for label in unit.labels:
            keep = pool_and_keep(self.settings, len(selected[label]), len(ranks))[1]
            yield from stitched(context, self.settings, label, selected[label], keep, ranks)

    def costs(self, plan: Plan, probe: Probe, with_student: bool) -> float:
        """Return the expected seconds of an increment, in which the teacher scores every crop of the pools once."""
        crops = sum(self.images_needed(n, len(plan.ranks)) for n in plan.counts) * self.settings.crops
        return probe.spread(crops * probe.each, len(plan.classes))

    def real_pixels(self) -> str:
        """Return `crops`: the images consist of crops of real images."""
        return "crops"

    def patches(self) -> int:
        """Return the number of patches an image is stitched from."""
        return self.settings.factor**2
