"""Finishes a set: builds its manifest, verifies the directory, renders card and preview."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch

from ddkit.core.device import device_class, versions
from ddkit.core.files import is_abandoned, write_bytes
from ddkit.core.serialization import to_plain
from ddkit.errors import IntegrityError
from ddkit.format.damage import open_shard
from ddkit.format.entries import LabelFile, shard_rows
from ddkit.format.fields import FILE as FILE_NAME
from ddkit.format.label_info import Budget, Fidelity, LabelInfo
from ddkit.format.manifest import (
    ClassInfo,
    EvalInfo,
    ImageInfo,
    LogInfo,
    Manifest,
    Normalisation,
    RecipeInfo,
    Recommended,
    RelabelledFrom,
    SourceInfo,
    TeacherInfo,
    ViewInfo,
)
from ddkit.format.manifest_file import check_links, is_set, kept_manifest, read_manifest, write_manifest
from ddkit.format.row_format import RowFormat
from ddkit.format.row_records import member
from ddkit.format.verification import directory_problems
from ddkit.labelling.encoded import EncodedRows, ShardPlan, prefix_key, save_encoded
from ddkit.labelling.labels import COMPARED, Labelling
from ddkit.labelling.packing import PackJob, PackRecord
from ddkit.labelling.shared import SharedJob
from ddkit.pipeline.costs import CostLog, cost_of, read_cost
from ddkit.publishing.rendering import publish_files
from ddkit.specs import ClassName, Protocol, TeacherSpec, ViewSpec

# kind of origin -> `real_pixels`, the kinds that keep most of the real images first
REAL_PIXELS = {"real": "whole", "patches": "crops", "import": "unknown", "noise": "none"}


@dataclass(frozen=True, kw_only=True)
class Made:
    """How the images of a set were made, independent of its labelling: the manifest's fields of the same names.

    Attributes:
        name: Name of the set.
        classes: Classes, in label order.
        image: Size, codec and patch grid of the images.
        method: Name of the method.
        recipe: Recipe and complete settings.
        fingerprint: Hash of everything that determines the bytes, except the prefixes (docs/format.md).
        prefixes: IPC of each prefix, increasing.
        real_pixels: What the images contain of real images: "whole", "crops", "initial", "none" or "unknown".
        log: Skipped source rows, and what the method recorded.
        source: The source.
        devices: Device classes of the set that this one grew from, or whose images were relabelled.
        relabelled_from: The set whose images were relabelled.
        kept: Manifest already in OUT, whose results, repository and licence are carried over.
        budget: How image format, view count and codec were chosen, if they were.
    """

    name: str
    classes: Sequence[ClassName]
    image: ImageInfo
    method: str
    recipe: RecipeInfo
    fingerprint: str
    prefixes: tuple[int, ...]
    real_pixels: str
    log: LogInfo
    source: SourceInfo
    devices: Sequence[str] = ()
    relabelled_from: RelabelledFrom | None = None
    kept: Manifest | None = None
    budget: Budget | None = None


def build_manifest(
    made: Made,
    how: Labelling,
    records: Sequence[PackRecord],
    *,
    label_file: LabelFile | None,
    teacher: TeacherSpec,
    teacher_name: str,
    protocol: Protocol,
) -> Manifest:
    """Build the manifest of packed shards.

    Args:
        made: How the images were made.
        how: How they were labelled.
        records: Records of all shards, in order.
        label_file: The file of labels that all rows share, if the codec has one.
        teacher: The teacher that labelled them.
        teacher_name: Name of the teacher in the manifest.
        protocol: Protocol that the views are drawn for.
    """
    train = protocol.train_spec(ipc=made.prefixes[-1], arch=teacher.arch, dataset=made.recipe.dataset)
    precision = [record.precision for record in records if record.precision]
    device, kept, log = device_class(torch.device(how.device)), made.kept, read_cost(Path(how.work))
    return Manifest(
        name=made.name,
        created_by=versions(),
        install="pip install ddkit",
        repo=kept.repo if kept else None,
        license=kept.license if kept else None,
        classes=tuple(ClassInfo(name=c.name, id=c.id) for c in made.classes),
        ipc=made.prefixes[-1],
        image=made.image,
        image_tars=records[0].entry.images is not None,
        views=ViewInfo(
            **{f.name: getattr(how.policy, f.name) for f in fields(ViewSpec)}, size=how.size, protocol=protocol.name,
            mix_groups=how.groups, backend=how.backend,
        ),
        normalisation=Normalisation(mean=_three(teacher.mean), std=_three(teacher.std)),
        eval=EvalInfo(resize=teacher.transform.resize, crop=teacher.transform.crop),
        labels=LabelInfo(
            codec=how.codec, fidelity=fidelity([record.fidelity for record in records]),
            temperature=how.label_codec.usual_temperature(train.temperature),
            file=label_file, precision=how.precision, precision_fidelity=fidelity(precision) if precision else None,
            budget=made.budget,
        ),
        method=made.method,
        recipe=made.recipe,
        seed=how.seed,
        fingerprint=made.fingerprint,
        prefixes=made.prefixes,
        shard_rows=shard_rows(made.image.size),
        recommended=Recommended(protocol=protocol.name, definition=protocol.definition(), arch=teacher.arch),
        real_pixels=made.real_pixels,
        log=made.log,
        cost=cost_of(log, records, device),
        devices=devices_of(records, log, made.devices) or (device,),
        source=made.source,
        teachers=(
            TeacherInfo(
                arch=teacher.arch, hash=teacher.hash, accuracy=teacher.accuracy, measured_on=teacher.measured_on,
                where=teacher_name,
            ),
        ),
        shards=tuple(record.entry for record in records),
        relabelled_from=made.relabelled_from,
        subset_of=None,
        results=kept.results if kept else (),
        measurements=kept.measurements if kept else (),
    )  # fmt: skip


def devices_of(records: Sequence[PackRecord], log: CostLog, earlier: Sequence[str]) -> tuple[str, ...]:
    """Return the classes of the devices that computed the images and labels of a set.

    Args:
        records: Records of all packed shards.
        log: The cost log of the run.
        earlier: Devices of a set that this one grew from, or has the images of.
    """
    return tuple(sorted({*earlier, *log.devices, *(device for record in records for device in record.devices)}))


def fidelity(records: Sequence[Sequence[float | None]]) -> Fidelity:
    """Return the manifest's label fidelity: means over all views.

    Args:
        records: The sums of `fidelity_sums` over each shard; None: the codec has no labels for that temperature.
    """
    sums = np.sum(np.array(records, np.float64), axis=0)
    views = max(float(sums[-1]), 1.0)
    at_1, at_4, at_20 = (None if np.isnan(total) else max(float(total) / views, 0.0) for total in sums[:3])
    return Fidelity(kl_t1=at_1 or 0.0, kl_t4=at_4, kl_t20=at_20, top1_agreement=float(sums[3]) / views)


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def source_info(spec: object, name: str) -> SourceInfo:
    """Return the manifest's `source`.

    Args:
        spec: A DatasetSpec.
        name: Name of the source in the manifest.
    """
    return SourceInfo(**(to_plain(spec) | {"id": name}))


def real_pixels_of(records: Sequence[PackRecord]) -> str:
    """Infer `real_pixels` from the origins of the images; the kind that shows most of real images decides.

    Args:
        records: Records of all packed shards.

    Returns:
        "whole" before "crops" before "unknown" (imported images, or no known kind) before "none".
    """
    kinds = {kind for record in records for kind in record.kinds}
    return next((pixels for kind, pixels in REAL_PIXELS.items() if kind in kinds), "unknown")


def existing_manifest(out: Path) -> Manifest | None:
    """Return the manifest of the set in OUT, or None if OUT is not a set.

    Args:
        out: The directory OUT.
    """
    return read_manifest(out) if is_set(out) else None


# ------------------------------------------------------------------ units of a set whose OUT.work was deleted


def planned_shards(manifest: Manifest, key: str) -> list[ShardPlan]:
    """Reconstruct the shard plans of a set from its manifest.

    Args:
        manifest: The set.
        key: Key of the run that continues it.
    """
    plans, first, numbers = [], 0, dict.fromkeys(manifest.prefixes, 0)
    for shard in manifest.shards:
        stage = manifest.prefixes.index(shard.prefix) + 1
        mine = prefix_key(key, manifest.prefixes[:stage])
        number = numbers[shard.prefix]
        plans.append(ShardPlan(prefix=shard.prefix, stage=stage, number=number, first=first, rows=shard.rows, key=mine))
        numbers[shard.prefix] += 1
        first += shard.rows
    return plans


def restore_images(manifest: Manifest, how: Labelling, key: str) -> list[ShardPlan]:
    """Recreate missing units of encoded images from the published shards of a set.

    Args:
        manifest: The set.
        how: Labelling whose unit store receives them.
        key: Key of the run that continues the set.

    Returns:
        The plans of all shards.

    Raises:
        IntegrityError: A shard is damaged.
    """
    form = RowFormat.of(manifest)
    plans = planned_shards(manifest, key)
    for plan, shard in zip(plans, manifest.shards):
        if plan.encoded(how.store).is_good():
            continue
        tar, records = open_shard(manifest, shard)
        metadata = [form.unpack(member(tar, r.views), f"{plan.path} row {r.row}").metadata for r in records]
        images = [member(tar, r.image) for r in records]
        labels, ranks = np.array([r.label for r in records]), np.array([m.rank for m in metadata])
        save_encoded(how.store, plan, EncodedRows(images, labels, ranks, [m.origin for m in metadata]))
    return plans


def restore_units(manifest: Manifest, how: Labelling, key: str) -> None:
    """Recreate the units of packed shards after OUT.work was deleted, so that extending the set does not repeat them.

    Args:
        manifest: The set.
        how: Labelling whose unit store receives them.
        key: Key of the run.

    Raises:
        IntegrityError: A shard is damaged.
    """
    plans, exact = restore_images(manifest, how, key), manifest.labels.precision_fidelity
    for plan, shard in zip(plans, manifest.shards):
        pack = PackJob(how=how, shard=plan)
        if pack.record() is None:
            seen = min(manifest.views.count, COMPARED)
            views = plan.rows * (seen if how.label_codec.FROM_PIXELS else manifest.views.count)
            pack.save(
                PackRecord(
                    entry=shard, fidelity=manifest.labels.fidelity.sums(views), seconds=0.0,
                    precision=tuple(total or 0.0 for total in exact.sums(plan.rows * seen)) if exact else (),
                )
            )  # fmt: skip
    if (entry := manifest.labels.file) is not None:
        first = tuple(plan for plan in plans if plan.stage == 1)
        shared = SharedJob(how=how, shards=first)
        if shared.file.read_json() is None:
            shared.save(entry)


# ------------------------------------------------------------------ finishing


def finish(out: Path, manifest: Manifest) -> Manifest:
    """Write the manifest, verify every file against it, remove leftovers of killed runs, render card and preview.

    A copy of the manifest is kept in OUT.work. Only unlisted shards, unlisted row records and temporary files of dead
    processes are removed.

    Args:
        out: The directory of the set.
        manifest: Its manifest.

    Returns:
        The manifest as read back.

    Raises:
        IntegrityError: A file differs from what was written (a disk error).
    """
    write_bytes(kept_manifest(out), manifest.to_bytes())
    written = write_manifest(out, manifest)
    listed = written.files()
    check_links(out)
    for path in (*out.glob("data/*"), *out.glob("images/*"), *out.iterdir()):
        name = path.relative_to(out).as_posix()
        ours = is_abandoned(path) or (FILE_NAME.fullmatch(name) is not None and name not in listed)
        if ours and path.is_file():
            path.unlink(missing_ok=True)
    if problems := directory_problems(out):
        raise IntegrityError(f"{out}: {problems[0]}; the disk did not store what was written; run the command again")
    publish_files(written)
    return read_manifest(out)
