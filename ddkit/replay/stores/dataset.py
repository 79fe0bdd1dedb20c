"""Builds a store from a `datasets.Dataset` that the user opened."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ddkit.errors import SetError
from ddkit.format.codecs.registry import LabelDecoder
from ddkit.format.entries import row_key
from ddkit.format.label_file import label_decoder
from ddkit.format.manifest import Manifest
from ddkit.format.resampling import stack_images
from ddkit.format.row_format import RowFormat
from ddkit.format.views import UNMIXED, Views
from ddkit.format.views_member import DecodedRow
from ddkit.replay.dataset_rows import (
    IMAGE_COLUMNS,
    LABEL_COLUMNS,
    checked_row,
    column,
    row_format,
    row_key_of,
    row_label,
    row_pixels,
)
from ddkit.replay.stores.memory import MemoryStore
from ddkit.specs import ClassName

if TYPE_CHECKING:
    from datasets import Dataset


def load_dataset_rows(dataset: Dataset, manifest: Manifest | None = None) -> MemoryStore:
    """Read all rows of a `datasets.Dataset` of a set into memory.

    Mixing partners are found by `__key__`; a partner row that is not in the dataset is an error that names it.

    Args:
        dataset: A split as the user opened it; its columns may be renamed.
        manifest: The manifest of the set, if available; provides class names and ids.

    Raises:
        SetError: A column or a partner row is missing, or an image or label is not valid.
        IntegrityError: The views of a row are not valid.
        FormatVersion: The codec is unknown.
    """
    names = list(dataset.column_names)
    image = column(names, IMAGE_COLUMNS, "image")
    label = column(names, LABEL_COLUMNS, "class")
    if "__key__" not in names:
        raise SetError("the dataset has no column __key__, by which partner rows are found; do not remove it")
    rows: list[DecodedRow] = []
    keys, labels = [], []
    form: RowFormat | None = None
    for row in dataset.with_format(None):
        pixels = row_pixels(row[image])
        form = form or row_format(row, (pixels.shape[1], pixels.shape[2]))
        key = row_key_of(row)
        decoded = checked_row(row, form, key)
        if pixels.shape != (3, form.height, form.width):
            raise SetError(f"row {row['__key__']}: its image is of another size than the first; load the set again")
        labels.append(row_label(row, label, form.classes))
        keys.append(key)
        rows.append(replace(decoded, pixels=pixels))
    if form is None:
        raise SetError("the dataset has no rows; load the set again")
    if len(set(keys)) < len(keys):
        raise SetError(
            "the dataset has rows with the same number: two sets, or one twice; replay several sets as a list of their "
            "directories or Hub ids"
        )
    last = rows[-1]
    named = getattr(dataset.features[label], "names", None) or map(str, range(form.classes))
    firsts = np.array([row.metadata.first for row in rows])
    return MemoryStore(
        images=stack_images([row.pixels for row in rows if row.pixels is not None]),
        labels=np.array(labels, np.int64),
        rows=np.array(keys, np.int64),
        shards=[int((firsts == first).sum()) for first in dict.fromkeys(firsts.tolist())],
        all_views=_partners_by_key(Views.stack([row.views for row in rows]), keys, firsts),
        soft={name: np.stack([row.labels[name] for row in rows]) for name in form.codec.tensors},
        decoder=_decoder(form, manifest),
        size=form.size,
        mean=last.metadata.mean,
        std=last.metadata.std,
        classes=list(manifest.classes) if manifest else [ClassName(name=name) for name in named],
    )


def _decoder(form: RowFormat, manifest: Manifest | None) -> LabelDecoder:
    """The decoder of the rows' labels. Raises SetError if it needs a manifest, or the manifest is of another set."""
    if manifest is not None:
        if (manifest.labels.codec, len(manifest.classes)) != (form.codec.name, form.classes):
            raise SetError(
                f"the dataset's labels are of codec {form.codec.name} and {form.classes} classes, {manifest.where} has "
                f"{manifest.labels.codec} and {len(manifest.classes)}; give the directory or Hub id of the same set"
            )
        return label_decoder(manifest)
    if form.codec.FROM_PIXELS or form.codec.shared_layout(form.classes):
        raise SetError(
            f"labels of codec {form.codec.name} need a file of the set; pass manifest=, its directory or Hub id"
        )
    return LabelDecoder(form.codec, form.classes, {})


def _partners_by_key(views: Views, keys: list[int], firsts: np.ndarray) -> Views:
    """Replaces partner positions within shards by positions in the dataset, -1 for none."""
    tensors = views.tensors()
    if views.partner is not None:
        partner = views.partner.astype(np.int64)
        wanted = np.where(partner == UNMIXED, -1, partner + firsts[:, None])
        position = {key: i for i, key in enumerate(keys)} | {-1: -1}
        if missing := sorted(set(np.unique(wanted).tolist()) - set(position)):
            raise SetError(
                f"row {row_key(missing[0])} is mixed into rows of this dataset but missing; do not filter or slice "
                "a set: load a whole prefix of it (such as its config 'ipc5'), or give the directory or Hub id"
            )
        tensors["partner"] = np.vectorize(position.__getitem__, otypes=[np.int64])(wanted)
    return Views(**tensors)
