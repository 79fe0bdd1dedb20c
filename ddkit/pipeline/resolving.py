"""Resolves options to a run: opens, checks and prices everything before the first byte of the set is written."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ddkit.core.console import note, one_line
from ddkit.core.device import pick_device
from ddkit.core.serialization import fingerprint, flatten, to_plain
from ddkit.distillers import find_distiller, make_config, other_settings
from ddkit.engine import Engine
from ddkit.errors import OptionError
from ddkit.format.manifest_file import is_set, read_manifest
from ddkit.format.results import FEW
from ddkit.labelling.budget import BudgetGoal
from ddkit.labelling.packing import PackedShards
from ddkit.pipeline.choices import Choices
from ddkit.pipeline.costs import add_teaching_cost, ask_cost, time_limit
from ddkit.pipeline.describing import restore_units
from ddkit.pipeline.growing import continued, other_run
from ddkit.pipeline.options import DistillOptions, check_precision, known_codec
from ddkit.pipeline.pricing import LabelCost, price, total
from ddkit.pipeline.record import RunRecord, absolute, find_record, public_name, start_over, work_dir
from ddkit.pipeline.run import Run
from ddkit.sources.images import Source, open_source
from ddkit.sources.outlines import Outline
from ddkit.sources.validation import can_measure
from ddkit.specs import Protocol, Recipe, TeacherSpec, ViewSpec
from ddkit.synthesis.interface import Distiller, Plan, Probe
from ddkit.synthesis.passes import seconds_a_pass
from ddkit.teachers.resolving import ResolvedTeacher, TeacherChoice, Training
from ddkit.teachers.teacher import Teacher
from ddkit.teachers.teaching import default_arch

DEFAULT_METHOD = "cudd"
DEFAULT_HOLDOUT = 0.1
DEFAULT_IPC = 10


def resolve(out: Path, asked: DistillOptions, engine: Engine) -> Run:
    """Run all checks that are possible before the first byte is written, then write the record.

    Args:
        out: The directory of the set, locked by this process.
        asked: The given options.
        engine: Where units run.

    Returns:
        The resolved run.

    Raises:
        InputError, Refused, IntegrityError, EnvironmentFailure.
    """
    _check_place(out, asked.data)
    known = recorded = find_record(out)
    overwrite, device = asked.overwrite and known is not None, pick_device(asked.device)
    if overwrite and engine.shared:
        theirs = "--overwrite by several processes would delete what the others made"
        raise OptionError(f"{theirs}; delete {out} and {work_dir(out)} first")
    if known is None or overwrite:
        known, source = None, open_data(asked.data, asked, asked.rehash)
        choices = chosen_by(asked, source, device)
    else:
        known = continued(known, asked, out)
        source, choices = open_data(known.data, known, asked.rehash), _recorded(known, asked.method)
    run, taught = _resolved(out, choices, source, device, engine, asked.yes, known)
    if not engine.shared or run.record != recorded:  # else the process that recorded it has asked
        _price(run, asked.yes)
    if overwrite:
        start_over(out)
    if overwrite or run.record != recorded:
        run.record.save(run.work)
    if taught > 1:
        add_teaching_cost(run.work, taught)
    if is_set(out):
        restore_units(read_manifest(out), run.labelling, run.record.key)
    return run


def _check_place(out: Path, data: str | None) -> None:
    """Raise OptionError if OUT is inside its source."""
    work_dir(out)
    if data and data != "digits" and os.path.isdir(data) and out.resolve().is_relative_to(Path(data).resolve()):
        raise OptionError(f"OUT {out} lies inside its source {data} and would become part of it; choose another place")


def open_data(data: str | None, asked: DistillOptions | RunRecord, rehash: bool) -> Source:
    """Open the source of a run.

    Args:
        data: The source.
        asked: Options or record with its split, columns and classes.
        rehash: Hash every file of the source again.

    Raises:
        InputError: The source is not given or cannot be opened.
    """
    if data is None:
        raise OptionError("--data is missing; give digits, or a folder of class folders, parquet or tar files")
    return open_source(
        data, rehash=rehash, split=asked.split, image_column=asked.image_column, label_column=asked.label_column,
        classes=asked.classes,
    )  # fmt: skip


def _recorded(known: RunRecord, method: str | None) -> Choices:
    """Return the choices of a continued run. method: from the command line; None: the record's."""
    same = {
        name: getattr(known, name)
        for name in ("data", "ipc", "prefixes", "seed", "recipe", "config", "views", "size", "teacher", "codec",
                     "image_format", "image_column", "label_column", "classes", "holdout", "skip_bad", "dataset",
                     "budget", "spent", "precision")
    }  # fmt: skip
    named = method or known.method
    return Choices(**same, method=named, distiller=find_distiller(named), protocol=known.load_protocol())


