"""The main path: source -> teacher -> distiller -> images -> relabel -> shards -> manifest, prefix by prefix.

    distill(out, data=…)          this file, from top to bottom
      _prepare                    record.py: what is asked and what stands in OUT; sources/: images, teacher; costs.py
      for each prefix:
        recover                   making.py, distillers/: units -> Synthetic images    OUT.work/units/recover-…
        _encode                   format/images: the bytes that are published          OUT.work/units/images-…
        label_and_pack            replay/relabelling: teacher over all views, shards   OUT/data/…
      finish                      manifests.py: ddkit.json, verify, card and preview

Everything is a unit with one file; a unit whose file is there is not done again, so running the same command again
continues after any kill.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from ddkit.distillers import find_distiller, make_config
from ddkit.errors import OptionError, OtherRun, unknown
from ddkit.format.codecs import find_codec
from ddkit.format.images import IMAGE_FORMATS, encode_image
from ddkit.format.manifest import Manifest, is_set, read_manifest, seal
from ddkit.format.shards import shard_rows, shard_sizes
from ddkit.pipeline.costs import ask_cost, measure_cost, time_limit
from ddkit.pipeline.making import STAGE_MANIFEST, Made, Making, recover
from ddkit.pipeline.manifests import (
    REAL_PIXELS,
    add_cost,
    class_facts,
    cost_facts,
    earlier_devices,
    finish,
    fresh_facts,
    kept_facts,
    label_facts,
    plain_name,
    public_name,
    restore_units,
    teacher_facts,
    view_facts,
)
from ddkit.pipeline.record import Record, absolute, check_counts, find_record, grow, resolve, start_over, work_dir
from ddkit.plain import canonical, fingerprint, to_plain
from ddkit.replay.relabelling import (
    Labelling,
    PackJob,
    Rows,
    ShardPlan,
    label_and_pack,
    load_rows,
    save_rows,
    unit_path,
)
from ddkit.runtime import cores, device_class, note, one_line, pick_device, write_bytes
from ddkit.seeds import permutation
from ddkit.sources.finding import find_teacher, match_teacher
from ddkit.sources.images import Source, has_validation, open_source
from ddkit.sources.teacher import Teacher
from ddkit.specs import Protocol, Recipe, TeacherSpec, ViewSpec
from ddkit.synthesis.interface import Plan

DEFAULT_METHOD = "rded"
DEFAULT_HOLDOUT = 0.1


def distill(
    out: str | Path,
    *,
    data: str | None = None,
    method: str | None = None,
    ipc: int | None = None,
    seed: int | None = None,
    recipe: str | None = None,
    settings: Mapping[str, Any] | None = None,
    protocol: str | None = None,
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
    workers = workers or cores()
    run = _prepare(Path(out), given, pick_device(device), overwrite=overwrite, yes=yes, workers=workers)
    workers = workers if run.device.type == "cpu" else 1
    facts: dict[str, Any] = {}
    for stage in range(1, len(run.record.prefixes) + 1):
        shards = run.shard_plans(stage)
        if not all(unit_path(run.work, f"images-{shard.name}").is_file() for shard in shards):
            made = recover(run.making(stage), run.module.units(run.plan(stage)), workers)
            add_cost(run.work, "recover", made.seconds)
            _encode(run, made, shards)
        label_and_pack(run.labelling, shards, workers)
        facts = run.facts(stage)
        write_bytes(run.work / STAGE_MANIFEST, canonical(seal(facts)).encode())
    return finish(run.out, facts)


# ------------------------------------------------------------------ what a run knows


@dataclass(frozen=True, kw_only=True)
class _Run:
    """One call of `distill`, with everything found and checked. order: the teacher's column for each class."""

    out: Path
    record: Record
    module: ModuleType
    source: Source
    teacher_path: Path
    teacher: TeacherSpec
    order: tuple[int, ...] | None
    law: ViewSpec
    patches: int
    device: torch.device

    @property
    def work(self) -> Path:
        return work_dir(self.out)

    @property
    def size(self) -> int:
        assert self.record.size is not None
        return self.record.size

    def plan(self, stage: int) -> Plan:
        return _plan(self.record, self.module, self.source, stage)

    def shard_plans(self, stage: int) -> list[ShardPlan]:
        """The shards of one prefix: whole, of that prefix only."""
        plan = self.plan(stage)
        first = plan.first * len(plan.classes)
        shards = []
        for number, rows in enumerate(shard_sizes(len(plan.ranks) * len(plan.classes), shard_rows(self.size))):
            shards.append(ShardPlan(prefix=plan.last, stage=stage, number=number, first=first, rows=rows))
            first += rows
        return shards

    def making(self, stage: int) -> Making:
        earlier = tuple(shard.name for s in range(1, stage) for shard in self.shard_plans(s))
        return Making(
            method=self.record.method, config=canonical(self.record.config), source=self.source.ref,
            fingerprint=self.source.fingerprint, size=self.size, seed=self.record.seed, teacher=str(self.teacher_path),
            teacher_hash=self.teacher.hash, order=self.order, device=str(self.device), out=str(self.out),
            work=str(self.work), earlier=earlier,
        )  # fmt: skip

    @property
    def labelling(self) -> Labelling:
        return Labelling(
            out=str(self.out), work=str(self.work), teacher=str(self.teacher_path), teacher_hash=self.teacher.hash,
            order=self.order, law=self.law, seed=self.record.seed, size=self.size, patches=self.patches, groups=None,
            image_codec=self.record.image_format, codec=self.record.codec, device=str(self.device),
        )  # fmt: skip

    def facts(self, stage: int) -> dict[str, Any]:
        """The manifest of the prefixes up to `stage`."""
        record, prefixes = self.record, list(self.record.prefixes[:stage])
        shards = [shard for s in range(1, stage + 1) for shard in self.shard_plans(s)]
        records = [r for shard in shards if (r := PackJob(how=self.labelling, shard=shard).done()) is not None]
        kinds = {origin["kind"] for origin in load_rows(str(self.work), shards[0].name).origins}
        rows = sum(shard.rows for shard in shards)
        protocol = Protocol.load(record.protocol)
        plans = [self.plan(s) for s in range(1, stage + 1)]
        logs = {str(plan.last): self.module.log(plan) for plan in plans} if hasattr(self.module, "log") else {}
        train = protocol.train_spec(ipc=prefixes[-1], arch=self.teacher.arch, dataset=record.dataset)
        source = to_plain(self.source.spec()) | {"id": public_name(record.data)}
        peak = torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else 0
        return fresh_facts(self.size) | {
            "name": f"{self.module.NAME}-{plain_name(source['id'])}-ipc{prefixes[-1]}",
            "classes": class_facts(self.source.classes),
            "ipc": prefixes[-1],
            "image": {"size": self.size, "mode": "RGB", "codec": record.image_format, "patches": self.patches},
            "views": view_facts(self.law, self.size, record.protocol, None, str(self.device)),
            "normalisation": {"mean": list(self.teacher.mean), "std": list(self.teacher.std)},
            "eval": to_plain(self.teacher.transform),
            "labels": label_facts(record.codec, train.temperature, records),
            "method": self.module.NAME,
            "recipe": {
                "name": record.recipe,
                "config": record.config,
                "dataset": record.dataset,
                "classes": record.classes,
                "paper": self.module.PAPER,
            },
            "seed": record.seed,
            "fingerprint": record.fingerprint,
            "prefixes": prefixes,
            "recommended": {"protocol": record.protocol, "arch": self.teacher.arch, "overrides": {}},
            "real_pixels": getattr(self.module, "REAL_PIXELS", REAL_PIXELS[min(kinds)]),
            "log": {"skipped": self.source.name_rows(self.source.ref.skip), "plan": logs},
            "cost": cost_facts(self.work, records, rows, device_class(self.device), peak),
            "devices": sorted({device_class(self.device), *earlier_devices(self.out)}),
            "source": source,
            "teachers": [teacher_facts(self.teacher, public_name(record.teacher))],
            "shards": [r["entry"] for r in records],
            **kept_facts(self.out),
        }


