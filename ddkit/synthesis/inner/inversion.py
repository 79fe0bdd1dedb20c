"""Inversion as an inner method: units, initialisation and costs of images whose pixels are optimised."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ddkit.core.device import threads
from ddkit.synthesis.initialisation import Initialisation, images_needed, initialised_from
from ddkit.synthesis.inner.pixel_optimiser import PixelBatch, PixelOptimiser
from ddkit.synthesis.interface import Context, Plan, Probe, Synthetic, Unit
from ddkit.synthesis.settings import Inversion
from ddkit.teachers.teacher import Teacher


def inversion_units(plan: Plan, settings: Inversion, needs: Sequence[str] = ()) -> list[Unit]:
    """Return the batches of an increment as `recover` units.

    A batch has consecutive classes and as many ranks of each as fit (at most `batch.ipc`), or ranks of one class.

    Args:
        plan: The increment.
        settings: Settings of the inversion.
        needs: Ids of the units that each unit needs.
    """
    ranks, batch = tuple(plan.ranks), settings.batch
    classes = 1 if batch.grouping == "one-class" else min(len(plan.classes), batch.size)
    depth = min(len(ranks), batch.ipc or max(1, batch.size // classes))
    labels = range(len(plan.classes))
    grid = [
        (tuple(labels[c : c + classes]), ranks[r : r + depth])
        for r in range(0, len(ranks), depth)
        for c in range(0, len(labels), classes)
    ]
    return [
        Unit(
            id=f"recover-{plan.last}-{n}", kind="recover", needs=tuple(needs), labels=mine, ranks=part,
            steps=settings.steps, threads=settings.threads,
        )
        for n, (mine, part) in enumerate(grid)
    ]  # fmt: skip


def optimise(
    unit: Unit, context: Context, settings: Inversion, starts: Sequence[Initialisation]
) -> Iterator[Synthetic | None]:
    """Optimise the images of a unit.

    Args:
        unit: The unit.
        context: Its context.
        settings: Settings of the inversion.
        starts: Initialisation for each label and rank, all ranks of the first label first.

    Yields:
        None after launching kernels, so that units are interleaved; at the end the images.
    """
    anchors = None
    if settings.needs_real:
        anchors = torch.from_numpy(np.stack([start.pixels for start in starts if start.pixels is not None]))
    moments = None
    if settings.bn.weight and settings.bn.targets != "global":
        found = context.class_moments()
        mine = list(unit.labels)

        def target(part: str, layer: int) -> Tensor:
            return torch.from_numpy(found[f"{part}.{layer}"][mine]).to(context.device)

        moments = [(target("mean", layer), target("var", layer)) for layer in range(len(found) // 2)]
    batch = PixelBatch(
        labels=torch.tensor(unit.labels).repeat_interleave(len(unit.ranks)),
        anchors=anchors,
        size=context.size,
        seed=context.seed,
        name=unit.id,
        moments=moments,
    )
    optimiser = PixelOptimiser(batch, settings, context.teacher, context.student)
    yield from optimiser.run(context.progress)
    grid = [(label, rank) for label in unit.labels for rank in unit.ranks]
    for (label, rank), pixels, start in zip(grid, optimiser.pixels(), starts, strict=True):
        yield Synthetic(pixels=pixels, label=label, rank=rank, origin=start.origin, initial=start.pixels)


def seconds_a_step(settings: Inversion, teacher: Teacher, size: int, images: int, with_student: bool) -> float:
    """Measure the seconds of an optimisation step on 2 to 20 steps, for about 2 seconds.

    Args:
        settings: Settings of the inversion.
        teacher: The teacher.
        size: Side of the images, pixels.
        images: Images in the batch; above 64 pixels at most 8 are measured and the time is scaled.
        with_student: Whether each step runs a student, measured with the teacher's network.
    """
    few = images if size <= 64 else min(images, 8)
    anchors = torch.zeros(few, 3, size, size, dtype=torch.uint8)
    bn = replace(settings.bn, targets="global")
    batch = PixelBatch(labels=torch.zeros(few, dtype=torch.int64), anchors=anchors, size=size, seed=0, name="probe")
    with threads(settings.threads):
        optimiser = PixelOptimiser(
            batch, replace(settings, steps=30, bn=bn), teacher, teacher if with_student else None
        )
        for _ in range(optimiser.captured.rehearsals):
            optimiser.step()
        optimiser.check()  # synchronises with the device
        began, done = time.perf_counter(), 0
        while done < min(20, settings.steps) and (done < 2 or time.perf_counter() - began < 2):
            optimiser.step()
            done += 1
        optimiser.check()  # synchronises with the device
    return (time.perf_counter() - began) / done * images / few


def inversion_costs(plan: Plan, settings: Inversion, probe: Probe, with_student: bool = False) -> float:
    """Return the expected seconds of an increment's batches, from measured steps or a device's stated speed.

    Args:
        plan: The increment.
        settings: Settings of the inversion.
        probe: What to measure with.
        with_student: Whether each step runs a student.
    """
    units = inversion_units(plan, settings)
    if probe.stated is not None:
        each = passes_a_step(settings, with_student) * probe.stated[settings.precision]
    else:
        batch = len(units[0].labels) * len(units[0].ranks)
        each = probe.once(
            (settings, batch, with_student),
            lambda: seconds_a_step(settings, probe.teacher, probe.size, batch, with_student) / batch,
        )
    return probe.spread(plan.images * settings.steps * each, len(units), settings.threads)


def passes_a_step(settings: Inversion, with_student: bool) -> int:
    """Return the work of an optimisation step, in forward passes of a network over its images.

    The gradient of the pixels takes as much as the forward pass; that of the weights is not computed.

    Args:
        settings: Settings of the inversion.
        with_student: Whether the step runs a student.
    """
    compared = settings.reg.weight > 0 and settings.reg.space == "feature"  # the teacher also sees the real image
    return 2 * (1 + with_student) + compared


# ------------------------------------------------------------------ as an inner method


@dataclass(frozen=True)
class InversionMethod:
    """Images that are optimised from the selected real images.

    Attributes:
        settings: Settings of the inversion.
    """

    settings: Inversion

    def units(self, plan: Plan, needs: Sequence[str]) -> list[Unit]:
        """Return the batches of an increment."""
        return inversion_units(plan, self.settings, needs)

    def images_needed(self, available: int, ipc: int) -> int:
        """Return how many real images of a class have to be selected."""
        return images_needed(self.settings, available, ipc)

    def run(
        self, unit: Unit, context: Context, selected: Mapping[int, np.ndarray], ranks: Sequence[int]
    ) -> Iterator[Synthetic | None]:
        """Make the images of a unit; the rank at position i among the increment's ranks has the i-th initialisation."""
        mine = slice(ranks.index(unit.ranks[0]), ranks.index(unit.ranks[-1]) + 1)
        starts = [
            start
            for label in unit.labels
            for start in initialised_from(context, self.settings, label, selected[label], ranks)[mine]
        ]
        yield from optimise(unit, context, self.settings, starts)

    def costs(self, plan: Plan, probe: Probe, with_student: bool) -> float:
        """Return the expected seconds of an increment, from measured steps."""
        return inversion_costs(plan, self.settings, probe, with_student)

    def real_pixels(self) -> str:
        """`initial` if real images are read, else `none`."""
        return "initial" if self.settings.needs_real else "none"

    def patches(self) -> int:
        """Return 1: images are not stitched."""
        return 1
