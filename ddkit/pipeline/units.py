"""Running units with a progress bar, and the four kinds of units an increment is made of, each without what is done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ddkit import engine
from ddkit.core.console import progress, watched_progress
from ddkit.core.seeds import permutation
from ddkit.errors import OptionError
from ddkit.format.entries import Origin
from ddkit.format.images import encode_image
from ddkit.labelling.encoded import EncodedRows, ShardPlan, save_encoded
from ddkit.labelling.labels import label_jobs
from ddkit.labelling.packing import PackedShards, PackJob, PackRecord
from ddkit.pipeline.costs import add_synthesis_cost
from ddkit.pipeline.run import Increment, Run
from ddkit.pipeline.synthesis_units import SynthesisInputs, group_units
from ddkit.synthesis.interface import Unit
from ddkit.synthesis.unit_progress import UnitProgress


@dataclass(frozen=True)
class Units:
    """Some units to run. title, of: for the progress bar; amount: how much of it each is; reported: how much is done
    so far, for long units that report their own steps; threads: CPU threads that each sets for itself; done: called
    with each and what it returned."""

    title: str
    jobs: Sequence[Any]
    of: str = "units"
    amount: Callable[[Any], int] = lambda job: 1
    reported: Callable[[], int] | None = None
    threads: int = 1
    done: Callable[[Any, Any], None] | None = None


def run_units(units: Units, workers: int) -> None:
    """Run units side by side, in the order of their needs, with a progress bar.

    workers: processes. Raises what a unit raises.
    """
    side_by_side, total = max(1, workers // units.threads), sum(units.amount(job) for job in units.jobs)
    results = engine.run(units.jobs, workers=side_by_side)
    if units.reported is not None:
        with watched_progress(units.title, total, units.of, units.reported):
            for job, result in results:
                if units.done:
                    units.done(job, result)
        return
    with progress(units.title, total, units.of) as advance:
        for job, result in results:
            if units.done:
                units.done(job, result)
            advance(units.amount(job))


def synthesis_units(run: Run, increment: Increment) -> Units:
    """The method's units of an increment; none where all its images are encoded."""
    title = f"{run.distiller.name}: making images"
    if all(shard.encoded(run.store).is_good() for shard in increment.shards):
        return Units(title, [])
    inputs = run.inputs(increment)
    groups = group_units(inputs, run.distiller.units(increment.plan))
    jobs = [job for group in groups for job in group.jobs]

    def reported() -> int:
        files = [(job.unit.steps, job.file.path) for job in jobs]
        return sum(steps if path.is_file() else min(UnitProgress.reported(path)[0], steps) for steps, path in files)

    total = sum(job.unit.steps for job in jobs)
    return Units(
        title, groups, of="units" if total == len(jobs) else "steps", reported=reported,
        amount=lambda group: sum(job.unit.steps for job in group.jobs),
        threads=max((job.unit.threads for job in jobs), default=1),
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class EncodeJob:
    """Encode the images of one shard as they are published: all classes of the increment mixed by its permutation.

    units: the `recover` units of the increment; ranks: first IPC rank of the increment; classes, images: how many it
    has; first: row number of its first row; patches: N of the grid that the method says its images are stitched of.
    """

    inputs: SynthesisInputs
    shard: ShardPlan
    units: tuple[Unit, ...]
    ranks: int
    classes: int
    images: int
    first: int
    patches: int
    image_format: str
    needs: frozenset[str] = frozenset()

    @property
    def id(self) -> str:
        """`images-PREFIX-SHARD`"""
        return f"images-{self.shard.name}"

    def run(self) -> None:
        """Read the method's units one after the other and write the shard's encoded images."""
        order = permutation(self.inputs.seed, self.images, "rows", self.shard.prefix)
        mine = order[self.shard.first - self.first : self.shard.first - self.first + self.shard.rows]
        ranks, labels = self.ranks + mine // self.classes, mine % self.classes  # images in the order of ranks, classes
        place = {(int(label), int(rank)): i for i, (label, rank) in enumerate(zip(labels, ranks))}
        images: dict[int, bytes] = {}
        origins: dict[int, Origin] = {}
        for unit in self.units:
            if not any((label, rank) in place for label in unit.labels for rank in unit.ranks):
                continue
            tensors, metadata = self.inputs.unit(unit.id).read()
            if (found := int(tensors["patches"].max())) != self.patches:
                name = self.inputs.distiller().name
                raise OptionError(f"{name} made images of {found} patches, its patches() says {self.patches}")
            for i, key in enumerate(zip(tensors["label"].tolist(), tensors["rank"].tolist())):
                if key in place:
                    images[place[key]] = encode_image(tensors["pixels"][i], self.image_format)
                    origins[place[key]] = Origin.from_json(metadata["origins"][i])
        if missing := sorted(set(range(len(mine))) - images.keys()):
            label, rank = labels[missing[0]], ranks[missing[0]]
            raise OptionError(
                f"{self.inputs.distiller().name}: no unit makes rank {rank} of class {label}; mend units()"
            )
        rows = range(len(mine))
        save_encoded(
            self.inputs.store, self.shard,
            EncodedRows([images[i] for i in rows], labels, ranks, [origins[i] for i in rows]),
        )  # fmt: skip


def encoding_units(run: Run, increment: Increment) -> Units:
    """The units that encode an increment's images; none of those that are there."""
    shards = [shard for shard in increment.shards if not shard.encoded(run.store).is_good()]
    plan, inputs = increment.plan, run.inputs(increment)
    units: list[Unit] = run.distiller.units(plan) if shards else []
    if shards:
        add_synthesis_cost(
            run.work, plan.last, {unit.id: (unit.kind, inputs.unit(unit.id).metadata()) for unit in units}
        )
    recover = tuple(unit for unit in units if unit.kind == "recover")
    jobs = [
        EncodeJob(
            inputs=inputs, shard=shard, units=recover, ranks=plan.first, classes=len(plan.classes), images=plan.images,
            first=increment.shards[0].first, patches=run.patches, image_format=run.record.image_format,
        )
        for shard in shards
    ]  # fmt: skip
    return Units("encoding", jobs, of="images", amount=lambda job: job.shard.rows)


def labelling_units(packed: PackedShards, shards: Sequence[ShardPlan]) -> Units:
    """The units that label the views of the shards that are not packed."""
    jobs = [job for job in label_jobs(packed.how, packed.missing(shards)) if not job.file.is_good()]
    return Units("labelling", jobs, of="views", amount=lambda job: job.views)


def packing_units(packed: PackedShards, shards: Sequence[ShardPlan]) -> Units:
    """The units that pack the shards that are not packed."""

    def done(job: PackJob, record: PackRecord) -> None:
        packed.add(job, record)

    return Units("packing", packed.jobs(shards), of="images", amount=lambda job: job.shard.rows, done=done)


def label_and_pack(packed: PackedShards, shards: Sequence[ShardPlan], workers: int) -> list[PackRecord]:
    """Label and pack shards whose encoded images are there; returns what is known of each."""
    run_units(labelling_units(packed, shards), workers)
    run_units(packing_units(packed, shards), workers)
    return packed.records(shards)
