"""Spends a budget of bytes: chooses image format, view count and codec once the first increment's images are made."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from ddkit.core.console import note, size_words
from ddkit.core.device import threads
from ddkit.format.codecs.interface import centred
from ddkit.format.images import WRITTEN, encode_image
from ddkit.format.label_info import Budget
from ddkit.format.views import draw
from ddkit.labelling.budget import BudgetGoal, BudgetSample, carried_instead, choose
from ddkit.labelling.labels import label_views
from ddkit.pipeline.record import RunRecord, load_record
from ddkit.pipeline.run import Increment, Run
from ddkit.pipeline.sharing import in_turn

SAMPLE_IMAGES, SAMPLE_VIEWS = 64, 40


def within_budget(run: Run, first: Increment) -> Run:
    """Return the run with image format, view count and codec chosen for its budget, and record them.

    The run is returned unchanged if it has no budget or the choice was made before. The choice depends only on the
    images of the first increment, so that a repeated run makes the same one.

    Args:
        run: The run.
        first: Its first increment, whose synthesis units are done.

    Raises:
        OptionError: Nothing fits into the budget.
    """
    if run.record.budget is None or run.record.spent is not None:
        return run
    with in_turn(run.out, "spending the budget", {}, run.engine):
        saved = load_record(run.out) if run.engine.shared else None
        if saved is not None and saved.spent is not None:  # by another process of this run
            return _with(run, saved)
        decided = _chosen(run, first)
        decided.save(run.work)
        return _with(run, decided)


def _with(run: Run, record: RunRecord) -> Run:
    return replace(run, record=record, policy=replace(run.policy, count=record.views))


def _chosen(run: Run, first: Increment) -> RunRecord:
    """Return the record of the run with image format, view count and codec chosen, and print the table."""
    record = run.record
    assert record.budget is not None
    goal = BudgetGoal.parse(record.budget)
    with threads(1):  # the choice is the same whatever the number of threads
        sample = _sample(run, first)
        table = choose(goal, sample)
    chosen = table[0]
    note(f"budget {goal.text}: {chosen.codec}, {chosen.views} views, {chosen.image}: {size_words(chosen.bytes)} in all")
    for row in table:
        note(
            f"  {row.codec:24} {row.views:5} views {row.image:5} {size_words(row.label_bytes):>9} labels, error "
            f"{row.error:.3f}, expected loss {row.loss:.2f} points"
        )
    if (carried := carried_instead(table)) is not None:
        size, options = size_words(carried.label_bytes), f"--views {carried.views} --image-format {carried.image}"
        note(f"  next: exact labels in {size}: another OUT with `--codec teacher {options}`, without --budget")
        note("  (every step of a training then runs the teacher)")
    spent = Budget(asked=goal.text, views=record.views, table=tuple(table))
    return replace(record, codec=chosen.codec, views=chosen.views, image_format=chosen.image, spent=spent)


def _sample(run: Run, first: Increment) -> BudgetSample:
    """Measure encoded images and the teacher's logits on a sample of the first increment's images."""
    pixels, teacher, classes = _images(run, first), run.teacher.open(run.device), len(run.source.classes)
    count = min(run.policy.count, SAMPLE_VIEWS)
    views = draw(
        replace(run.policy, count=count), seed=run.record.seed, first=0, rows=len(pixels), height=pixels.shape[2],
        width=pixels.shape[3], size=run.record.size, patches=run.patches,
    )  # fmt: skip
    images = torch.from_numpy(pixels).to(run.device)
    rows, indices = (axis.ravel() for axis in np.meshgrid(np.arange(len(pixels)), np.arange(count), indexing="ij"))
    logits = label_views(run.labelling, teacher, images, views, rows, indices, run.record.precision)
    train = run.protocol.train_spec(ipc=run.record.prefixes[-1], arch=teacher.spec.arch, dataset=run.record.dataset)
    numbers = sum(tensor.numel() for tensor in teacher.network.state_dict().values())
    rows_in_all = run.record.ipc * classes
    return BudgetSample(
        rows=rows_in_all, views=run.policy.count, epochs=train.epochs_for(rows_in_all), logits=centred(logits),
        view_layout=sum(array[0, 0].nbytes for array in views.tensors().values()),
        image_bytes={name: float(np.mean([len(encode_image(image, name)) for image in pixels])) for name in WRITTEN},
        temperature=train.temperature, teacher_bytes=2 * numbers,
    )  # fmt: skip


def _images(run: Run, first: Increment) -> np.ndarray:
    """Up to SAMPLE_IMAGES images of the increment, evenly spread over its units: uint8 [n,3,H,W]."""
    inputs = run.inputs(first)
    units = [unit for unit in run.distiller.units(first.plan) if unit.kind == "recover"]
    each = -(-SAMPLE_IMAGES // len(units))
    step = -(-len(units) // SAMPLE_IMAGES)
    found = [inputs.unit(unit.id).tensors()["pixels"][:each] for unit in units[::step]]
    return np.concatenate(found)[:SAMPLE_IMAGES]
