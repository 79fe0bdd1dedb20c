"""A resolved run of `distill` and its increments, from which the units are made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ddkit.core.files import write_sealed
from ddkit.core.serialization import canonical
from ddkit.distillers import make_config
from ddkit.engine import Engine
from ddkit.engine.units import UnitStore
from ddkit.format.manifest import Manifest
from ddkit.format.manifest_file import is_set, read_manifest
from ddkit.labelling.encoded import ShardPlan, plan_shards
from ddkit.labelling.labels import Labelling
from ddkit.labelling.packing import PackRecord
from ddkit.pipeline.record import RunRecord, load_record, work_dir
from ddkit.pipeline.synthesis_units import STAGE_MANIFEST, SynthesisInputs
from ddkit.sources.images import Source
from ddkit.sources.outlines import Outline
from ddkit.specs import Protocol, ViewSpec
from ddkit.synthesis.interface import Distiller, Plan
from ddkit.teachers.resolving import ResolvedTeacher


@dataclass(frozen=True)
class Increment:
    """The images that one prefix adds to the set.

    Attributes:
        stage: Position of the prefix in the list, from 1.
        plan: The ranks to make.
        shards: Their shards.
    """

    stage: int
    plan: Plan
    shards: tuple[ShardPlan, ...]


@dataclass(frozen=True, kw_only=True)
class Run:
    """One resolved call of `distill`.

    Attributes:
        out: The directory of the set.
        record: All resolved options.
        method: Name of the method, or the file given on the command line.
        distiller: The method.
        source: The source, without unreadable and held-out images.
        teacher: The teacher.
        protocol: The protocol.
        policy: Augmentation policy of the views.
        patches: N of the patch grid that the images are stitched from; 1: none.
        device: Device of all computation.
        engine: Where units run.
    """

    out: Path
    record: RunRecord
    method: str
    distiller: Distiller
    source: Source
    teacher: ResolvedTeacher
    protocol: Protocol
    policy: ViewSpec
    patches: int
    device: torch.device
    engine: Engine

    @property
    def work(self) -> Path:
        """The directory OUT.work."""
        return work_dir(self.out)

    @property
    def store(self) -> UnitStore:
        """The store of the run's units."""
        return UnitStore(str(self.work))

    def holds_out(self) -> bool:
        """Return whether OUT belongs to this run, with these prefixes."""
        known = load_record(self.out)
        return known is not None and (known.key, known.prefixes) == (self.record.key, self.record.prefixes)

    @property
    def config(self) -> Any:
        """The method's settings."""
        return make_config(self.distiller, self.record.config)

    def increments(self) -> Iterator[Increment]:
        """Iterate over the increments, one per prefix, in order."""
        for stage in range(1, len(self.record.prefixes) + 1):
            yield self.increment(stage)

    def increment(self, stage: int) -> Increment:
        """Return the increment of one prefix.

        Args:
            stage: Position of the prefix in the list, from 1.
        """
        plan = increment_plan(
            self.distiller, self.record.config, self.source, self.record.prefixes[:stage], self.record.size,
            self.record.seed,
        )  # fmt: skip
        shards = plan_shards(
            size=self.record.size, rows=plan.images, first=plan.first * len(plan.classes), prefixes=plan.prefixes,
            key=self.record.key,
        )  # fmt: skip
        return Increment(stage, plan, tuple(shards))

    def inputs(self, increment: Increment) -> SynthesisInputs:
        """Return the inputs that the synthesis units of an increment share, as plain data.

        Args:
            increment: The increment.
        """
        earlier = tuple(shard for s in range(1, increment.stage) for shard in self.increment(s).shards)
        return SynthesisInputs(
            method=self.method, config=canonical(self.record.config), source=self.source.ref,
            fingerprint=self.source.fingerprint, classes=tuple(self.source.class_names), size=self.record.size,
            seed=self.record.seed,
            teacher=str(self.teacher.path), teacher_hash=self.teacher.spec.hash, order=self.teacher.order,
            device=str(self.device), out=str(self.out), work=str(self.work), key=self.record.key,
            prefixes=increment.plan.prefixes, earlier=earlier,
        )  # fmt: skip

    @property
    def labelling(self) -> Labelling:
        """How the images of the run are labelled."""
        return Labelling(
            out=str(self.out), work=str(self.work), teacher=str(self.teacher.path),
            teacher_hash=self.teacher.spec.hash, order=self.teacher.order, policy=self.policy, seed=self.record.seed,
            size=self.record.size, patches=self.patches, groups=None, image_codec=self.record.image_format,
            codec=self.record.codec, device=str(self.device), precision=self.record.precision,
        )  # fmt: skip

    def log(self, stage: int) -> dict[str, Any]:
        """Return what the method records of each prefix; entries already in the manifest take precedence.

        Args:
            stage: Position of the last prefix, from 1.
        """
        if self.distiller.log is None:
            return {}
        kept = read_manifest(self.out).log.plan if is_set(self.out) else {}
        found = {}
        for increment in (self.increment(s) for s in range(1, stage + 1)):
            name, inputs = str(increment.plan.last), self.inputs(increment)
            found[name] = kept.get(name) or self.distiller.log(increment.plan, inputs.result)
        return found

    def record_stage(self, manifest: Manifest) -> None:
        """Store the manifest of the shards packed so far in OUT.work, from which the next stage's student replays.

        Args:
            manifest: That manifest.
        """
        write_sealed(self.work / STAGE_MANIFEST, canonical(manifest.to_json()).encode(), self.record.key)


Packed = dict[str, PackRecord]  # path of a shard -> its record


def increment_plan(
    distiller: Distiller,
    config: dict[str, Any],
    source: Source | Outline,
    prefixes: tuple[int, ...],
    size: int,
    seed: int,
) -> Plan:
    """Return the plan of the increment of the last of some prefixes.

    Args:
        distiller: The method.
        config: Its settings by dotted key.
        source: The source, or its outline.
        prefixes: IPC of each prefix up to this one.
        size: Side of the images, pixels.
        seed: Seed of the run.
    """
    return Plan(
        config=make_config(distiller, config),
        classes=tuple(source.class_names),
        counts=tuple(int(n) for n in source.counts),
        first=(0, *prefixes)[-2],
        last=prefixes[-1],
        size=size,
        seed=seed,
        prefixes=prefixes,
    )
