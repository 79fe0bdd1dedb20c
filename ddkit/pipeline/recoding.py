"""Takes the labels of another set instead of running the teacher, where both would be equal."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ddkit.core.console import progress
from ddkit.core.device import cores
from ddkit.format.manifest import Manifest
from ddkit.format.reading import SetReader
from ddkit.format.views import Views
from ddkit.labelling.encoded import ShardPlan
from ddkit.labelling.labels import Labelling, label_jobs, shard_views
from ddkit.specs import TeacherSpec


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

    Args:
        source: The set that has the same labels.
        how: Settings for labelling.
        shards: The shards to label; they have the paths of the other set's.

    Raises:
        IntegrityError: A shard of `source` is damaged.
    """
    reader, found = SetReader(source), source.labels.fidelity
    means = np.array([found.kl_t1, found.kl_t4, found.kl_t20, found.top1_agreement, 1.0], np.float64)
    total, stored = sum(shard.rows for shard in shards), {shard.path: shard for shard in source.shards}
    with ThreadPoolExecutor(cores()) as pool, progress("taking labels", total, "images") as advance:
        for plan in shards:
            jobs = [job for job in label_jobs(how, [plan]) if not job.file.is_good()]
            if jobs:
                parts = list(reader.shard(stored[plan.path], plan.first, pool))
                logits = np.concatenate([part.soft["logits"] for part in parts])[:, : how.policy.count]
                views = Views.stack([part.views for part in parts if part.views is not None]).tensors()
                drawn = shard_views(how, plan).tensors()
                same = all(np.array_equal(views[name][:, : how.policy.count], drawn[name]) for name in drawn)
                for job in jobs if same else ():  # imported labels are of other views
                    fidelity = means * (job.stop - job.start) * how.policy.count
                    mine = {"logits": logits[job.start : job.stop], "fidelity": fidelity}
                    job.file.write(mine, {"seconds": 0.0})
            advance(plan.rows)