def chosen_by(asked: DistillOptions, source: Source | Outline, device: torch.device) -> Choices:
    """Return the choices of a new run: find its recipe, complete and check the settings.

    Args:
        asked: The given options, with `data`.
        source: The source, or its outline.
        device: The device that would train a teacher.

    Raises:
        OptionError: Options contradict each other, or a value is invalid.
    """
    assert asked.data is not None
    recipe, method = _find_recipe(asked, source)
    distiller = find_distiller(method)
    settings = flatten(recipe.config) | flatten(asked.settings)
    config = flatten(to_plain(make_config(distiller, settings)))
    shown = one_line(other_settings(distiller, config)) or "the method's defaults"
    note(f"{distiller.name} on {public_name(absolute(asked.data))}: recipe {recipe.name} ({shown})")
    teacher = asked.teacher or recipe.teacher or "train"
    if teacher == "train":  # recorded with its architecture, so that another machine continues with the same
        size = asked.size or source.default_size()
        teacher = f"train:{default_arch(asked.data, size, device)}"
    elif asked.teacher is None and ":" not in teacher:
        teacher = f"train:{teacher}"
    prefixes = asked.prefixes or ()
    ipc = asked.ipc or (prefixes[-1] if prefixes else DEFAULT_IPC)
    if not prefixes:
        prefixes = tuple(distiller.prefixes(make_config(distiller, config), ipc))
    elif prefixes[-1] < ipc:
        prefixes = (*prefixes, ipc)
    choices = Choices(
        data=absolute(asked.data), method=method, distiller=distiller, ipc=ipc, prefixes=prefixes,
        seed=asked.seed or 0, recipe=recipe.name, config=config,
        protocol=Protocol.load(asked.protocol or recipe.protocol), views=asked.views, size=asked.size,
        teacher=absolute(teacher), codec=known_codec(asked.codec or "fp16", source.classes),
        budget=BudgetGoal.parse(asked.budget).text if asked.budget else None, spent=None,
        precision=check_precision(asked.label_precision or "float32", asked.device, asked.codec or "fp16"),
        image_format=asked.image_format or "png", image_column=asked.image_column, label_column=asked.label_column,
        classes=asked.classes, holdout=asked.holdout, skip_bad=bool(asked.skip_bad), dataset=recipe.dataset,
    )  # fmt: skip
    return choices.with_default_budget(asked, source)


def _find_recipe(asked: DistillOptions, source: Source | Outline) -> tuple[Recipe, str]:
    """Return the recipe of a new run and the method as given on the command line. Raises OptionError."""
    assert asked.data is not None
    if asked.recipe is None:
        method = asked.method or DEFAULT_METHOD
        size = asked.size or source.default_size()
        return Recipe.choose(find_distiller(method).name, asked.data, size), method
    recipe = Recipe.load(asked.recipe)
    if asked.method is not None and recipe.method != find_distiller(asked.method).name:
        raise OptionError(
            f"recipe {recipe.name} is for method {recipe.method}, --method is {asked.method}; drop one of them"
        )
    return recipe, asked.method or recipe.method


