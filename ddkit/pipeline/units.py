"""Runs units with a progress bar, and lists the unfinished units of each of the four steps of an increment."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ddkit.core.console import progress, watched_progress
from ddkit.core.seeds import permutation
from ddkit.engine import Engine
from ddkit.engine.jobs import unfinished
from ddkit.engine.units import UnitFile
from ddkit.errors import OptionError
from ddkit.format.entries import Origin
from ddkit.format.images import encode_image
from ddkit.labelling.encoded import EncodedRows, ShardPlan, save_encoded
from ddkit.labelling.labels import label_groups, label_jobs
from ddkit.labelling.packing import PackedShards, PackRecord
from ddkit.labelling.shared import SharedJob
from ddkit.pipeline.costs import add_synthesis_cost
from ddkit.pipeline.run import Increment, Run
from ddkit.pipeline.synthesis_units import SynthesisInputs
from ddkit.pipeline.unit_groups import group_units
from ddkit.synthesis.interface import Unit
from ddkit.synthesis.unit_progress import UnitProgress


@dataclass(frozen=True)
class Units:
    """Units to run, and how to report their progress.

    Attributes:
        title: Title of the progress bar.
        jobs: The units.
        of: What the progress bar counts.
        amount: How much of it a unit is.
        reported: Returns the amount done so far, for long units that report their own steps.
        threads: CPU threads that each unit uses.
        done: Called with each finished unit.
    """

    title: str
    jobs: Sequence[Any]
    of: str = "units"
    amount: Callable[[Any], int] = lambda job: 1
    reported: Callable[[], int] | None = None
    threads: int = 1
    done: Callable[[Any], None] | None = None


def run_units(units: Units, engine: Engine) -> None:
    """Run units in parallel, ordered by their dependencies, with a progress bar. Raises what a unit raises.

    Args:
        units: The units.
        engine: Where they run.
    """
    total = sum(units.amount(job) for job in units.jobs)
    finished = engine.run(units.jobs, units.threads)
    if units.reported is not None:
        with watched_progress(units.title, total, units.of, units.reported):
            for job in finished:
                if units.done:
                    units.done(job)
        return
    with progress(units.title, total, units.of) as advance:
        for job in finished:
            if units.done:
                units.done(job)
            advance(units.amount(job))


def synthesis_units(run: Run, increment: Increment) -> Units:
    """Return the method's units of an increment; none if all its images are encoded.

    Args:
        run: The run.
        increment: The increment.
    """
    title = f"{run.distiller.name}: making images"
    if all(shard.encoded(run.store).is_good() for shard in increment.shards):
        return Units(title, [])
    inputs = run.inputs(increment)
    groups = unfinished(group_units(inputs, run.distiller.units(increment.plan)))
    jobs = [job for group in groups for job in group.jobs]

    def reported() -> int:
        files = [(job.unit.steps, job.file) for job in jobs]
        return sum(steps if file.exists() else min(UnitProgress.reported(file.path)[0], steps) for steps, file in files)

    total = sum(job.unit.steps for job in jobs)
    return Units(
        title, groups, of="units" if total == len(jobs) else "steps", reported=reported,
        amount=lambda group: sum(job.unit.steps for job in group.jobs),
        threads=max((job.unit.threads for job in jobs), default=1),
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class EncodeJob:
    """Encodes the images of one shard, in a seeded order over all classes of the increment.

    Attributes:
        shared: Inputs shared by the increment.
        shard: The shard.
        units: The `recover` units of the increment.
        ranks: First IPC rank of the increment.
        classes: Number of classes.
        images: Number of images of the increment.
        first: Row number of the increment's first row.
        patches: N of the patch grid, as the method's patches() returns it.
        image_format: Encoding of the images.
        needs: Ids of units that have to finish first.
    """

    shared: SynthesisInputs
    shard: ShardPlan
    units: tuple[Unit, ...]
    ranks: int
    classes: int
    images: int
    first: int
    patches: int
    image_format: str
    needs: frozenset[str] = frozenset()
    gpu_share = 0.0

    @property
    def id(self) -> str:
        """The id `images-PREFIX-SHARD`."""
        return f"images-{self.shard.name}"

    @property
    def files(self) -> tuple[UnitFile, ...]:
        """The unit of the shard's encoded images."""
        return (self.shard.encoded(self.shared.store),)

    @property
    def inputs(self) -> tuple[Path, ...]:
        """The units that made its images."""
        return tuple(self.shared.unit(unit.id).path for unit in self._makers(self._places()))

    @property
    def outputs(self) -> tuple[Path, ...]:
        """The file that it wrote."""
        return (self.files[0].path,)

    def below(self, root: Path) -> EncodeJob:
        """Return the same job on a copy of the file system.

        Args:
            root: Directory of the copy.
        """
        return replace(self, shared=self.shared.below(root))

    def _places(self) -> dict[tuple[int, int], int]:
        """The row in the shard by class and rank, in the order of rows; images are ordered by rank and class."""
        order = permutation(self.shared.seed, self.images, "rows", self.shard.prefix)
        mine = order[self.shard.first - self.first : self.shard.first - self.first + self.shard.rows]
        labels, ranks = mine % self.classes, self.ranks + mine // self.classes
        return {place: i for i, place in enumerate(zip(labels.tolist(), ranks.tolist()))}

    def _makers(self, places: Mapping[tuple[int, int], int]) -> list[Unit]:
        """The units that made an image of the shard."""
        return [u for u in self.units if any((label, rank) in places for label in u.labels for rank in u.ranks)]

    def run(self) -> None:
        """Read the method's units one by one and write the shard's encoded images."""
        place = self._places()
        images: dict[int, bytes] = {}
        origins: dict[int, Origin] = {}
        for unit in self._makers(place):
            tensors, metadata = self.shared.unit(unit.id).read()
            if (found := int(tensors["patches"].max())) != self.patches:
                name = self.shared.distiller().name
                raise OptionError(f"{name} made images of {found} patches, but its patches() says {self.patches}")
            for i, key in enumerate(zip(tensors["label"].tolist(), tensors["rank"].tolist())):
                if key in place:
                    images[place[key]] = encode_image(tensors["pixels"][i], self.image_format)
                    origins[place[key]] = Origin.from_json(metadata["origins"][i])
        rows, keys = range(len(place)), list(place)
        if missing := [i for i in rows if i not in images]:
            label, rank = keys[missing[0]]
            raise OptionError(
                f"{self.shared.distiller().name}: no unit makes rank {rank} of class {label}; fix units()"
            )
        labels, ranks = np.array(keys, np.int64).T
        save_encoded(
            self.shared.store, self.shard,
            EncodedRows([images[i] for i in rows], labels, ranks, [origins[i] for i in rows]),
        )  # fmt: skip


