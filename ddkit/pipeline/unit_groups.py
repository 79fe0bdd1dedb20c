"""Groups a method's units, so that several small ones fill a GPU."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ddkit.core.console import note
from ddkit.engine.interleaving import PIXELS_TOGETHER, group_jobs, interleave
from ddkit.engine.units import UnitFile
from ddkit.errors import OptionError
from ddkit.pipeline.synthesis_units import SynthesisInputs, UnitJob
from ddkit.synthesis.interface import KINDS, Unit

SMALLEST_SHARE = 0.125  # of a GPU, for a group of units


@dataclass(frozen=True, kw_only=True)
class UnitGroup:
    """Units that are interleaved on one device: several on a GPU, one elsewhere.

    Attributes:
        jobs: The units; no other unit needs them if there are several.
        gpu_share: Part of a GPU that they need.
    """

    jobs: tuple[UnitJob, ...]
    gpu_share: float = 1.0

    @property
    def id(self) -> str:
        """The id of the first unit."""
        return self.jobs[0].unit.id

    @property
    def needs(self) -> frozenset[str]:
        """The ids of the units that have to finish first."""
        return frozenset(need for job in self.jobs for need in job.unit.needs)

    @property
    def files(self) -> tuple[UnitFile, ...]:
        """The result files of the units."""
        return tuple(job.file for job in self.jobs)

    @property
    def inputs(self) -> tuple[Path, ...]:
        """The files that the units read."""
        shared, mine = self.jobs[0].shared, (file.path for file in self.files)  # those that are done are not run again
        made = shared.made if any(job.unit.kind == "student" for job in self.jobs) else ()
        return (*shared.files, *made, *(shared.unit(need).path for need in sorted(self.needs)), *mine)

    @property
    def outputs(self) -> tuple[Path, ...]:
        """The files that the units wrote."""
        shared = self.jobs[0].shared
        losses = (shared.losses(job.unit.id).path for job in self.jobs)
        return (*shared.store.passes(), *losses, *(file.path for file in self.files))

    def below(self, root: Path) -> UnitGroup:
        """Return the same units on a copy of the file system.

        Args:
            root: Directory of the copy.
        """
        shared = self.jobs[0].shared.below(root)
        return replace(self, jobs=tuple(replace(job, shared=shared) for job in self.jobs))

    def run(self) -> None:
        """Run the units that are not finished; sequentially if the GPU runs out of memory."""
        device = torch.device(self.jobs[0].shared.device)
        jobs = [job for job in self.jobs if not job.file.is_good()]
        try:
            interleave([job.run() for job in jobs], device)
            return
        except torch.OutOfMemoryError:
            if len(jobs) == 1:
                raise
        note(f"the device has no memory for {len(jobs)} batches at once; continuing one by one")
        torch.cuda.empty_cache()
        for job in jobs:
            if not job.file.is_good():
                interleave([job.run()], device)


def group_units(inputs: SynthesisInputs, units: Sequence[Unit]) -> list[UnitGroup]:
    """Group the units of an increment for interleaving; units that others need are not grouped.

    The groups do not depend on which units are finished, so that all processes that share them have the same.

    Args:
        inputs: Inputs shared by the increment.
        units: All units of the increment.

    Raises:
        OptionError: A unit has an unknown kind.
    """
    if wrong := [unit.id for unit in units if unit.kind not in KINDS]:
        raise OptionError(f"unit {wrong[0]} has an unknown kind; valid: {', '.join(KINDS)}")
    needed = {need for unit in units for need in unit.needs}

    def pixels(unit: Unit) -> float:
        alone = unit.kind != "recover" or unit.id in needed
        return math.inf if alone else len(unit.labels) * len(unit.ranks) * inputs.size**2

    groups = []
    for group in group_jobs(units, [pixels(unit) for unit in units], inputs.device):
        share = sum(pixels(unit) for unit in group) / PIXELS_TOGETHER
        jobs = tuple(UnitJob(shared=inputs, unit=unit) for unit in group)
        groups.append(UnitGroup(jobs=jobs, gpu_share=min(1.0, max(SMALLEST_SHARE, round(share, 3)))))
    return groups
