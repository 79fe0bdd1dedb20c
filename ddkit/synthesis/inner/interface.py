"""What an inner method is: it makes the images of a stage from the real images that the curriculum selected."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np

from ddkit.synthesis.interface import Context, Plan, Probe, Synthetic, Unit


class InnerMethod(Protocol):
    """One way to make a stage's images; an object of it holds its settings."""

    def units(self, plan: Plan, needs: Sequence[str]) -> list[Unit]:
        """The `recover` units of an increment. needs: ids of the units that each of them waits for."""
        ...

    def images_needed(self, available: int, ipc: int) -> int:
        """Real images of a class to select. available: how many it has; ipc: images of it to make."""
        ...

    def run(
        self, unit: Unit, context: Context, selected: Mapping[int, np.ndarray], ranks: Sequence[int]
    ) -> Iterator[Synthetic | None]:
        """The images of a unit, and None where its work so far is launched.

        selected: positions in the source of the selected images of each class, in order of preference; ranks: all of
        the increment.
        """
        ...

    def costs(self, plan: Plan, probe: Probe, with_student: bool) -> float:
        """Expected seconds of an increment. with_student: whether a stage's student is part of each step."""
        ...

    def real_pixels(self) -> str:
        """What is left of real images: whole, crops, initial or none."""
        ...

    def patches(self) -> int:
        """N of a stitched grid, 1 = none."""
        ...