def encoding_units(run: Run, increment: Increment) -> Units:
    """Return the units that encode an increment's images, without finished ones.

    Args:
        run: The run.
        increment: The increment.
    """
    plan, inputs = increment.plan, run.inputs(increment)
    units = run.distiller.units(plan)
    recover = tuple(unit for unit in units if unit.kind == "recover")
    jobs = unfinished(
        EncodeJob(
            shared=inputs, shard=shard, units=recover, ranks=plan.first, classes=len(plan.classes), images=plan.images,
            first=increment.shards[0].first, patches=run.patches, image_format=run.record.image_format,
        )
        for shard in increment.shards
    )  # fmt: skip
    if jobs:
        add_synthesis_cost(
            run.work, plan.last, {unit.id: (unit.kind, inputs.unit(unit.id).metadata()) for unit in units}
        )
    return Units("encoding", jobs, of="images", amount=lambda job: job.shard.rows)


def labelling_units(packed: PackedShards, shards: Sequence[ShardPlan]) -> Units:
    """Return the units that label the views of the shards that are not packed.

    Args:
        packed: The packed shards, with the labelling.
        shards: The shards.
    """
    groups = unfinished(label_groups(label_jobs(packed.how, packed.missing(shards))))
    return Units("labelling", groups, of="views", amount=lambda group: group.views)


def shared_label_units(packed: PackedShards, shards: Sequence[ShardPlan]) -> Units:
    """Return the unit that makes the file of labels that all rows share, if the codec has one and it is not finished.

    Args:
        packed: The packed shards.
        shards: The shards; the first call of a run is for the first increment.
    """

    def done(job: SharedJob) -> None:
        packed.label_file = job.entry()

    return Units("fitting labels", packed.shared_jobs(shards), done=done)


def packing_units(packed: PackedShards, shards: Sequence[ShardPlan]) -> Units:
    """Return the units that pack the shards that are not packed.

    Args:
        packed: The packed shards.
        shards: The shards.
    """
    return Units("packing", packed.jobs(shards), of="images", amount=lambda job: job.shard.rows, done=packed.add)


def label_and_pack(packed: PackedShards, shards: Sequence[ShardPlan], engine: Engine) -> list[PackRecord]:
    """Label and pack shards whose images are encoded.

    Args:
        packed: The packed shards, with the labelling.
        shards: The shards.
        engine: Where units run.

    Returns:
        The record of each shard.
    """
    run_units(labelling_units(packed, shards), engine)
    run_units(shared_label_units(packed, shards), engine)
    run_units(packing_units(packed, shards), engine)
    return packed.records(shards)
