"""Other people's finished images as a set: bytes kept, views drawn, labelled by a teacher, packed."""

from __future__ import annotations

import hashlib
import io
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ddkit.core.device import cores, device_class, pick_device
from ddkit.core.files import locked
from ddkit.core.seeds import permutation
from ddkit.core.serialization import fingerprint, to_plain
from ddkit.distillers import distiller_names, find_distiller, make_config
from ddkit.errors import ClassesError, IntegrityError, OptionError, SourceError, first_few
from ddkit.format.codecs import find_codec
from ddkit.format.images import IMAGE_FORMATS, decode_image, encode_image
from ddkit.format.manifest import Manifest
from ddkit.format.schema import NAME
from ddkit.format.shards import shard_rows, shard_sizes
from ddkit.labelling.encoded import Rows, ShardPlan, save_rows
from ddkit.labelling.labels import Labelling
from ddkit.labelling.packing import label_and_pack
from ddkit.networks.checkpoints import load_checkpoint
from ddkit.pipeline.describing import (
    class_facts,
    cost_facts,
    finish,
    fresh_facts,
    kept_facts,
    label_facts,
    recommended,
    shard_key,
    teacher_facts,
    view_facts,
)
from ddkit.pipeline.record import check_counts, public_name, work_dir
from ddkit.pipeline.relabelling import claim
from ddkit.sources.decoding import FORMATS, whole_image
from ddkit.sources.images import Source, open_source
from ddkit.specs import ClassName, Protocol, TeacherSpec
from ddkit.teachers.resolving import find_teacher, match_teacher
from ddkit.text import plain_name

