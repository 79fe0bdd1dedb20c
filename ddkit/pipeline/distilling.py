"""The main path: source -> teacher -> distiller -> images -> relabel -> shards -> manifest, prefix by prefix.

    distill(out, data=…)          this file, from top to bottom
      prepare                   preparing.py: what is asked, what stands in OUT, images, teacher; record.py, costs.py
      for each prefix:
        recover                 making.py, distillers/: units -> Synthetic images    OUT.work/units/recover-…
        _encode                 format/images: the bytes that are published          OUT.work/units/images-…
        label_and_pack          replay/relabelling: teacher over all views, shards   OUT/data/…
      finish                    manifests.py: ddkit.json, verify, card and preview

Everything is a unit with one file; a unit whose file is there is not done again, so running the same command again
continues after any kill.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ddkit.core.device import cores, device_class, pick_device
from ddkit.core.files import locked, write_sealed
from ddkit.core.seeds import permutation
from ddkit.core.serialization import canonical, to_plain
from ddkit.errors import OptionError
from ddkit.format.images import encode_image
from ddkit.format.manifest import Manifest, seal
from ddkit.labelling.encoded import Rows, ShardPlan, images_unit, load_rows, save_rows
from ddkit.labelling.packing import PackJob, label_and_pack
from ddkit.pipeline.describing import (
    REAL_PIXELS,
    add_cost,
    class_facts,
    cost_facts,
    earlier_devices,
    finish,
    fresh_facts,
    kept_facts,
    label_facts,
    recommended,
    teacher_facts,
    view_facts,
)
from ddkit.pipeline.record import check_counts, public_name, work_dir
from ddkit.pipeline.resolving import Run, prepare
from ddkit.pipeline.running import STAGE_MANIFEST, Made, recover
from ddkit.specs import Protocol
from ddkit.text import plain_name


def distill(
    out: str | Path,
    *,
    data: str | None = None,
    method: str | None = None,
    ipc: int | None = None,
    seed: int | None = None,
    recipe: str | None = None,
    settings: Mapping[str, Any] | None = None,
    protocol: str | Protocol | None = None,
    views: int | None = None,
    size: int | None = None,
    classes: str | None = None,
    holdout: float | None = None,
    teacher: str | None = None,
    codec: str | None = None,
    image_format: str | None = None,
    prefixes: tuple[int, ...] | None = None,
    split: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    skip_bad: bool | None = None,
    rehash: bool = False,
    device: str = "auto",
    workers: int | None = None,
    yes: bool = False,
    overwrite: bool = False,
) -> Manifest:
    """Distil `data` into the directory `out`: a finished, verified set that `load_dataset` opens.

    Options as `ddkit distill --help`; None means the default, or what the record in `out` says. Run again it
    continues; a larger `ipc` extends the set. Returns the manifest.
    Raises InputError (2), Refused (3), IntegrityError (4), WorldError (1).
    """
    given = {
        "data": data, "method": method, "ipc": ipc, "seed": seed, "recipe": recipe, "settings": settings,
        "protocol": protocol, "views": views, "size": size, "classes": classes, "holdout": holdout,
        "teacher": teacher, "codec": codec, "image_format": image_format,
        "prefixes": None if prefixes is None else tuple(prefixes), "split": split,
        "image_column": image_column, "label_column": label_column, "skip_bad": skip_bad or None,
    }  # fmt: skip
    check_counts({"workers": workers})
    work_dir(Path(out))
    with locked(Path(out), "distilling", given | {"overwrite": overwrite}):
        return _distill(
            Path(out), given, pick_device(device), workers or cores(), yes=yes, overwrite=overwrite, rehash=rehash
        )


def _distill(
    out: Path, given: dict[str, Any], device: torch.device, workers: int, *, yes: bool, overwrite: bool, rehash: bool
) -> Manifest:
    """`distill`, by the one process that may write into `out`."""
    run = prepare(out, given, device, overwrite=overwrite, yes=yes, workers=workers, rehash=rehash)
    workers = workers if run.device.type == "cpu" else 1
    facts: dict[str, Any] = {}
    for stage in range(1, len(run.record.prefixes) + 1):
        shards = run.shard_plans(stage)
        if not all(images_unit(run.work, shard).is_good() for shard in shards):
            made = recover(run.making(stage), run.module.units(run.plan(stage)), workers)
            add_cost(run.work, made.seconds, made.peak_bytes)
            _encode(run, made, shards)
        label_and_pack(run.labelling, shards, workers, facts["image_tars"] if facts else None)
        facts = _facts(run, stage)
        write_sealed(run.work / STAGE_MANIFEST, canonical(seal(facts)).encode(), run.record.key)
    return finish(run.out, facts)


def _facts(run: Run, stage: int) -> dict[str, Any]:
    """The manifest of the prefixes up to `stage`."""
    record, prefixes = run.record, list(run.record.prefixes[:stage])
    shards = [shard for s in range(1, stage + 1) for shard in run.shard_plans(s)]
    records = [r for shard in shards if (r := PackJob(how=run.labelling, shard=shard).done()) is not None]
    kinds = {origin["kind"] for origin in load_rows(str(run.work), shards[0]).origins}
    rows = sum(shard.rows for shard in shards)
    hooks = {name: getattr(run.module, name)(run.config) for name in ("real_pixels",) if hasattr(run.module, name)}
    train = run.protocol.train_spec(ipc=prefixes[-1], arch=run.teacher.arch, dataset=record.dataset)
    source = to_plain(run.source.spec())
    source["id"] = public_name(source["id"])
    return fresh_facts(run.size) | {
        "name": f"{run.module.NAME}-{plain_name(source['id'])}-ipc{prefixes[-1]}",
        "classes": class_facts(run.source.classes),
        "ipc": prefixes[-1],
        "image": {"size": run.size, "mode": "RGB", "codec": record.image_format, "patches": run.patches},
        "views": view_facts(run.law, run.size, run.protocol.name, None, str(run.device)),
        "normalisation": {"mean": list(run.teacher.mean), "std": list(run.teacher.std)},
        "eval": to_plain(run.teacher.transform),
        "labels": label_facts(record.codec, train.temperature, records),
        "method": run.module.NAME,
        "recipe": {
            "name": record.recipe,
            "config": record.config,
            "dataset": record.dataset,
            "classes": record.classes,
            "paper": run.module.PAPER,
        },
        "seed": record.seed,
        "fingerprint": record.fingerprint,
        "prefixes": prefixes,
        "recommended": recommended(run.protocol, run.teacher.arch),
        "real_pixels": hooks.get("real_pixels", REAL_PIXELS[min(kinds)]),
        "log": {"skipped": run.source.name_rows(run.source.ref.skip), "plan": run.logs(stage)},
        "cost": cost_facts(run.work, records, rows, device_class(run.device)),
        "devices": sorted({device_class(run.device), *earlier_devices(run.out)}),
        "source": source,
        "teachers": [teacher_facts(run.teacher, public_name(record.teacher))],
        "shards": [r["entry"] for r in records],
        "image_tars": bool(records[0]["entry"]["images"]),
        **kept_facts(run.out),
    }


def _encode(run: Run, made: Made, shards: list[ShardPlan]) -> None:
    """Mix all classes by the prefix's permutation, encode the images as published, one `images` unit a shard."""
    if made.patches != run.patches:
        raise OptionError(f"{run.module.NAME} made images of {made.patches} patches, its patches() says {run.patches}")
    order = permutation(run.record.seed, len(made.labels), "rows", shards[0].prefix)
    base = shards[0].first
    for shard in shards:
        mine = order[shard.first - base : shard.first - base + shard.rows]
        images = [encode_image(made.pixels[i], run.record.image_format) for i in mine]
        rows = Rows(images, made.labels[mine], made.ranks[mine], [made.origins[i] for i in mine])
        save_rows(run.work, shard, rows)
