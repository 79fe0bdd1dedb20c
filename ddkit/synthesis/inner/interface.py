"""Interface of inner methods, which make a stage's images from the real images that the curriculum selected."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np

from ddkit.synthesis.interface import Context, Plan, Probe, Synthetic, Unit


class InnerMethod(Protocol):
    """A way to make the images of a stage; the object holds its settings."""

    def units(self, plan: Plan, needs: Sequence[str]) -> list[Unit]:
        """Return the `recover` units of an increment.

        Args:
            plan: The increment.
            needs: Ids of the units that each of them needs.
        """
        ...

    def images_needed(self, available: int, ipc: int) -> int:
        """Return how many real images of a class have to be selected.

        Args:
            available: Number of source images of the class.
            ipc: Number of images of the class to make.
        """
        ...

    def run(
        self, unit: Unit, context: Context, selected: Mapping[int, np.ndarray], ranks: Sequence[int]
    ) -> Iterator[Synthetic | None]:
        """Make the images of a unit.

        Args:
            unit: The unit.
            context: Its context.
            selected: Class -> positions in the source of the selected images, in order of preference.
            ranks: All IPC ranks of the increment.

        Yields:
            The images, and None after launching kernels, so that units are interleaved.
        """
        ...

    def costs(self, plan: Plan, probe: Probe, with_student: bool) -> float:
        """Return the expected seconds of an increment.

        Args:
            plan: The increment.
            probe: What to measure with.
            with_student: Whether every step runs a stage's student.
        """
        ...

    def real_pixels(self) -> str:
        """Return what remains of real images: whole, crops, initial or none."""
        ...

    def patches(self) -> int:
        """Return the number of patches an image is stitched from; 1: not stitched."""
        ...
