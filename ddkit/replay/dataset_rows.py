"""One row as `load_dataset` or webdataset yield it."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from ddkit.errors import IntegrityError, SetError
from ddkit.format.codecs import Codec, find_codec
from ddkit.format.images import IMAGE_ERRORS, IMAGE_FORMATS, LARGEST_PIXELS, ORIENTATION
from ddkit.format.row_format import RowFormat
from ddkit.format.views import UNMIXED
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


def decode_row(row: Mapping[str, Any], temperature: float = 20, labels: Any = None) -> dict[str, Any]:
    """One row of `load_dataset` or `webdataset` as tensors.

    row: a mapping with the columns of a set; they may be renamed to `image`, `views` and `label`. temperature, labels:
    for codecs that need the student's temperature or the set's `labels.safetensors`; the codecs of this version need
    neither.
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
    return result | {"logits": torch.from_numpy(form.codec.decode(decoded.labels))}


def _wide(array: np.ndarray) -> np.dtype:
    return array.dtype if array.dtype.kind == "f" else np.dtype(np.int64)