def _resolved(
    out: Path, chosen: Choices, source: Source, device: torch.device, engine: Engine, yes: bool, known: RunRecord | None
) -> tuple[Run, float]:
    """Return the run, and the seconds spent on training its teacher. known: record of the run to continue."""
    choice, what = TeacherChoice(chosen.teacher, chosen.size), public_name(chosen.data)
    training, size, teacher = choice.needs_training(source.classes), chosen.size, None
    if not training:  # a mismatched teacher is reported before images are read
        teacher = choice.resolve(source.classes, what)
        size = size or teacher.spec.image_size
    source, holdout = _usable(source, chosen)
    size = size or source.default_size()
    chosen.check_budget(len(source.classes), size)
    for plan in reversed(chosen.plans(source, size)):  # too few images are reported before a teacher is trained
        chosen.distiller.units(plan)
    began = time.monotonic()
    if teacher is None:
        choice = TeacherChoice(chosen.teacher, size)
        _price_all(chosen, choice.training(source, seed=chosen.seed, device=device), source, size, engine.workers, yes)
        began = time.monotonic()
        teacher = choice.train(
            source, seed=chosen.seed, device=device, what=what, on_estimate=time_limit("teacher", yes)
        )
    taught = time.monotonic() - began if training else 0.0
    check_size(teacher.spec, size)
    _report_teacher(teacher.spec)
    policy = chosen.policy
    record = _record(out, chosen, source, teacher, policy, size=size, holdout=holdout, known=known)
    run = Run(
        out=out, record=record, method=chosen.method, distiller=chosen.distiller, source=source, teacher=teacher,
        protocol=chosen.protocol, policy=policy, patches=chosen.patches, device=device, engine=engine,
    )  # fmt: skip
    return run, taught


def _usable(source: Source, chosen: Choices) -> tuple[Source, float | None]:
    """Return the source without unreadable and held-out images, and the share held out."""
    source = source.without_unreadable(chosen.skip_bad)
    holdout = chosen.holdout
    if holdout is None and not can_measure(chosen.data, chosen.image_column, chosen.label_column):
        holdout = DEFAULT_HOLDOUT
    return (source if holdout is None else source.part("train", holdout)), holdout


def check_size(spec: TeacherSpec, size: int) -> None:
    """Raise OptionError if a teacher takes images of another size."""
    if spec.image_size != size:
        raise OptionError(f"the teacher takes {spec.image_size} px, --size is {size}; make them agree")


def _report_teacher(spec: TeacherSpec) -> None:
    """Report the teacher's accuracy and number of test images; warn if either is low."""
    if spec.accuracy is None:
        note(f"teacher {spec.arch}: accuracy not measured")
        return
    note(f"teacher {spec.arch}: {spec.accuracy:.2f} % on {spec.measured_on}")
    chance = 100 / spec.num_classes
    if spec.accuracy < min(2 * chance, (chance + 100) / 2):
        note(
            f"warning: that is near chance ({chance:.0f} % for {spec.num_classes} classes); its labels will teach "
            "little. Give a better --teacher, more images or a larger --size"
        )
    images = spec.measured_images
    if images is not None and images < FEW:
        note(f"warning: that was measured on only {images} images, where one image is {100 / images:.1f} points")


