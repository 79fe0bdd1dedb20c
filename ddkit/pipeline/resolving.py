"""What a run is: found, checked and asked about before its first byte is written, then carried by `Run`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from ddkit.core.console import note, one_line
from ddkit.core.serialization import canonical, fingerprint, flatten, to_plain
from ddkit.distillers import code_hash, distiller_names, find_distiller, make_config, other_settings
from ddkit.errors import OptionError, OtherRun, unknown
from ddkit.format.codecs import find_codec
from ddkit.format.images import WRITTEN
from ddkit.format.manifest import is_set, read_manifest
from ddkit.format.shards import shard_rows, shard_sizes
from ddkit.labelling.encoded import ShardPlan
from ddkit.labelling.labels import Labelling
from ddkit.labelling.packing import PackJob
from ddkit.pipeline.costs import ask_cost, measure_cost, time_limit
from ddkit.pipeline.describing import add_cost, restore_units, shard_key
from ddkit.pipeline.record import (
    Record,
    check_counts,
    find_record,
    grow,
    public_name,
    resolve,
    start_over,
    work_dir,
)
from ddkit.pipeline.running import Making
from ddkit.sources.images import Source, open_source
from ddkit.sources.validation import can_measure
from ddkit.specs import Protocol, Recipe, TeacherSpec, ViewSpec
from ddkit.synthesis.interface import Plan, Probe
from ddkit.teachers.resolving import find_teacher, is_trained, match_teacher
from ddkit.teachers.teacher import Teacher

DEFAULT_METHOD = "cudd"
DEFAULT_HOLDOUT = 0.1


@dataclass(frozen=True, kw_only=True)
class Run:
    """One call of `distill`, with everything found and checked. method: a name, or the file that the command line gave;
    order: the teacher's column for each class."""

    out: Path
    record: Record
    method: str
    module: ModuleType
    source: Source
    teacher_path: Path
    teacher: TeacherSpec
    order: tuple[int, ...] | None
    protocol: Protocol
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

    @property
    def config(self) -> Any:
        return make_config(self.module, self.record.config)

    def plan(self, stage: int) -> Plan:
        return _plan(self.record, self.module, self.source, stage)

    def shard_plans(self, stage: int) -> list[ShardPlan]:
        """The shards of one prefix: whole, of that prefix only."""
        plan = self.plan(stage)
        first = plan.first * len(plan.classes)
        key = shard_key(self.record.key, self.record.prefixes[:stage])
        shards = []
        for number, rows in enumerate(shard_sizes(len(plan.ranks) * len(plan.classes), shard_rows(self.size))):
            shards.append(ShardPlan(prefix=plan.last, stage=stage, number=number, first=first, rows=rows, key=key))
            first += rows
        return shards

    def making(self, stage: int) -> Making:
        earlier = tuple(shard for s in range(1, stage) for shard in self.shard_plans(s))
        return Making(
            method=self.method, config=canonical(self.record.config), source=self.source.ref,
            fingerprint=self.source.fingerprint, size=self.size, seed=self.record.seed, teacher=str(self.teacher_path),
            teacher_hash=self.teacher.hash, order=self.order, device=str(self.device), out=str(self.out),
            work=str(self.work), key=self.record.key, prefixes=self.record.prefixes[:stage], earlier=earlier,
        )  # fmt: skip

    def logs(self, stage: int) -> dict[str, Any]:
        """What the method records of the prefixes up to `stage`; where OUT.work was lost, what it recorded then."""
        if not hasattr(self.module, "log"):
            return {}
        kept = read_manifest(self.out).data["log"]["plan"] if is_set(self.out) else {}
        plans = [self.plan(s) for s in range(1, stage + 1)]
        making = self.making(stage)
        return {
            name: kept.get(name) or self.module.log(p, lambda unit: making.unit(unit).tensors())
            for p in plans
            if (name := str(p.last))
        }

    @property
    def labelling(self) -> Labelling:
        return Labelling(
            out=str(self.out), work=str(self.work), teacher=str(self.teacher_path), teacher_hash=self.teacher.hash,
            order=self.order, law=self.law, seed=self.record.seed, size=self.size, patches=self.patches, groups=None,
            image_codec=self.record.image_format, codec=self.record.codec, device=str(self.device),
        )  # fmt: skip


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
        prefixes=record.prefixes[:stage],
    )


