"""A `datasets.Dataset` of a set that the user opened, as a store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ddkit.errors import SetError
from ddkit.format.manifest import Manifest
from ddkit.format.rows import RowFormat
from ddkit.format.shards import row_key
from ddkit.format.views import UNMIXED, Views
from ddkit.replay.dataset_rows import (
    _LABEL_COLUMNS,
    IMAGE_COLUMNS,
    checked_row,
    column,
    row_format,
    row_key_of,
    row_label,
    row_pixels,
)
from ddkit.replay.stores.memory import Resident
from ddkit.specs import ClassName

if TYPE_CHECKING:
    from datasets import Dataset


def load_dataset_rows(dataset: Dataset, manifest: Manifest | None = None) -> Resident:
    """A `datasets.Dataset` of a set that the user opened (columns renamed or not) -> Resident.

    Rows are matched by `__key__`; a partner row that is not among them is an error naming it. Raises SetError,
    IntegrityError for rows that no set can have.
    """
    names = list(dataset.column_names)
    image = column(names, IMAGE_COLUMNS, "image")
    label = column(names, _LABEL_COLUMNS, "class")
    if "__key__" not in names:
        raise SetError("the dataset has no column __key__, by which partner rows are found; do not remove it")
    parts: list[tuple[np.ndarray, int, Views, dict[str, np.ndarray]]] = []
    rows, keys = [], []
    meta: dict[str, Any] = {}
    form: RowFormat | None = None
    for row in dataset:
        pixels = row_pixels(row[image])
        form = form or row_format(row, (pixels.shape[1], pixels.shape[2]))
        key = row_key_of(row)
        views, soft, meta = checked_row(row, form, key)
        if pixels.shape != (3, form.height, form.width):
            raise SetError(f"row {row['__key__']}: its image is of another size than the first; load the set again")
        parts.append((pixels, row_label(row, label, soft[form.codec.TENSORS[0]].shape[-1]), views, soft))
        keys.append(key)
        rows.append(int(meta["first"]))
    if form is None:
        raise SetError("the dataset has no rows; load the set again")
    codec = form.codec
    class_names = getattr(dataset.features[label], "names", None)
    classes = [ClassName(name=name) for name in class_names or map(str, range(codec.decode(parts[0][3]).shape[-1]))]
    views = _partners_by_key(Views.stack([part[2] for part in parts]), keys, np.array(rows))
    firsts = np.array(rows)
    return Resident(
        images=torch.from_numpy(np.stack([part[0] for part in parts])),
        labels=np.array([part[1] for part in parts], np.int64),
        rows=np.array(keys, np.int64),
        shards=[int((firsts == first).sum()) for first in dict.fromkeys(rows)],
        views=views,
        soft={name: np.stack([part[3][name] for part in parts]) for name in codec.TENSORS},
        codec=codec,
        size=form.size,
        mean=tuple(meta["mean"]),
        std=tuple(meta["std"]),
        classes=manifest.classes if manifest else classes,
    )


def _partners_by_key(views: Views, keys: list[int], firsts: np.ndarray) -> Views:
    tensors = views.tensors()
    if views.partner is not None:
        partner = views.partner.astype(np.int64)
        wanted = np.where(partner == UNMIXED, -1, partner + firsts[:, None])
        position = {key: i for i, key in enumerate(keys)} | {-1: -1}
        if missing := sorted(set(np.unique(wanted).tolist()) - set(position)):
            raise SetError(
                f"row {row_key(missing[0])} is mixed into rows of this dataset but is not in it; load whole prefixes"
            )
        tensors["partner"] = np.vectorize(position.__getitem__, otypes=[np.int64])(wanted)
    return Views(**tensors)
