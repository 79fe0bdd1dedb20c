"""Images to measure on: which split or holdout, and its classes in the order of a set's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ddkit.core.serialization import fingerprint, to_plain
from ddkit.errors import SourceError
from ddkit.sources.classes import match_classes
from ddkit.sources.images import Source, SourceRef, reopen
from ddkit.sources.online import is_online
from ddkit.sources.tables import open_table, splits_of, validation_splits
from ddkit.specs import ClassName, DatasetSpec, EvalTransform


def has_validation(data: str, image_column: str | None = None, label_column: str | None = None) -> str | None:
    """The split that can measure (its labels are all >= 0), or None."""
    for split in validation_splits(list(splits_of(data))):
        table = open_table(data, split, image_column, label_column)
        if len(table.labels) and table.labels.min() >= 0:
            return split
    return None


def can_measure(data: str, image_column: str | None = None, label_column: str | None = None) -> bool:
    """Whether a source has a labelled split beside the one that is distilled. For a dataset of the Hub the names of its
    splits decide, so that none is fetched only to know."""
    if is_online(data):
        return bool(validation_splits(list(splits_of(data))))
    return has_validation(data, image_column, label_column) is not None


@dataclass(frozen=True, kw_only=True)
class ValidationRef:
    """Images to measure on, as plain data: the arguments of `open_validation`.

    data: the source; same_order: trust the order of its classes, not their names.
    """

    data: str
    split: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    same_order: bool = False

    def open(self, classes: Sequence[ClassName], source: DatasetSpec | None) -> Validation:
        """The images, for networks of these classes; raises as `open_validation`. source: what the set was made of."""
        return open_validation(
            self.data, classes, split=self.split, source=source, image_column=self.image_column,
            label_column=self.label_column, same_order=self.same_order,
        )[0]  # fmt: skip


@dataclass(frozen=True)
class Validation:
    """Images to measure on, in the order and with the labels of the set: source, labels int64 [n] (-1 = not used)."""

    source: Source
    labels: np.ndarray
    name: str

    @property
    def used(self) -> int:
        """How many images there are to measure on."""
        return int((self.labels >= 0).sum())

    @property
    def fingerprint(self) -> str:
        """Stands for the images, which of them are used, and their labels."""
        used = to_plain(replace(self.source.ref, data=""))
        return fingerprint([self.source.fingerprint, used, self.labels.tolist()])

    def load(self, transform: EvalTransform) -> tuple[Tensor, Tensor]:
        """(uint8 [n,3,crop,crop], int64 [n])."""
        used = np.flatnonzero(self.labels >= 0)
        images = self.source.resident(transform)
        return images[torch.from_numpy(used)], torch.from_numpy(self.labels[used])


def open_validation(
    data: str,
    classes: Sequence[ClassName],
    *,
    split: str | None = None,
    source: DatasetSpec | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    same_order: bool = False,
) -> tuple[Validation, bool]:
    """Images to measure a network on whose classes are `classes`. Also tells whether labels were put in another order.

    split: default the first of validation, valid, val, test whose labels are all >= 0. source: what the set was made
    from; a `data` with the same fingerprint means its holdout rows.
    Raises SourceError (no labelled split) and ClassesError (classes that do not match).
    """
    if split is None:
        split = has_validation(data, image_column, label_column)
    available = splits_of(data)
    if split is None:
        split = next(iter(available))
        if set(available) & {"validation", "valid", "val", "test"}:
            raise SourceError(
                f"{data}: the labels of its splits {', '.join(available)} are hidden (-1); give one with labels"
            )
    opened = reopen(SourceRef(data=data, split=split, image_column=image_column, label_column=label_column))
    shown = Path(data).name if data != "digits" and Path(data).exists() else data  # no local paths in results
    name = f"{shown}:{split}"
    if source is not None and opened.fingerprint == source.fingerprint:
        if source.holdout is None:
            raise SourceError(
                f"{data} is what the set was made from, and nothing of it was held out; give other images"
            )
        # What does not decode was left out before the holdout was drawn, so it is here too.
        opened = opened.without_unreadable(skip_bad=True).part("holdout", source.holdout)
        name = f"{shown}:holdout"
    else:
        if hidden := len(opened._table.labels) - len(opened):
            raise SourceError(f"{data} split {split!r}: {hidden} labels are -1; give a labelled split with --split")
        opened = opened.without_unreadable(skip_bad=False)
    order = match_classes(classes, opened.classes, what="the set and --val", same_order=same_order)
    to_target = np.full(len(opened.classes), -1)
    to_target[order] = np.arange(len(order))
    return Validation(opened, to_target[opened.labels], name), bool((order != np.arange(len(order))).any())