def prepare(
    out: Path, given: dict[str, Any], device: torch.device, *, overwrite: bool, yes: bool, workers: int, rehash: bool
) -> Run:
    """Check everything that can be checked before the first byte is written, then write the record."""
    check_counts(given)
    _check_names(given)
    data = given.get("data")
    if data and data != "digits" and Path(data).is_dir() and out.resolve().is_relative_to(Path(data).resolve()):
        raise OptionError(f"OUT {out} lies inside its source {data} and would become part of it; choose another place")
    record = find_record(out)
    overwrite = overwrite and record is not None
    record = None if record is None or overwrite else _grown(record, given, out)
    source = _open(given if record is None else record.__dict__, rehash)
    record = record or _new_record(given, source)
    method = given["method"] or record.method
    module = find_distiller(method)
    size = record.size
    trained = is_trained(record.teacher, source.classes)
    if not trained:  # a teacher that does not fit shows before images are read
        path = find_teacher(record.teacher, source, size=size, seed=record.seed, device=device)
        spec, _ = match_teacher(path, source.classes, public_name(record.data))
        size = size or spec.image_size
    source = source.without_unreadable(record.skip_bad)
    holdout = record.holdout
    if holdout is None and not can_measure(record.data, record.image_column, record.label_column):
        holdout = DEFAULT_HOLDOUT
    source = source if holdout is None else source.part("train", holdout)
    record = replace(record, size=size or source.default_size(), holdout=holdout)
    for stage in range(len(record.prefixes), 0, -1):
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
    protocol = record.load_protocol()
    law = protocol.view_spec(patches=patches, dataset=record.dataset, count=record.views)
    normalisation = _checked_normalisation(record, teacher, out)
    record = replace(record, views=law.count, normalisation=normalisation)
    run = Run(
        out=out, record=record, method=method, module=module, source=source, teacher_path=path,
        teacher=teacher, order=order, protocol=protocol, law=law, patches=patches, device=device,
    )  # fmt: skip
    run = replace(run, record=replace(run.record, fingerprint=_checked_fingerprint(run)))
    _ask(run, yes, workers)
    if overwrite:
        start_over(out)
    run.record.save(run.work)
    if trained and taught > 1:
        add_cost(run.work, {"teach": taught})
    if is_set(out):
        restore_units(read_manifest(out), run.labelling, run.record.key)
    return run


def _grown(record: Record, given: Mapping[str, Any], out: Path) -> Record:
    """The record with what was given. Raises OptionError for what it only knows by name, OtherRun as `grow`."""
    asked = given["method"]
    if asked is None and (record.code is not None or record.method not in distiller_names()):
        raise OptionError(f"{out} was made by {record.method}, a method from a file; give that file with --method")
    grown = grow(record, given, out, _stages(find_distiller(asked or record.method), record.config))
    if missing := [name for name in grown.unnamed() if given[name] is None]:
        called = ", ".join(f"--{name} (it was called {getattr(grown, name)!r})" for name in missing)
        raise OptionError(f"{out} came without a record of this machine; to go on with it give {called}")
    return grown


def _check_names(given: Mapping[str, Any]) -> None:
    """Unknown methods, protocols, codecs and image formats are refused before anything is opened."""
    if given["method"] is not None:
        find_distiller(given["method"])
    if given["protocol"] is not None:
        Protocol.load(given["protocol"])
    if given["codec"] is not None:
        find_codec(given["codec"])
    if given["image_format"] is not None and given["image_format"] not in WRITTEN:
        raise unknown("image format", given["image_format"], WRITTEN)


def _open(asked: Mapping[str, Any], rehash: bool) -> Source:
    if asked["data"] is None:
        raise OptionError(
            "--data is missing: what to distil? digits, or a folder of class folders, parquet or tar files"
        )
    keys = ("split", "image_column", "label_column", "classes")
    return open_source(asked["data"], rehash=rehash, **{key: asked[key] for key in keys})


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
    settings = flatten(recipe.config) | flatten(given["settings"] or {})
    config = flatten(to_plain(make_config(module, settings)))
    record = replace(resolve(given, recipe, config, _stages(module, config), code_hash(method)), method=module.NAME)
    shown = one_line(other_settings(module, config)) or "the method's defaults"
    note(f"{module.NAME} on {public_name(record.data)}: recipe {recipe.name} ({shown})")
    return replace(record, split=source.ref.split)


def _stages(module: ModuleType, config: dict[str, Any]) -> Callable[[int], tuple[int, ...]]:
    """The prefixes a method makes for an IPC where none are asked for."""
    if not hasattr(module, "prefixes"):
        return lambda ipc: (ipc,)
    return lambda ipc: tuple(module.prefixes(make_config(module, config), ipc))


def _checked_normalisation(record: Record, teacher: TeacherSpec, out: Path) -> tuple[float, ...]:
    """The teacher's mean and std, and how it resizes and crops. Raises OtherRun where OUT was begun with others."""
    found = tuple(map(float, (*teacher.mean, *teacher.std, teacher.transform.resize, teacher.transform.crop)))
    if record.normalisation not in (None, found):
        raise OtherRun(
            f"{out} was begun with a teacher of other mean and std, resize and crop, "
            f"{list(record.normalisation or ())}, now {list(found)}; bring it back, choose another OUT, or start over "
            "with --overwrite"
        )
    return found


def _checked_fingerprint(run: Run) -> str:
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


def _ask(run: Run, yes: bool, workers: int) -> None:
    """The cost question, for the prefixes that are not packed yet."""
    stages = range(1, len(run.record.prefixes) + 1)
    left = [s for s in stages if any(PackJob(how=run.labelling, shard=x).done() is None for x in run.shard_plans(s))]
    if not left:
        return
    rows = sum(shard.rows for s in left for shard in run.shard_plans(s))
    views = rows * run.law.count
    teacher = Teacher.load(run.teacher_path, run.device, run.order)
    workers = workers if run.device.type == "cpu" else 1
    probe = Probe(teacher=teacher, size=run.size, workers=workers, each=measure_cost(teacher, run.size))
    parts: dict[str, float] = {}
    for stage in left if hasattr(run.module, "costs") else ():
        for part, seconds in run.module.costs(run.plan(stage), probe).items():
            parts[part] = parts.get(part, 0.0) + seconds
    parts["relabel"] = views * probe.each / workers
    ask_cost(parts, views * len(run.source.classes) * 2.0, yes=yes)
