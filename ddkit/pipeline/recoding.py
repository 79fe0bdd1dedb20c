"""Takes the labels of another set instead of running the teacher, where both would be equal."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ddkit.core.console import progress
from ddkit.core.device import cores
from ddkit.core.seeds import rng
from ddkit.format.codecs.interface import centred
from ddkit.format.codecs.registry import find_codec
from ddkit.format.manifest import Manifest
from ddkit.format.reading import SetReader
from ddkit.format.views import Views
from ddkit.labelling.encoded import ShardPlan
from ddkit.labelling.labels import COMPARED, Labelling, label_jobs, label_views, shard_pixels, shard_views
from ddkit.specs import TeacherSpec

SAMPLE = 128  # views of each shard that the teacher labels again before labels are taken


def has_same_labels(source: Manifest, how: Labelling, teacher: TeacherSpec) -> bool:
    """Return whether a set holds, in half precision, the logits that labelling would compute for its images.

    Args:
        source: The set.
        how: Settings for labelling its images.
        teacher: The teacher of `how`.
    """
    stored, wanted = source.views, how.policy
    return (
        source.labels.codec == "fp16"
        and not how.label_codec.FROM_PIXELS
        and (source.teacher.hash, source.seed, source.labels.precision) == (teacher.hash, how.seed, how.precision)
        and (source.normalisation.mean, source.normalisation.std) == (tuple(teacher.mean), tuple(teacher.std))
        and (stored.mix_groups, stored.size, stored.backend) == (how.groups, how.size, how.backend)
        and stored.policy.comparable() == wanted.comparable()
        and stored.count >= wanted.count
    )


def take_labels(source: Manifest, how: Labelling, shards: Sequence[ShardPlan]) -> None:
    """Write the labelling units of a set from the labels of another, for the first views of each row.

    The labels of a shard are taken if its views are those that would be drawn, and if the teacher, run on a sample of
    them, gives these labels: a manifest may claim another teacher, or the teacher's classes may have another order.

    Args:
        source: The set that has the same labels.
        how: Settings for labelling.
        shards: The shards to label; they have the paths of the other set's.

    Raises:
        IntegrityError: A shard of `source` is damaged.
    """
    reader, count = SetReader(source), how.policy.count
    total, stored = sum(shard.rows for shard in shards), {shard.path: shard for shard in source.shards}
    with ThreadPoolExecutor(cores()) as pool, progress("taking labels", total, "images") as advance:
        for plan in shards:
            jobs = [job for job in label_jobs(how, [plan]) if not job.file.is_good()]
            if jobs:
                parts = list(reader.shard(stored[plan.path], plan.first, pool))
                logits = np.concatenate([part.soft["logits"] for part in parts])[:, :count]
                views = Views.stack([part.views for part in parts if part.views is not None])
                if _would_be_drawn(views, how, plan) and _are_the_teachers(logits, how, plan):
                    for job in jobs:
                        job.file.write(_unit(source, logits[job.start : job.stop]), {"seconds": 0.0})
            advance(plan.rows)


def _would_be_drawn(views: Views, how: Labelling, plan: ShardPlan) -> bool:
    """Whether the views of a shard are those that its policy and seed give; imported labels are of other views."""
    drawn, found = shard_views(how, plan).tensors(), views.tensors()
    return all(np.array_equal(found[name][:, : how.policy.count], drawn[name]) for name in drawn)


def _are_the_teachers(logits: np.ndarray, how: Labelling, plan: ShardPlan) -> bool:
    """Whether the teacher gives the logits [n,V,C] of a shard, as far as a sample of its views shows."""
    draw = rng(how.seed, "taken labels", plan.first)
    rows, view_indices = draw.integers(0, plan.rows, SAMPLE), draw.integers(0, how.policy.count, SAMPLE)
    images, views = shard_pixels(how, plan), shard_views(how, plan)
    computed = centred(label_views(how, how.open_teacher(), images, views, rows, view_indices, how.precision))
    return bool(find_codec("fp16").agree(logits[rows, view_indices].astype(np.float32), computed).all())


def _unit(source: Manifest, logits: np.ndarray) -> dict[str, np.ndarray]:
    """The tensors of a labelling unit with these logits [n,V,C]; its sums are the means that the manifest records."""
    rows, views = logits.shape[:2]
    tensors = {"logits": logits, "fidelity": np.array(source.labels.fidelity.sums(rows * views), np.float64)}
    if (effect := source.labels.precision_fidelity) is not None:
        tensors["precision"] = np.array(effect.sums(rows * min(views, COMPARED)), np.float64)
    return tensors
