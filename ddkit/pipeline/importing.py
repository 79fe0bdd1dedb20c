"""Makes a set of finished images from elsewhere: keeps their bytes, draws views, labels them with a teacher, packs."""

from __future__ import annotations

import hashlib
import io
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ddkit.core.console import note
from ddkit.core.device import pick_device
from ddkit.core.seeds import permutation
from ddkit.core.serialization import fingerprint
from ddkit.core.worker_state import STATE
from ddkit.distillers import distiller_names, find_distiller, make_config
from ddkit.engine import Engine, select_engine
from ddkit.errors import ClassesError, IntegrityError, OptionError, SourceError, first_few
from ddkit.format.codecs.registry import find_codec
from ddkit.format.entries import Origin, shard_rows
from ddkit.format.fields import NAME
from ddkit.format.images import IMAGE_FORMATS, decode_image, encode_image
from ddkit.format.manifest import ImageInfo, LogInfo, Manifest, RecipeInfo
from ddkit.labelling.encoded import EncodedRows, ShardPlan, plan_shards, save_encoded
from ddkit.labelling.labels import Labelling
from ddkit.labelling.packing import PackedShards, PackRecord
from ddkit.labelling.published import PublishedViews
from ddkit.pipeline.describing import Made, build_manifest, existing_manifest, source_info
from ddkit.pipeline.options import check_counts, known_codec
from ddkit.pipeline.record import public_name, work_dir
from ddkit.pipeline.relabelling import Claim, labelling_settings
from ddkit.pipeline.sharing import finish_in_turn, in_turn, writing
from ddkit.pipeline.units import label_and_pack
from ddkit.sources.decoding import FORMATS, whole_image
from ddkit.sources.images import Source, open_source
from ddkit.sources.published_labels import SEED, PublishedLabels, open_published
from ddkit.specs import ClassName, Protocol, TeacherSpec
from ddkit.teachers.resolving import ResolvedTeacher, TeacherChoice
from ddkit.text import plain_name