def _plan(record: Record, module: ModuleType, source: Source, stage: int) -> Plan:
    """The increment of one prefix (stages count from 1)."""
    assert record.size is not None
    bounds = (0, *record.prefixes)
    return Plan(
        config=make_config(module, record.config),
        classes=tuple(source.class_names),
        counts=tuple(int(n) for n in source.counts),
        first=bounds[stage - 1],
        last=bounds[stage],
        size=record.size,
        seed=record.seed,
    )


# ------------------------------------------------------------------ finding out what is asked


def _prepare(
    out: Path, given: dict[str, Any], device: torch.device, *, overwrite: bool, yes: bool, workers: int
) -> _Run:
    """Check everything that can be checked before the first byte is written, then write the record."""
    check_counts(given)
    _check_names(given)
    record = find_record(out)
    overwrite = overwrite and record is not None
    record = None if record is None or overwrite else grow(record, given, out)
    source = _open(given if record is None else record.__dict__)
    record = record or _new_record(given, source)
    module = find_distiller(record.method)
    size = record.size
    if not record.teacher.startswith("train"):  # a teacher that does not fit shows before images are read
        path = find_teacher(record.teacher, source, size=size, seed=record.seed, device=device)
        spec, _ = match_teacher(path, source.classes, public_name(record.data))
        size = size or spec.image_size
    source = source.without_unreadable(record.skip_bad)
    holdout = record.holdout
    if holdout is None and has_validation(record.data, record.image_column, record.label_column) is None:
        holdout = DEFAULT_HOLDOUT
    source = source if holdout is None else source.part("train", holdout)
    record = replace(record, size=size or source.default_size(), holdout=holdout)
    for stage in range(1, len(record.prefixes) + 1):
        module.units(_plan(record, module, source, stage))  # too few images show before a teacher is trained
    began = time.monotonic()
    path = find_teacher(
        record.teacher,
        source,
        size=record.size,
        seed=record.seed,
        device=device,
        on_estimate=time_limit("teacher", yes),
    )
    taught = time.monotonic() - began
    teacher, order = match_teacher(path, source.classes, public_name(record.data))
    if teacher.image_size != record.size:
        raise OptionError(f"the teacher takes {teacher.image_size} px, --size is {record.size}; make them agree")
    patches = module.patches(make_config(module, record.config)) if hasattr(module, "patches") else 1
    law = Protocol.load(record.protocol).view_spec(patches=patches, dataset=record.dataset, count=record.views)
    run = _Run(
        out=out, record=replace(record, views=law.count), module=module, source=source, teacher_path=path,
        teacher=teacher, order=order, law=law, patches=patches, device=device,
    )  # fmt: skip
    run = replace(run, record=replace(run.record, fingerprint=_checked_fingerprint(run)))
    _ask(run, yes, workers)
    if overwrite:
        start_over(out)
    run.record.save(run.work)
    if record.teacher.startswith("train") and taught > 1:
        add_cost(run.work, "teach", taught)
    if is_set(out):
        restore_units(read_manifest(out), run.work)
    return run