REAL_PIXELS = {"rded": "crops", "random": "whole", "herding": "whole", "kcenter": "whole", "kmeans": "whole"}
_NUMBERED = re.compile(r"(?:new|class|cls|label)?[_-]?(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class _Found:
    """Finished images, class by class. images: encoded; labels, ranks: int64; names: where each came from."""

    images: list[bytes]
    labels: np.ndarray
    ranks: np.ndarray
    names: list[str]
    classes: list[ClassName]
    size: int
    codec: str


def import_images(
    source: str,
    out: str | Path,
    *,
    method: str,
    teacher: str,
    protocol: str = "common",
    views: int | None = None,
    codec: str = "fp16",
    reencode: bool = False,
    size: int | None = None,
    seed: int = 0,
    split: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    device: str = "auto",
    workers: int | None = None,
) -> Manifest:
    """Take finished synthetic images into the set `out`: relabelled by `teacher` under `protocol`, and packed.

    source: class folders (by name, or numbered as in `00000/`, `new000/`), zips of those, parquet or tar files, or a
    Hub id; every class must have the same number of images. Bytes are kept: all images must be square, of one size,
    one codec and without EXIF rotation, unless `reencode` makes them so (PNG, upright, `size` pixels).
    method: the name under which they were made. Run again, it continues. Returns the manifest.
    Raises SourceError, ClassesError, TeacherError, OptionError, OtherRun, DiskError.
    """
    if not NAME.fullmatch(method):
        raise OptionError(f"--method is {method!r}; a name of letters, digits, '-', '_' and '.', as in sre2l")
    check_counts({"views": views, "seed": seed, "size": size, "workers": workers})
    out, where = Path(out), pick_device(device)
    opened = open_source(source, split=split, image_column=image_column, label_column=label_column)
    path = find_teacher(teacher, None, size=None, seed=0, device=where)
    found = _take(opened, path, reencode, size)
    spec, order = match_teacher(path, found.classes, source)
    chosen = Protocol.load(protocol)
    law = chosen.view_spec(patches=1, dataset=None, count=views)
    find_codec(codec)
    ipc = int(found.ranks.max()) + 1
    how = Labelling(
        out=str(out), work=str(work_dir(out)), teacher=str(path), teacher_hash=spec.hash, order=order, law=law,
        seed=seed, size=spec.image_size, image_codec=found.codec, codec=codec, patches=1, groups=None,
        device=str(where),
    )  # fmt: skip
    content = hashlib.sha256(b"".join(hashlib.sha256(image).digest() for image in found.images)).hexdigest()
    key = fingerprint([asdict(how) | {"out": "", "work": "", "teacher": spec.hash}, content, method])
    seen = [list(spec.mean), list(spec.std), to_plain(spec.transform), to_plain(chosen)]
    mine = fingerprint([key, seen, [c.name for c in found.classes], found.labels.tolist()])
    with locked(out, "importing", {"key": mine}):
        claim(out, key, mine, "import")
        plans = _plans(found, ipc, mine)
        _save(found, plans, work_dir(out), seed, ipc)
        records = label_and_pack(how, plans, (workers or cores()) if where.type == "cpu" else 1)
        return finish(out, _facts(opened, found, how, records, spec, chosen, method, key, reencode))


def _facts(
    opened: Source, found: _Found, how: Labelling, records: list[dict[str, Any]], spec: TeacherSpec, chosen: Protocol,
    method: str, key: str, reencode: bool,
) -> dict[str, Any]:  # fmt: skip
    """The manifest of an import."""
    out, ipc, device = Path(how.out), int(found.ranks.max()) + 1, torch.device(how.device)
    train = chosen.train_spec(ipc=ipc, arch=spec.arch, dataset=None)
    known = to_plain(opened.spec())
    name = public_name(known["id"])
    return fresh_facts(found.size) | {
        "name": plain_name(name) if method in name else f"{method}-{plain_name(name)}-ipc{ipc}",
        "classes": class_facts(found.classes),
        "ipc": ipc,
        "image": {"size": found.size, "mode": "RGB", "codec": found.codec, "patches": 1},
        "image_tars": bool(records[0]["entry"]["images"]),
        "views": view_facts(how.law, spec.image_size, chosen.name, None, how.device),
        "normalisation": {"mean": list(spec.mean), "std": list(spec.std)},
        "eval": to_plain(spec.transform),
        "labels": label_facts(how.codec, train.temperature, records),
        "method": method,
        "recipe": {"name": "imported", "config": {}, "dataset": None, "classes": None, "paper": _paper(method)},
        "seed": how.seed,
        "fingerprint": key,
        "prefixes": [ipc],
        "recommended": recommended(chosen, spec.arch),
        "real_pixels": _real_pixels(method),
        "log": {"skipped": [], "plan": {str(ipc): {"imported": len(found.images), "reencoded": reencode}}},
        "cost": cost_facts(Path(how.work), records, len(found.images), device_class(device)),
        "devices": [device_class(device)],
        "source": known | {"id": name},
        "teachers": [teacher_facts(spec, public_name(how.teacher))],
        "shards": [record["entry"] for record in records],
        **kept_facts(out),
    }


def _paper(method: str) -> str:
    return find_distiller(method).PAPER if method in distiller_names() else f"{method}, made elsewhere"


def _real_pixels(method: str) -> str:
    """What images of a known method are made of; `unknown` for others."""
    if method in distiller_names():
        module = find_distiller(method)
        if hasattr(module, "real_pixels"):
            return module.real_pixels(make_config(module, {}))
    return REAL_PIXELS.get(method, "unknown")


def _take(source: Source, teacher: Path, reencode: bool, size: int | None) -> _Found:
    """All images with their classes, checked; encoded anew with `reencode`."""
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
    order = np.argsort(source.labels, kind="stable")
    raw = [source.encoded(int(i)) for i in order]
    labels = source.labels[order]
    if reencode:
        side = size or load_checkpoint(teacher)[1].image_size
        images = [encode_image(whole_image(source.read(int(i)), side).numpy()) for i in order]
        codec = "png"
    else:
        images = [image if isinstance(image, bytes) else encode_image(image) for image in raw]
        side, codec = _uniform(images, source.ref.data)
        if size not in (None, side):
            raise OptionError(f"--size is {size}, the images have {side} px; --reencode makes them {size}")
    return _Found(
        images=images,
        labels=labels,
        ranks=np.arange(len(labels)) % ipc,
        names=source.name_rows([int(source.rows[i]) for i in order]),
        classes=_named(source.classes, teacher),
        size=side,
        codec=codec,
    )


def _uniform(images: Sequence[bytes], what: str) -> tuple[int, str]:
    """(side, codec) that all images share. Raises SourceError counting those that differ."""
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
        raise SourceError(f"{what}: {problem}; --reencode makes them PNG, upright, square, of --size pixels")
    assert codec is not None
    return width, codec


def _unlike_stored(images: Sequence[bytes], codec: str, side: int) -> str | None:
    """Why some images cannot be stored as they are: another mode than RGB, a rotation, something behind them."""
    why: Counter[str] = Counter()
    for data in images:
        try:
            decode_image(data, codec, "", side)
        except IntegrityError as error:
            why[str(error).removeprefix(": ").partition(";")[0]] += 1
    if not why:
        return None
    return f"of {why.total()} of {len(images)} images readers may see different pixels ({why.most_common(1)[0][0]})"


def _named(classes: list[ClassName], teacher: Path) -> list[ClassName]:
    """Classes that are numbers (`new007`, `00007`) by the teacher's names, in its order."""
    numbers = [int(m[1]) if (m := _NUMBERED.fullmatch(c.name)) else None for c in classes]
    spec = load_checkpoint(teacher)[1]
    if None in numbers or {c.name for c in classes} == set(spec.classes):
        return classes
    if sorted(n for n in numbers if n is not None) != list(range(spec.num_classes)):
        raise ClassesError(
            f"the numbered classes ({first_few(c.name for c in classes)}) are not 0 to {spec.num_classes - 1}, which "
            f"the teacher {teacher.name} knows; give another teacher, or name the folders by class"
        )
    names = spec.class_names()
    return [names[n] for n in numbers if n is not None]


def _plans(found: _Found, ipc: int, key: str) -> list[ShardPlan]:
    plans, first, mine = [], 0, shard_key(key, [ipc])
    for number, rows in enumerate(shard_sizes(len(found.images), shard_rows(found.size))):
        plans.append(ShardPlan(prefix=ipc, stage=1, number=number, first=first, rows=rows, key=mine))
        first += rows
    return plans


def _save(found: _Found, plans: Sequence[ShardPlan], work: Path, seed: int, ipc: int) -> None:
    """The `images` units: all classes mixed, each row remembering the file it came from."""
    order = permutation(seed, len(found.images), "rows", ipc)
    for plan in plans:
        mine = order[plan.first : plan.first + plan.rows]
        origins = [{"kind": "import", "rows": [found.names[i]]} for i in mine]
        save_rows(work, plan, Rows([found.images[i] for i in mine], found.labels[mine], found.ranks[mine], origins))
