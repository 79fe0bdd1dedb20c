"""One row as `load_dataset` or webdataset yield it."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from ddkit.errors import IntegrityError, OptionError, SetError
from ddkit.format.codecs import Codec, find_codec
from ddkit.format.entries import row_key
from ddkit.format.images import IMAGE_ERRORS, IMAGE_FORMATS, LARGEST_PIXELS, ORIENTATION
from ddkit.format.row_format import RowFormat
from ddkit.format.view_pixels import network_input
from ddkit.format.views import UNMIXED, Views
from ddkit.format.views_member import DecodedRow, UnpackedRow, read_metadata, unpack_views

if TYPE_CHECKING:
    pass


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


def unpack_row(row: Mapping[str, Any]) -> tuple[UnpackedRow, Codec]:
    """The views member of one row as a stock reader yields it, and the codec it names. Raises SetError."""
    data = row[column(row, _VIEWS_COLUMNS, "views")]
    where = f"row {row.get('__key__', '?')}"
    try:
        codec = find_codec(str(read_metadata(data)["codec"]), stored=True)
    except (KeyError, TypeError, ValueError) as error:
        raise SetError(f"{where}: its views are not of a ddkit set ({error})") from error
    return unpack_views(data, codec, where), codec


def row_format(row: Mapping[str, Any], extent: tuple[int, int] | None) -> RowFormat:
    """What one row alone says of all rows of its set.

    extent: height and width of its image in pixels, None where it is not at hand. Raises SetError, IntegrityError.
    """
    unpacked, codec = unpack_row(row)
    small = unpacked.views.box.dtype == np.uint8
    known = extent or ((255, 255) if small else (LARGEST_SIDE, LARGEST_SIDE))
    return RowFormat.like(unpacked, codec, known, f"row {row.get('__key__', '?')}")


def checked_row(row: Mapping[str, Any], form: RowFormat, key: int | None = None) -> DecodedRow:
    """A row, after every integer and label of it was checked. Partners may be any row of a shard.

    form: what all rows have in common; key: the row's number, where it is known. Raises IntegrityError naming the row.
    """
    where = f"row {row.get('__key__', '?')}"
    decoded = form.unpack(row[column(row, _VIEWS_COLUMNS, "views")], where)
    position = -1 if key is None else key - decoded.metadata.first
    if key is not None and not 0 <= position < UNMIXED:
        raise IntegrityError(f"{where}: its shard begins at row {decoded.metadata.first}; load the set again")
    if wrong := form.views_problem(decoded.views, np.array([position]), UNMIXED):
        raise IntegrityError(f"{where}: {wrong[1]}; load the set again")
    return decoded


def decode_row(
    row: Mapping[str, Any], temperature: float = 20, labels: Mapping[str, np.ndarray] | None = None
) -> dict[str, Any]:
    """One row of `load_dataset` or `webdataset` as tensors.

    row: a mapping with the columns of a set; they may be renamed to `image`, `views` and `label`. temperature: at which
    a student learns; labels: the tensors of the set's `labels.safetensors`; both are handed to the codec, and `fp16`
    needs neither.
    Returns image uint8 [3,H,W], label int, box [V,4], flip [V], and partner, mix_box, mix_lam, patches where the set
    has them (docs/format.md), logits float32 [V,C], and the metadata (first, size, mean, std, …) under "meta".
    Raises SetError, IntegrityError, FormatVersion.
    """
    image = next((row_pixels(row[name]) for name in IMAGE_COLUMNS if name in row), None)
    form = row_format(row, None if image is None else (image.shape[1], image.shape[2]))
    decoded = checked_row(row, form)
    result: dict[str, Any] = {"meta": decoded.metadata.to_json()}
    result |= {} if image is None else {"image": torch.from_numpy(image)}
    name = column(row, _LABEL_COLUMNS, "class")
    result["label"] = row_label(row, name, decoded.labels[form.codec.TENSORS[0]].shape[-1])
    tensors = decoded.views.tensors().items()
    result |= {name: torch.from_numpy(array[0].astype(_wide(array))) for name, array in tensors}
    return result | {"logits": torch.from_numpy(form.codec.decode(decoded.labels, temperature, labels))}


def _wide(array: np.ndarray) -> np.dtype:
    return array.dtype if array.dtype.kind == "f" else np.dtype(np.int64)


def apply_view(row: Mapping[str, Any], index: int, partner: Mapping[str, Any] | None = None) -> torch.Tensor:
    """One stored view of one row as a network sees it: float32 [3,S,S], normalised as the teacher did.

    row: of `load_dataset` or `webdataset`; index: which of its views; partner: the row that is mixed into this view,
    where one is (`decode_row(row)["partner"][index]` is its position in the shard, 65535 = none; its row number is
    `["meta"]["first"]` plus that). Raises SetError where that row is missing or another one, OptionError for an index
    that is none.
    """
    image = row_pixels(row[column(row, IMAGE_COLUMNS, "image")])
    form = row_format(row, (image.shape[1], image.shape[2]))
    decoded = checked_row(row, form)
    if not 0 <= index < decoded.views.count:
        raise OptionError(f"view index {index} is not one of the {decoded.views.count} views; they count from 0")
    views, images = decoded.views, [image]
    mixed = -1 if views.partner is None else int(views.partners(np.array([0]), np.array([index]))[0])
    if mixed >= 0:
        wanted = row_key(decoded.metadata.first + mixed)
        if partner is None or str(partner.get("__key__", wanted)) != wanted:
            raise SetError(f"view {index} of row {row.get('__key__', '?')} mixes row {wanted} in; give it as partner=")
        images.append(row_pixels(partner[column(partner, IMAGE_COLUMNS, "image")]))
        views = Views.stack([views, checked_row(partner, form).views])
        tensors = views.tensors()
        tensors["partner"] = np.where(np.arange(2)[:, None] == 0, 1, -1) * np.ones((1, views.count), np.int64)
        views = Views(**tensors)
    meta = decoded.metadata
    return network_input(
        torch.from_numpy(np.stack(images)), views, np.array([0]), np.array([index]), size=meta.size, mean=meta.mean,
        std=meta.std,
    )[0]  # fmt: skip