REAL_PIXELS = {"rded": "crops", "random": "whole", "herding": "whole", "kcenter": "whole", "kmeans": "whole"}
_NUMBERED = re.compile(r"(?:new|class|cls|label)?[_-]?(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class _Found:
    """The finished images, sorted by class.

    images: encoded bytes; labels, ranks: int64 [n]; names: source row of each; size: side, pixels.
    """

    images: list[bytes]
    labels: np.ndarray
    ranks: np.ndarray
    names: list[str]
    classes: list[ClassName]
    size: int
    codec: str
    ipc: int


def import_images(
    source: str,
    out: str | Path,
    *,
    method: str,
    teacher: str,
    protocol: str = "common",
    views: int | None = None,
    labels: str | None = None,
    labels_seed: int = SEED,
    codec: str = "fp16",
    reencode: bool = False,
    size: int | None = None,
    seed: int = 0,
    split: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    device: str = "auto",
    workers: int | None = None,
    engine: str | None = None,
    devices: str | None = None,
) -> Manifest:
    """Make a set of finished synthetic images: label them with a teacher under a protocol, and pack them.

    Every class must have the same number of images. The images keep their bytes, so they must be square, of one size
    and one codec, and without EXIF rotation, unless `reencode` converts them. A second call with the same `out`
    continues the import.

    Args:
        source: Class folders (by name, or numbered as in `00000/`, `new000/`), zips of those, parquet or tar files, or
            a Hub id.
        out: The directory of the new set.
        method: Name of the method that made the images.
        teacher: A checkpoint, "timm:NAME[@FILE]" or "torchvision:NAME[@FILE]".
        protocol: A protocol's name or TOML file.
        views: Stored views per image. Default: the protocol's; with `labels`, one for each of their epochs.
        labels: Directory of published soft labels in the layout of FKD, as SRe2L, CDA and CUDD publish them
            (`epoch_E/batch_B.tar`). Views and labels are theirs, `protocol` is the one they were made with, and the
            teacher only checks a sample of them. For sets of one shard (docs/format.md).
        labels_seed: Seed of the sampler that gave the labels' batches.
        codec: Encoding of the soft labels.
        reencode: Convert all images to PNG: upright, square, of `size` pixels.
        size: Side of the images, pixels. Default: their own, with `reencode` the teacher's input.
        seed: Seed of the row order and of the views.
        split: Split of the source. Default "train", else its only one.
        image_column: Column of the images, if it cannot be inferred.
        label_column: Column of the labels, if it cannot be inferred.
        device: "auto" or a torch device name.
        workers: Number of processes. Default: the number of cores.
        engine: Where units run, as for `distill`.
        devices: GPUs to use, as for `distill`.

    Returns:
        The manifest of `out`.

    Raises:
        SourceError, ClassesError, TeacherError, OptionError, OtherRun, DiskError.
    """
    if not NAME.fullmatch(method):
        raise OptionError(f"--method is {method!r}; a name of letters, digits, '-', '_' and '.', as in sre2l")
    check_counts(views=views, seed=seed, size=size, workers=workers, labels_seed=labels_seed)
    out, where = Path(out), pick_device(device)
    STATE.drop()
    opened = open_source(source, split=split, image_column=image_column, label_column=label_column)
    found, labeller = _take(opened, teacher, reencode, size)
    chosen = Protocol.load(protocol)
    published = None if labels is None else _published(labels, found, labeller, views, labels_seed)
    policy = chosen.view_spec(patches=1, dataset=None, count=published.epochs if published else views)
    codec = known_codec(codec, found.classes)
    if published and find_codec(codec).FROM_PIXELS:
        raise OptionError("--codec teacher stores no labels; leave out --labels, or choose another codec")
    how = Labelling(
        out=str(out), work=str(work_dir(out)), teacher=str(labeller.path), teacher_hash=labeller.spec.hash,
        order=labeller.order, policy=policy, seed=seed, size=labeller.spec.image_size, image_codec=found.codec,
        codec=codec, patches=1, groups=None, device=str(where), published=published.key if published else None,
    )  # fmt: skip
    claim = _claim(found, how, labeller.spec, chosen, method)
    log: dict[str, Any] = {"imported": len(found.images), "reencoded": reencode}
    given = None
    if published:
        given = PublishedViews(how, published, np.argsort(_order(found, seed)), found.size)
        log["labels"] = _checked(published, given, found, how)
    runner = select_engine(engine, device=where, workers=workers, devices=devices, work=work_dir(out))
    with writing(out, "importing", {"key": claim.key}, runner):
        packed = PackedShards(how)
        records = _packed(found, packed, claim, given, runner)
        made = _made(opened, found, claim, method, log, out)
        manifest = build_manifest(
            made, how, records, label_file=packed.label_file, teacher=labeller.spec,
            teacher_name=public_name(how.teacher), protocol=chosen,
        )  # fmt: skip
        return finish_in_turn(out, manifest, runner, lambda: claim.holds(out))


def _claim(found: _Found, how: Labelling, teacher: TeacherSpec, protocol: Protocol, method: str) -> Claim:
    """Identify the import by its images and classes and how they are labelled."""
    content = hashlib.sha256(b"".join(hashlib.sha256(image).digest() for image in found.images)).hexdigest()
    claim = Claim.of(how, teacher, protocol, content, method)
    classes = [c.name for c in found.classes]
    parts = [claim.fingerprint, labelling_settings(teacher, protocol), classes, found.labels.tolist()]
    return replace(claim, key=fingerprint(parts))


def _packed(
    found: _Found, packed: PackedShards, claim: Claim, given: PublishedViews | None, engine: Engine
) -> list[PackRecord]:
    """Label and pack the images. given: published labels to take instead of the teacher's."""
    shards = plan_shards(size=found.size, rows=len(found.images), first=0, prefixes=(found.ipc,), key=claim.key)
    out = Path(packed.how.out)
    with in_turn(out, "importing", {"key": claim.key}, engine):
        claim.take(out, "import")
        _save(found, shards, packed.how)
        if given and packed.missing(shards):
            given.save(shards[0])
    return label_and_pack(packed, shards, engine)


def _published(root: str, found: _Found, labeller: ResolvedTeacher, views: int | None, seed: int) -> PublishedLabels:
    """Open published labels and compare them with the number of images and the teacher."""
    most = shard_rows(found.size)
    if len(found.images) > most:
        raise OptionError(
            f"--labels takes sets of one shard, up to {most} images of {found.size} px, here are {len(found.images)}: "
            "such labels mix images of the whole set, but a mixing partner must be a row of the same shard "
            "(docs/format.md); leave --labels out to label the images by the teacher"
        )
    labels = open_published(root, images=len(found.images), epochs=views, seed=seed)
    if labels.classes != labeller.spec.num_classes:
        raise SourceError(
            f"--labels {root} have {labels.classes} logits, teacher {labeller.path} has {labeller.spec.num_classes}; "
            "give the teacher that made them"
        )
    return labels


def _checked(labels: PublishedLabels, given: PublishedViews, found: _Found, how: Labelling) -> dict[str, Any]:
    """Compare published labels with the teacher, say how they agree, and return the log of both."""
    order = _order(found, how.seed)
    pixels = np.stack([decode_image(found.images[i], found.codec, found.names[i]) for i in order])
    agreed = given.check(torch.from_numpy(pixels).to(how.device), found.labels[order])
    note(
        f"{labels.root}: {labels.epochs} epochs of {labels.batches} batches of {labels.batch}; of {agreed.views} views "
        f"labelled again, the teacher's top class agrees in {agreed.top1:.1%}, logits differ by {agreed.error:.1%} "
        f"({agreed.chance:.0%} if shuffled); the top class is the image's in {agreed.classes:.1%}"
    )
    values = {name: round(value, 4) for name, value in asdict(agreed).items()}
    return {"sha256": labels.sha256, "epochs": labels.epochs, "batch": labels.batch, "seed": labels.seed} | values


def _made(opened: Source, found: _Found, claim: Claim, method: str, log: dict[str, Any], out: Path) -> Made:
    """Return the part of the manifest that describes the imported images."""
    spec = opened.spec()
    name, ipc = public_name(spec.id), found.ipc
    return Made(
        name=plain_name(name) if method in name else f"{method}-{plain_name(name)}-ipc{ipc}",
        classes=found.classes,
        image=ImageInfo(size=found.size, mode="RGB", codec=found.codec, patches=1),
        method=method,
        recipe=RecipeInfo(name="imported", config={}, dataset=None, classes=None, paper=_paper(method)),
        fingerprint=claim.fingerprint,
        prefixes=(ipc,),
        real_pixels=_real_pixels(method),
        log=LogInfo(skipped=(), plan={str(ipc): log}),
        source=source_info(spec, name),
        kept=existing_manifest(out),
    )


def _paper(method: str) -> str:
    return find_distiller(method).paper if method in distiller_names() else f"{method}, made elsewhere"


def _real_pixels(method: str) -> str:
    """Return `real_pixels` of a known method with default settings; "unknown" for others."""
    if method in distiller_names():
        distiller = find_distiller(method)
        if distiller.real_pixels is not None:
            return distiller.real_pixels(make_config(distiller, {}))
    return REAL_PIXELS.get(method, "unknown")


def _take(source: Source, teacher: str, reencode: bool, size: int | None) -> tuple[_Found, ResolvedTeacher]:
    """Read and check all images, re-encode them with `reencode`, and resolve the teacher for their classes."""
    counts = source.counts
    ipc = int(counts.min())
    if (counts != ipc).any():
        common = Counter(counts.tolist()).most_common(1)[0][0]
        odd = [f"{source.class_names[i]} has {counts[i]}" for i in np.flatnonzero(counts != common)]
        raise ClassesError(
            f"{source.ref.data}: every class needs the same number of images, most have {common}, {first_few(odd)}; "
            "add or remove images"
        )
    source = source.without_unreadable(skip_bad=False)
    labeller, classes = _labeller(teacher, source)
    order = np.argsort(source.labels, kind="stable")
    labels = source.labels[order]
    if reencode:
        side, codec = size or labeller.spec.image_size, "png"
        images = [encode_image(whole_image(source.read(int(i)), side).numpy()) for i in order]
    else:
        raw = [source.encoded(int(i)) for i in order]
        images = [image if isinstance(image, bytes) else encode_image(image) for image in raw]
        side, codec = _uniform(images, source.ref.data)
        if size not in (None, side):
            raise OptionError(f"--size is {size}, the images have {side} px; --reencode resizes them to {size}")
    found = _Found(
        images=images, labels=labels, ranks=np.arange(len(labels)) % ipc,
        names=source.name_rows([int(source.rows[i]) for i in order]), classes=classes, size=side, codec=codec, ipc=ipc,
    )  # fmt: skip
    return found, labeller


def _labeller(teacher: str, source: Source) -> tuple[ResolvedTeacher, list[ClassName]]:
    """Resolve the teacher and the classes; numbered classes (`new007`, `00007`) get the teacher's class names."""
    choice, numbers = TeacherChoice(teacher, None), _numbers(source.classes)
    if None in numbers:
        return choice.resolve(source.classes, source.ref.data), source.classes
    return choice.resolve_numbered(source.classes, [n for n in numbers if n is not None], source.ref.data)


def _numbers(classes: Sequence[ClassName]) -> list[int | None]:
    return [int(m[1]) if (m := _NUMBERED.fullmatch(c.name)) else None for c in classes]


def _uniform(images: Sequence[bytes], what: str) -> tuple[int, str]:
    """Return (side, codec) shared by all images. Raises SourceError with the number of images that differ."""
    kinds: Counter[tuple[Any, ...]] = Counter()
    for data in images:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            kinds[(image.format, image.width, image.height)] += 1
    (kind, width, height), most = kinds.most_common(1)[0]
    codec = next((name for name, format_ in IMAGE_FORMATS.items() if format_ == kind), None)
    problem = None
    if most < len(images):
        problem = f"{len(images) - most} of {len(images)} images are not {kind} of {width}x{height} px like the others"
    elif width != height:
        problem = f"the images are {width}x{height} px, not square"
    elif codec is None:
        problem = f"the images are {kind}; a set holds {', '.join(IMAGE_FORMATS)}"
    else:
        problem = _unlike_stored(images, codec, width)
    if problem:
        raise SourceError(f"{what}: {problem}; --reencode converts them to upright, square PNGs of --size pixels")
    assert codec is not None
    return width, codec


def _unlike_stored(images: Sequence[bytes], codec: str, side: int) -> str | None:
    """Return why some images cannot be stored unchanged (mode, EXIF rotation, trailing data), or None."""
    why: Counter[str] = Counter()
    for data in images:
        try:
            decode_image(data, codec, "", side)
        except IntegrityError as error:
            why[str(error).removeprefix(": ").partition(";")[0]] += 1
    if not why:
        return None
    return f"of {why.total()} of {len(images)} images readers may decode differently ({why.most_common(1)[0][0]})"


def _order(found: _Found, seed: int) -> np.ndarray:
    """The images in the order of the rows: seeded, over all classes."""
    return permutation(seed, len(found.images), "rows", found.ipc)


def _save(found: _Found, shards: Sequence[ShardPlan], how: Labelling) -> None:
    """Write the encoded images as units, each with its source row as origin."""
    order = _order(found, how.seed)
    for shard in shards:
        mine = order[shard.first : shard.first + shard.rows]
        origins = [Origin(kind="import", rows=(found.names[i],)) for i in mine]
        rows = EncodedRows([found.images[i] for i in mine], found.labels[mine], found.ranks[mine], origins)
        save_encoded(how.store, shard, rows)
