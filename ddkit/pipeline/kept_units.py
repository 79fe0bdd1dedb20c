"""The units of a finished set in OUT.work, from which parts of it are written again with the same bytes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from ddkit.core.console import note
from ddkit.core.worker_state import STATE
from ddkit.errors import IntegrityError
from ddkit.format.manifest import Manifest
from ddkit.format.shards import Sample
from ddkit.labelling.encoded import EncodedRows, ShardPlan, load_encoded
from ddkit.labelling.labels import UNIT_ROWS, LabelJob, Labelling, views_unit
from ddkit.labelling.packing import PackJob, Totals
from ddkit.labelling.shared import SharedJob
from ddkit.pipeline.describing import planned_shards
from ddkit.pipeline.record import load_record, work_dir
from ddkit.pipeline.relabelling import claimed_key
from ddkit.specs import TeacherSpec


@dataclass(frozen=True)
class KeptUnits:
    """The units of a set: encoded images, logits, and views of published labels. The teacher is not needed.

    Attributes:
        manifest: The set.
        how: How its images were labelled.
        plans: Its shards.
    """

    manifest: Manifest
    how: Labelling
    plans: tuple[ShardPlan, ...]

    @classmethod
    def of(cls, manifest: Manifest) -> KeptUnits | None:
        """Return the units of a set, or None if OUT.work is gone or does not say which units are the set's.

        Args:
            manifest: The set.
        """
        key = _run_key(manifest.root)
        if key is None:
            return None
        how = Labelling(
            out=str(manifest.root), work=str(work_dir(manifest.root)), teacher="", teacher_hash=manifest.teacher.hash,
            order=None, policy=manifest.views.policy, seed=manifest.seed, size=manifest.views.size,
            image_codec=manifest.image.codec, codec=manifest.labels.codec, patches=manifest.image.patches,
            groups=manifest.views.mix_groups, device="cpu",
        )  # fmt: skip
        plans = tuple(planned_shards(manifest, key))
        published = any(views_unit(how, plan).path.is_file() for plan in plans)
        return cls(manifest, replace(how, published="") if published else how, plans)

    def encoded(self, number: int) -> EncodedRows | None:
        """Return the encoded images of a shard, or None if they are not kept.

        Args:
            number: Position of the shard in the manifest.
        """
        try:
            return load_encoded(self.how.store, self.plans[number])
        except IntegrityError:
            return None

    def views(self, number: int, i: int) -> bytes | None:
        """Return the views member of a row, or None if a unit that it is made from is not kept.

        Args:
            number: Position of the shard in the manifest.
            i: Position of the row in the shard.
        """
        job = self._packing(number)
        unit = job.labels[i // UNIT_ROWS]
        samples = STATE.keep("packed rows", unit, lambda: _samples(job, unit))
        return samples[i - unit.start].views if samples else None

    def write_shared(self, root: Path) -> bool:
        """Fit the labels that all rows share and write them; returns False if a unit that they need is not kept.

        Args:
            root: Directory that the file is written to.

        Raises:
            DiskError: The file cannot be written.
        """
        try:
            SharedJob(how=self.how, shards=tuple(plan for plan in self.plans if plan.stage == 1)).write(root)
        except IntegrityError:
            return False
        return True

    def _packing(self, number: int) -> PackJob:
        manifest = self.manifest
        teacher = TeacherSpec(
            arch=manifest.teacher.arch, num_classes=len(manifest.classes), image_size=manifest.views.size,
            mean=manifest.normalisation.mean, std=manifest.normalisation.std, classes=tuple(manifest.class_names),
        )  # fmt: skip
        return PackJob(how=self.how, shard=self.plans[number], shared=manifest.labels.file, teacher=teacher)


def _samples(job: PackJob, unit: LabelJob) -> list[Sample]:
    """The rows of a labelling unit; empty if a unit that they are made from is missing or damaged."""
    try:
        return list(job.samples(unit, Totals()))
    except IntegrityError:
        return []


def _run_key(root: Path) -> str | None:
    """The key of the run that made the set: of `distill` from its record, else of the relabelling or import."""
    try:
        record = load_record(root)
    except IntegrityError as error:
        note(f"{error}; its units are not used")
        return None
    return claimed_key(root) if record is None else record.key
