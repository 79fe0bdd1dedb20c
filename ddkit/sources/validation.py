"""Evaluation images: the choice of split or holdout, and labels in the class order of a set."""

from __future__ import annotations

import os
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
    """Return the split that is suited to evaluation (all labels are >= 0), or None.

    Args:
        data: The source.
        image_column: Column of the images in a table; default: determined from types and names.
        label_column: Column of the labels, likewise.
    """
    for split in validation_splits(list(splits_of(data))):
        table = open_table(data, split, image_column, label_column)
        if len(table.labels) and table.labels.min() >= 0:
            return split
    return None


def can_measure(data: str, image_column: str | None = None, label_column: str | None = None) -> bool:
    """Return whether a source has a labelled split for evaluation.

    For a dataset on the Hub only the names of its splits are considered, so that none is fetched.

    Args:
        data: The source.
        image_column: Column of the images in a table; default: determined from types and names.
        label_column: Column of the labels, likewise.
    """
    if is_online(data):
        return bool(validation_splits(list(splits_of(data))))
    return has_validation(data, image_column, label_column) is not None


@dataclass(frozen=True, kw_only=True)
class ValidationRef:
    """Evaluation images as plain data: the arguments of `open_validation`.

    Attributes:
        data: The source.
        split: The split; default: the first that is suited.
        image_column: Column of the images in a table.
        label_column: Column of the labels in a table.
        same_order: Match classes by position instead of name.
    """

    data: str
    split: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    same_order: bool = False

    def open(self, classes: Sequence[ClassName], source: DatasetSpec | None) -> Validation:
        """Open the images; raises as `open_validation`.

        Args:
            classes: Classes of the network.
            source: Source of the set.
        """
        return open_validation(
            self.data, classes, split=self.split, source=source, image_column=self.image_column,
            label_column=self.label_column, same_order=self.same_order,
        )[0]  # fmt: skip


@dataclass(frozen=True)
class Validation:
    """Evaluation images with the labels of a set.

    Attributes:
        source: The images.
        labels: int64 [n], in the class order of the set; -1: not used.
        name: Name of the images, for results.
    """

    source: Source
    labels: np.ndarray
    name: str

    @property
    def used(self) -> int:
        """Number of images that are used."""
        return int((self.labels >= 0).sum())

    @property
    def fingerprint(self) -> str:
        """Hash over the images, the choice of those that are used, and their labels."""
        used = to_plain(replace(self.source.ref, data=""))
        return fingerprint([self.source.fingerprint, used, self.labels.tolist()])

    def load(self, transform: EvalTransform) -> tuple[Tensor, Tensor]:
        """Load the images that are used.

        Args:
            transform: Sizes of resize and centre crop.

        Returns:
            (images, uint8 [n, 3, crop, crop], not to be changed; labels, int64 [n]).
        """
        used = np.flatnonzero(self.labels >= 0)
        images = self.source.resident(transform)
        if len(used) == len(images):
            return images, torch.from_numpy(self.labels)
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
    """Open images to evaluate a network on.

    Args:
        data: The source.
        classes: Classes of the network.
        split: The split; default: the first of validation, valid, val, test whose labels are all >= 0.
        source: Source of the set; if `data` has the same fingerprint, its holdout is used.
        image_column: Column of the images in a table; default: determined from types and names.
        label_column: Column of the labels, likewise.
        same_order: Match classes by position instead of name.

    Returns:
        (images, whether the classes of `data` are in another order).

    Raises:
        SourceError: There is no labelled split, or `data` is the set's source and nothing was held out.
        ClassesError: The classes do not match.
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
    shown = Path(data).name if data != "digits" and os.path.exists(data) else data  # no local paths in results
    name = f"{shown}:{split}"
    if source is not None and opened.fingerprint == source.fingerprint:
        if source.holdout is None:
            raise SourceError(f"{data} is what the set was made from, and no images were held out; give other images")
        # Images that do not decode were left out before the holdout was drawn; do the same here.
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