def _check_names(given: Mapping[str, Any]) -> None:
    """Unknown methods, protocols, codecs and image formats are refused before anything is opened."""
    if given["method"] is not None:
        find_distiller(given["method"])
    if given["protocol"] is not None:
        Protocol.load(given["protocol"])
    if given["codec"] is not None:
        find_codec(given["codec"])
    if given["image_format"] is not None and given["image_format"] not in IMAGE_FORMATS:
        raise unknown("image format", given["image_format"], IMAGE_FORMATS)


def _open(asked: Mapping[str, Any]) -> Source:
    if asked["data"] is None:
        raise OptionError(
            "--data is missing: what to distil? digits, or a folder of class folders, parquet or tar files"
        )
    keys = ("split", "image_column", "label_column", "classes")
    return open_source(asked["data"], **{key: asked[key] for key in keys})


def _new_record(given: Mapping[str, Any], source: Source) -> Record:
    """The record of a new run: the recipe is found, its settings completed and checked."""
    asked = given["method"]
    if given["recipe"] is not None:
        recipe = Recipe.load(given["recipe"])
        if asked is not None and recipe.method != find_distiller(asked).NAME:
            raise OptionError(
                f"recipe {recipe.name} is for method {recipe.method}, --method is {asked}; drop one of them"
            )
        method = asked or recipe.method
    else:
        method = asked or DEFAULT_METHOD
        size = given["size"] or source.default_size()
        recipe = Recipe.choose(find_distiller(method).NAME, given["data"], len(source.classes), size)
    module = find_distiller(method)
    config = to_plain(make_config(module, recipe.config | dict(given["settings"] or {})))
    record = replace(resolve(given, recipe, config), method=absolute(method) if method.endswith(".py") else method)
    note(f"{module.NAME} on {public_name(record.data)}: recipe {recipe.name} ({one_line(config) or 'no settings'})")
    return replace(record, split=source.ref.split)


def _checked_fingerprint(run: _Run) -> str:
    """sha256 of all that decides bytes. Raises OtherRun where it is not what OUT was begun with."""
    source = run.source.ref
    found = fingerprint(
        {
            "recipe": {"method": run.module.NAME, "config": run.record.config},
            "views": to_plain(run.law),
            "codec": run.record.codec,
            "image": run.record.image_format,
            "size": run.size,
            "classes": run.source.class_names,
            "seed": run.record.seed,
            "source": [run.source.fingerprint, source.split, source.holdout, source.part, list(source.skip)],
            "teacher": [run.teacher.hash, list(run.order or ())],
        }
    )
    if run.record.fingerprint not in (None, found):
        raise OtherRun(
            f"{run.out} was begun with another source or teacher under the same name ({public_name(run.record.data)}, "
            f"{public_name(run.record.teacher)}); bring them back, choose another OUT, or start over with --overwrite"
        )
    return found


def _ask(run: _Run, yes: bool, workers: int) -> None:
    """The cost question, for the prefixes that are not packed yet."""
    stages = range(1, len(run.record.prefixes) + 1)
    left = [s for s in stages if any(PackJob(how=run.labelling, shard=x).done() is None for x in run.shard_plans(s))]
    if not left:
        return
    rows = sum(shard.rows for s in left for shard in run.shard_plans(s))
    views = rows * run.law.count
    each = measure_cost(Teacher.load(run.teacher_path, run.device), run.size)
    passes = sum(run.module.passes(run.plan(s)) for s in left) if hasattr(run.module, "passes") else 0
    parts = {"recover": passes * each, "relabel": views * each}
    ask_cost(parts, views * len(run.source.classes) * 2.0, yes=yes, workers=workers if run.device.type == "cpu" else 1)


def _encode(run: _Run, made: Made, shards: list[ShardPlan]) -> None:
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
