"""A set in memory: decoded images, integers and labels, from checked shards or from a loaded `datasets.Dataset`."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ddkit.errors import IntegrityError, SetError
from ddkit.format.codecs import Codec, find_codec
from ddkit.format.images import IMAGE_ERRORS, IMAGE_FORMATS, LARGEST_PIXELS, ORIENTATION
from ddkit.format.manifest import Manifest
from ddkit.format.reading import read_set
from ddkit.format.rows import RowFormat
from ddkit.format.shards import read_metadata, row_key, unpack_views
from ddkit.format.views import UNMIXED, Views
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


def load_set(manifest: Manifest, ipc: int | None = None, *, with_labels: bool = True) -> Resident:
    """Read the shards of a prefix, after every byte of each was compared with the manifest.

    with_labels: False leaves views and soft labels unread. Raises IntegrityError naming shard, row and member.
    """
    codec = find_codec(manifest.data["labels"]["codec"], stored=True)
    shards, n, side = manifest.shards(ipc), manifest.rows(ipc), manifest.image_size
    for shard in shards:  # before memory is taken for what the manifest says
        kept = shard if with_labels or not shard["images"] else shard["images"]
        if not (manifest.root / kept["path"]).is_file():
            raise IntegrityError(f"{manifest.where}: {kept['path']} is missing; fetch or make the set again")
    images, labels = np.empty((n, 3, side, side), np.uint8), np.empty(n, np.int64)
    rows, firsts = np.empty(n, np.int64), np.empty(n, np.int64)
    soft: dict[str, np.ndarray] = {}
    views: list[Views] = []
    at = 0
    for _, part in read_set(manifest, ipc, labels=with_labels):
        end = at + len(part.rows)
        labels[at:end], rows[at:end], firsts[at:end] = part.labels, part.rows, at - part.start
        for i, pixels in enumerate(part.pixels, start=at):
            images[i] = pixels
        for name, tensor in part.soft.items():
            if name not in soft:
                soft[name] = np.empty((n, *tensor.shape[1:]), tensor.dtype)
            soft[name][at:end] = tensor
        views += [part.views] if part.views is not None else []
        at = end
    return Resident(
        images=torch.from_numpy(images), labels=labels, rows=rows, shards=[shard["rows"] for shard in shards],
        views=_global_partners(Views.stack(views), firsts) if views else None, soft=soft, codec=codec,
        size=manifest.size, mean=manifest.mean, std=manifest.std, classes=manifest.classes,
    )  # fmt: skip


def _global_partners(views: Views, firsts: np.ndarray) -> Views:
    """Partners as positions in the joined arrays. firsts: position of the first row of each row's shard."""
    tensors = views.tensors()
    if views.partner is not None:
        partner = views.partner.astype(np.int64)
        tensors["partner"] = np.where(partner == UNMIXED, -1, partner + firsts[:, None])
    return Views(**tensors)


# ------------------------------------------------------------------ rows of load_dataset or webdataset

IMAGE_COLUMNS = ("png", "webp", "jpg", "image")
_VIEWS_COLUMNS = ("views.safetensors", "views")
LARGEST_SIDE = 2**14  # pixels that a box of int16 can say
_LABEL_COLUMNS = ("cls", "label", "labels")


def column(row: Mapping[str, Any] | list[str], names: tuple[str, ...], what: str) -> str:
    """Which of `names` a row or table has. Raises SetError."""
    for name in names:
        if name in row:
            return name
    raise SetError(f"no column with the {what} ({' or '.join(names)}) among {', '.join(row)}; is it a ddkit set?")


def row_pixels(image: Any) -> np.ndarray:
    """The image of a row (PIL image, encoded bytes, or {"bytes": …}) -> uint8 [3,H,W]. Raises SetError."""
    if isinstance(image, Mapping):
        image = image.get("bytes")
    try:
        if isinstance(image, bytes):
            image = Image.open(io.BytesIO(image), formats=list(IMAGE_FORMATS.values()))
        if image.width * image.height > LARGEST_PIXELS:
            raise ValueError(f"{image.width}x{image.height} pixels")
        if image.mode != "RGB" or getattr(image, "n_frames", 1) != 1:
            raise ValueError(f"mode {image.mode}, {getattr(image, 'n_frames', 1)} frames")
        pixels = np.asarray(image).transpose(2, 0, 1).copy()
        if image.getexif().get(ORIENTATION, 1) not in (0, 1):
            raise ValueError("an EXIF orientation")
        return pixels
    except IMAGE_ERRORS as error:
        raise SetError(f"an image of the dataset does not decode ({error}); load the set again") from error


def row_label(row: Mapping[str, Any], name: str, classes: int) -> int:
    """The class of a row. Raises SetError for what is none of `classes`."""
    try:
        label = int(row[name])
    except (TypeError, ValueError):
        label = -1
    if not 0 <= label < classes:
        raise SetError(f"row {row.get('__key__', '?')}: {row[name]!r:.40} is no class; load the set again")
    return label


def row_key_of(row: Mapping[str, Any]) -> int:
    """The row number that `__key__` is. Raises SetError."""
    key = row["__key__"]
    if not isinstance(key, str) or not key.isascii() or not key.isdigit() or len(key) > 12:
        raise SetError(f"__key__ {key!r:.40} is no row number; load the set again")
    return int(key)


def row_views(row: Mapping[str, Any]) -> tuple[Views, dict[str, np.ndarray], dict[str, Any], Codec]:
    """(views with n = 1, label tensors, metadata, codec) of one row as a stock reader yields it."""
    data = row[column(row, _VIEWS_COLUMNS, "views")]
    where = f"row {row.get('__key__', '?')}"
    try:
        codec = find_codec(str(read_metadata(data)["codec"]), stored=True)
    except (KeyError, TypeError, ValueError) as error:
        raise SetError(f"{where}: its views are not of a ddkit set ({error})") from error
    return *unpack_views(data, codec, where), codec


def row_format(row: Mapping[str, Any], extent: tuple[int, int] | None) -> RowFormat:
    """What one row alone says of all rows of its set. extent: height and width of its image, None where it is not at
    hand. Raises IntegrityError."""
    views, soft, meta, codec = row_views(row)
    known = extent or ((255, 255) if views.box.dtype == np.uint8 else (LARGEST_SIDE, LARGEST_SIDE))
    return RowFormat.like(views, soft, meta, codec, known, f"row {row.get('__key__', '?')}")


def checked_row(
    row: Mapping[str, Any], form: RowFormat, key: int | None = None
) -> tuple[Views, dict[str, np.ndarray], dict[str, Any]]:
    """A row's views, label tensors and metadata, after a look at each. Partners may be any row of a shard.

    key: its row number, where it is known. Raises IntegrityError naming the row.
    """
    where = f"row {row.get('__key__', '?')}"
    views, soft, meta = form.unpack(row[column(row, _VIEWS_COLUMNS, "views")], where)
    position = -1 if key is None else key - meta["first"]
    if key is not None and not 0 <= position < UNMIXED:
        raise IntegrityError(f"{where}: its shard begins at row {meta['first']}; load the set again")
    if wrong := form.views_problem(views, np.array([position]), UNMIXED):
        raise IntegrityError(f"{where}: {wrong[1]}; load the set again")
    return views, soft, meta


def load_rows(dataset: Dataset, manifest: Manifest | None = None) -> Resident:
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
