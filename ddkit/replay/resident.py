"""A set in memory: decoded images, integers and labels, from checked shards or from a loaded `datasets.Dataset`."""

from __future__ import annotations

import io
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ddkit.errors import SetError
from ddkit.format.codecs import Codec, find_codec
from ddkit.format.images import IMAGE_FORMATS, decode_image
from ddkit.format.integrity import open_images, open_shard
from ddkit.format.manifest import Manifest
from ddkit.format.shards import RowRecord, member, row_key, unpack_views
from ddkit.format.views import UNMIXED, Views
from ddkit.runtime import cores
from ddkit.specs import ClassName

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass
class Resident:
    """images: uint8 [n,3,H,W]; labels: int64 [n]; rows: int64 [n], row numbers; shards: rows of each shard.

    views: of all rows, partners as positions in these arrays (-1 = none), None where only images are wanted;
    soft: the codec's tensors [n,V,...].
    """

    images: Tensor
    labels: np.ndarray
    rows: np.ndarray
    shards: list[int]
    views: Views | None
    soft: dict[str, np.ndarray]
    codec: Codec
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: list[ClassName]

    def __len__(self) -> int:
        return len(self.labels)

    def logits(self, rows: np.ndarray, numbers: np.ndarray) -> Tensor:
        """The teacher's logits on some views: float32 [B,C], centred."""
        return torch.from_numpy(self.codec.decode({name: array[rows, numbers] for name, array in self.soft.items()}))


Part = tuple[np.ndarray, int, Views, dict[str, np.ndarray]]


def load_set(manifest: Manifest, ipc: int | None = None, *, with_labels: bool = True) -> Resident:
    """Read the shards of a prefix, after every byte of each was compared with the manifest.

    with_labels: False leaves views and soft labels unread. Raises IntegrityError naming shard, row and member.
    """
    codec = find_codec(manifest.data["labels"]["codec"], stored=True)
    shards = manifest.shards(ipc)
    parts: list[Part] = []
    firsts: list[int] = []
    rows: list[int] = []
    for shard in shards:
        entries: list[tuple[RowRecord, bytes, bytes | None]]
        if with_labels:
            tar, records = open_shard(manifest, shard)
            entries = [(record, member(tar, record.image), member(tar, record.views)) for record in records]
        else:
            entries = [(record, image, None) for record, image in open_images(manifest, shard)]
        firsts += [len(rows)] * len(entries)
        rows += [entry[0].row for entry in entries]
        with ThreadPoolExecutor(cores()) as pool:
            parts += pool.map(partial(_read_row, shard["path"], manifest.image_codec, codec), entries)
    return _join(parts, rows, firsts, [shard["rows"] for shard in shards], codec, manifest, with_labels)


def _read_row(path: str, image_codec: str, codec: Codec, entry: tuple[RowRecord, bytes, bytes | None]) -> Part:
    record, image, blob = entry
    where = f"{path} row {row_key(record.row)}"
    pixels = decode_image(image, image_codec, where)
    if blob is None:
        return pixels, record.label, _NO_VIEWS, {}
    views, soft, _ = unpack_views(blob, codec, where)
    return pixels, record.label, views, soft


_NO_VIEWS = Views(box=np.zeros((1, 0, 4), np.int16), flip=np.zeros((1, 0), np.uint8))


def _join(
    parts: list[Part],
    rows: list[int],
    firsts: list[int],
    shards: list[int],
    codec: Codec,
    manifest: Manifest,
    with_labels: bool,
) -> Resident:
    views = None
    soft: dict[str, np.ndarray] = {}
    if with_labels:
        views = _global_partners(Views.stack([part[2] for part in parts]), np.array(firsts))
        soft = {name: np.stack([part[3][name] for part in parts]) for name in codec.TENSORS}
    return Resident(
        images=torch.from_numpy(np.stack([part[0] for part in parts])),
        labels=np.array([part[1] for part in parts], np.int64),
        rows=np.array(rows, np.int64),
        shards=shards,
        views=views,
        soft=soft,
        codec=codec,
        size=manifest.size,
        mean=manifest.mean,
        std=manifest.std,
        classes=manifest.classes,
    )


def _global_partners(views: Views, firsts: np.ndarray) -> Views:
    """Partners as positions in the joined arrays. firsts: position of the first row of each row's shard."""
    tensors = views.tensors()
    if views.partner is not None:
        partner = views.partner.astype(np.int64)
        tensors["partner"] = np.where(partner == UNMIXED, -1, partner + firsts[:, None])
    return Views(**tensors)


# ------------------------------------------------------------------ rows of load_dataset or webdataset

_IMAGE_COLUMNS = ("png", "webp", "jpg", "image")
_VIEWS_COLUMNS = ("views.safetensors", "views")
_LABEL_COLUMNS = ("cls", "label", "labels")


def column(row: Mapping[str, Any] | list[str], names: tuple[str, ...], what: str) -> str:
    """Which of `names` a row or table has. Raises SetError."""
    for name in names:
        if name in row:
            return name
    raise SetError(f"no column with the {what} ({' or '.join(names)}) among {', '.join(row)}; is it a ddkit set?")


def row_pixels(image: Any) -> np.ndarray:
    """The image of a row (PIL image, encoded bytes, or {"bytes": …}) -> uint8 [3,H,W]."""
    if isinstance(image, Mapping):
        image = image["bytes"]
    if isinstance(image, bytes):
        image = Image.open(io.BytesIO(image), formats=list(IMAGE_FORMATS.values()))
    return np.asarray(image.convert("RGB")).transpose(2, 0, 1).copy()


def row_views(row: Mapping[str, Any]) -> tuple[Views, dict[str, np.ndarray], dict[str, Any], Codec]:
    """(views with n = 1, label tensors, metadata, codec) of one row as a stock reader yields it."""
    from ddkit.format.shards import read_metadata

    data = row[column(row, _VIEWS_COLUMNS, "views")]
    where = f"row {row.get('__key__', '?')}"
    try:
        codec = find_codec(read_metadata(data)["codec"], stored=True)
    except (KeyError, TypeError, ValueError) as error:
        raise SetError(f"{where}: its views are not of a ddkit set ({error})") from error
    return *unpack_views(data, codec, where), codec


def load_rows(dataset: Dataset, manifest: Manifest | None = None) -> Resident:
    """A `datasets.Dataset` of a set that the user opened (columns renamed or not) -> Resident.

    Rows are matched by `__key__`; a partner row that is not among them is an error naming it. Raises SetError.
    """
    names = list(dataset.column_names)
    image = column(names, _IMAGE_COLUMNS, "image")
    label = column(names, _LABEL_COLUMNS, "class")
    if "__key__" not in names:
        raise SetError("the dataset has no column __key__, by which partner rows are found; do not remove it")
    parts: list[Part] = []
    rows, keys = [], []
    meta: dict[str, Any] = {}
    codec: Codec | None = None
    for row in dataset:
        views, soft, meta, codec = row_views(row)
        parts.append((row_pixels(row[image]), int(row[label]), views, soft))
        keys.append(int(row["__key__"]))
        rows.append(int(meta["first"]))
    if codec is None:
        raise SetError("the dataset has no rows; load the set again")
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
        size=int(meta["size"]),
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