def _record(
    out: Path, chosen: Choices, source: Source, teacher: ResolvedTeacher, policy: ViewSpec, *, size: int,
    holdout: float | None, known: RunRecord | None,
) -> RunRecord:  # fmt: skip
    """Return the record of the run. Raises OtherRun if `known`, the record in OUT, differs."""
    spec = teacher.spec
    seen = (*spec.mean, *spec.std, spec.transform.resize, spec.transform.crop)
    record = RunRecord(
        data=chosen.data, method=chosen.distiller.name, ipc=chosen.ipc, prefixes=chosen.prefixes, seed=chosen.seed,
        recipe=chosen.recipe, config=chosen.config, protocol=chosen.protocol.name, views=policy.count, size=size,
        teacher=chosen.teacher, codec=chosen.codec, image_format=chosen.image_format, split=source.ref.split,
        image_column=chosen.image_column, label_column=chosen.label_column, classes=chosen.classes, holdout=holdout,
        skip_bad=chosen.skip_bad, dataset=chosen.dataset, code=chosen.distiller.code,
        definition=chosen.protocol.definition(), normalisation=tuple(map(float, seen)),
        fingerprint=_fingerprint(chosen, source, teacher, policy, size), budget=chosen.budget, spent=chosen.spent,
        precision=chosen.precision,
    )  # fmt: skip
    if known is not None and known.normalisation != record.normalisation:
        raise other_run(
            out, f"a teacher of other mean and std, resize and crop, {list(known.normalisation)}, now "
            f"{list(record.normalisation)}", "it"
        )  # fmt: skip
    if known is not None and known.fingerprint != record.fingerprint:
        names = f"{public_name(record.data)}, {public_name(record.teacher)}"
        raise other_run(out, f"another source or teacher under the same name ({names})", "them")
    return record if known is None else replace(record, unknown_keys=known.unknown_keys)


def _fingerprint(chosen: Choices, source: Source, teacher: ResolvedTeacher, policy: ViewSpec, size: int) -> str:
    """Return the sha256 of everything that determines the bytes, except the prefixes (docs/format.md)."""
    ref, codec, image = source.ref, chosen.codec, chosen.image_format
    if chosen.budget is not None:  # what it is spent on follows from it
        codec, image = f"budget {chosen.budget}", ""
        policy = replace(policy, count=chosen.spent.views if chosen.spent else policy.count)
    decisive: dict[str, Any] = {
        "recipe": {"method": chosen.distiller.name, "config": chosen.config},
        "views": to_plain(policy),
        "codec": codec,
        "image": image,
        "size": size,
        "classes": source.class_names,
        "seed": chosen.seed,
        "source": [source.fingerprint, ref.split, ref.holdout, ref.part, list(ref.skip)],
        "teacher": [teacher.spec.hash, list(teacher.order or ())],
    }
    if chosen.precision != "float32":
        decisive |= {"precision": chosen.precision}
    return fingerprint(decisive)


def _price_all(chosen: Choices, training: Training, source: Source, size: int, workers: int, yes: bool) -> None:
    """Check the cost of the whole run before its teacher is trained, timed with an untrained network."""
    teach = training.seconds()
    if teach == 0.0:
        return  # the teacher is in the cache: `_price` checks the cost once it is loaded
    plans = chosen.plans(source, size)
    labels = _label_cost(chosen, chosen.policy.count, len(source.classes))
    _ask(chosen.distiller, plans, training.stand_in(), size, labels, workers, yes, {"teach": teach})


def _price(run: Run, yes: bool) -> None:
    """Check the cost of the increments that are not packed yet. Raises TooCostly."""
    packed = PackedShards(run.labelling)
    plans = [increment.plan for increment in run.increments() if packed.unpacked(increment.shards)]
    if plans:
        teacher, labels = run.teacher.open(run.device), _label_cost(run.record, run.policy.count, len(plans[0].classes))
        _ask(run.distiller, plans, teacher, run.record.size, labels, run.engine.workers, yes, {})


def _label_cost(chosen: Choices | RunRecord, views: int, classes: int) -> LabelCost:
    budget = chosen.budget if chosen.spent is None else None
    return LabelCost.of(chosen.codec, budget, views, classes)


def _ask(
    distiller: Distiller, plans: Sequence[Plan], teacher: Teacher, size: int, labels: LabelCost, workers: int,
    yes: bool, known: Mapping[str, float],
) -> None:  # fmt: skip
    """Estimate and check the cost of some increments. known: seconds of parts that are already estimated."""
    probe = Probe(teacher=teacher, size=size, workers=workers, each=seconds_a_pass(teacher, size))
    seconds = total([known, *price(distiller, plans, probe, labels)])
    ask_cost(seconds, sum(plan.images for plan in plans) * labels.bytes, yes=yes)
