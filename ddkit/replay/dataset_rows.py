"""Decoding rows as `datasets.load_dataset` and webdataset yield them."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image

from ddkit.errors import IntegrityError, OptionError, SetError
from ddkit.format.codecs.interface import Codec
from ddkit.format.codecs.registry import find_codec
from ddkit.format.entries import row_key
from ddkit.format.images import IMAGE_ERRORS, IMAGE_FORMATS, LARGEST_PIXELS, ORIENTATION
from ddkit.format.row_format import RowFormat
from ddkit.format.view_pixels import network_input
from ddkit.format.views import UNMIXED, Views
from ddkit.format.views_member import DecodedRow, UnpackedRow, read_metadata, unpack_views

IMAGE_COLUMNS = ("png", "webp", "jpg", "image")
VIEWS_COLUMNS = ("views.safetensors", "views")
LARGEST_SIDE = 2**14  # pixels: assumed for int16 boxes if the image is not available
LABEL_COLUMNS = ("cls", "label", "labels")


def column(row: Mapping[str, Any] | list[str], names: tuple[str, ...], what: str) -> str:
    """Return the first of `names` that a row or table has as a column.

    Args:
        row: A row, or the column names of a table.
        names: Accepted column names, in order of preference.
        what: What the column holds; used in the error message.

    Raises:
        SetError: No column has one of these names.
    """
    for name in names:
        if name in row:
            return name
    raise SetError(f"no column with the {what} ({' or '.join(names)}) among {', '.join(row)}; is it a ddkit set?")


def row_pixels(image: Any) -> np.ndarray:
    """Decode the image of a row to uint8 [3,H,W].

    Args:
        image: A PIL image, encoded bytes, or a mapping with the encoded bytes under "bytes".

    Raises:
        SetError: The image does not decode, is too large, is not RGB, or has several frames or an EXIF orientation.
    """
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
    """Return the class index of a row.

    Args:
        row: A row as a stock reader yields it.
        name: The column that holds the class.
        classes: Number of classes.

    Raises:
        SetError: The value is not an integer from 0 to `classes` - 1.
    """
    try:
        label = int(row[name])
    except (TypeError, ValueError, OverflowError):
        label = -1
    if not 0 <= label < classes:
        raise SetError(f"row {row.get('__key__', '?')}: {row[name]!r:.40} is not a valid class; load the set again")
    return label


def row_key_of(row: Mapping[str, Any]) -> int:
    """Return the row number in the column `__key__`.

    Args:
        row: A row as a stock reader yields it.

    Raises:
        SetError: The key is not a row number.
    """
    key = row["__key__"]
    if not isinstance(key, str) or not key.isascii() or not key.isdigit() or len(key) > 12:
        raise SetError(f"__key__ {key!r:.40} is not a row number; load the set again")
    return int(key)


def unpack_row(row: Mapping[str, Any]) -> tuple[UnpackedRow, Codec]:
    """Read the views member of a row and find the codec that its metadata names.

    Args:
        row: A row as a stock reader yields it.

    Returns:
        The unchecked views, labels and metadata, and the codec.

    Raises:
        SetError: The row has no views, or they are not from a ddkit set.
        FormatVersion: The codec is unknown.
        IntegrityError: The views cannot be read.
    """
    data = row[column(row, VIEWS_COLUMNS, "views")]
    where = f"row {row.get('__key__', '?')}"
    try:
        codec = find_codec(str(read_metadata(data)["codec"]), stored=True)
    except (KeyError, TypeError, ValueError) as error:
        raise SetError(f"{where}: its views are not those of a ddkit set ({error})") from error
    return unpack_views(data, codec, where), codec


def row_format(row: Mapping[str, Any], extent: tuple[int, int] | None) -> RowFormat:
    """Infer the row format of a set from one of its rows.

    Args:
        row: A row as a stock reader yields it.
        extent: Height and width of the row's image in pixels; None if the image is not available.

    Raises:
        SetError, FormatVersion, IntegrityError.
    """
    unpacked, codec = unpack_row(row)
    small = unpacked.views.box.dtype == np.uint8
    known = extent or ((255, 255) if small else (LARGEST_SIDE, LARGEST_SIDE))
    return RowFormat.like(unpacked, codec, known, f"row {row.get('__key__', '?')}")


def checked_row(row: Mapping[str, Any], form: RowFormat, key: int | None = None) -> DecodedRow:
    """Decode the views member of a row and check every integer and label in it.

    The size of the shard is unknown here, so any position in a shard is accepted as a mixing partner.

    Args:
        row: A row as a stock reader yields it.
        form: The row format of the set.
        key: The row number, if known.

    Raises:
        SetError: The row has no column with views.
        IntegrityError: A value is invalid; the message names the row.
    """
    where = f"row {row.get('__key__', '?')}"
    decoded = form.unpack(row[column(row, VIEWS_COLUMNS, "views")], where)
    position = -1 if key is None else key - decoded.metadata.first
    if key is not None and not 0 <= position < UNMIXED:
        raise IntegrityError(f"{where}: its shard begins at row {decoded.metadata.first}; load the set again")
    if wrong := form.views_problem(decoded.views, np.array([position]), UNMIXED):
        raise IntegrityError(f"{where}: {wrong[1]}; load the set again")
    return decoded


def decode_row(
    row: Mapping[str, Any], temperature: float = 20, labels: Mapping[str, np.ndarray] | None = None
) -> dict[str, Any]:
    """Decode one row of `load_dataset` or `webdataset` to tensors.

    Args:
        row: A mapping with the columns of a set; they may be renamed to `image`, `views` and `label`.
        temperature: Temperature at which a student learns; used by codecs `topk` and `sampled`.
        labels: Tensors of the set's `labels.safetensors`; needed by codec `lowrank`.

    Returns:
        A dict with "image" uint8 [3,H,W], "label" int, "box" [V,4], "flip" [V], the metadata (first, size, mean, std,
        ...) under "meta", "logits" float32 [V,C] unless the codec is `teacher`, and "partner", "mix_box", "mix_lam" and
        "patches" if the set has them (docs/format.md).

    Raises:
        SetError, IntegrityError, FormatVersion.
        OptionError: The set has no labels for this temperature.
    """
    _check_is_row(row)
    image = next((row_pixels(row[name]) for name in IMAGE_COLUMNS if name in row), None)
    form = row_format(row, None if image is None else (image.shape[1], image.shape[2]))
    decoded = checked_row(row, form)
    result: dict[str, Any] = {"meta": decoded.metadata.to_json()}
    result |= {} if image is None else {"image": torch.from_numpy(image)}
    name = column(row, LABEL_COLUMNS, "class")
    result["label"] = row_label(row, name, form.classes)
    tensors = decoded.views.tensors().items()
    result |= {name: torch.from_numpy(array[0].astype(_wide(array))) for name, array in tensors}
    form.codec.check_temperature(temperature)
    if form.codec.FROM_PIXELS:
        return result
    shared, layout = dict(labels or {}), form.codec.shared_layout(form.classes)
    if missing := [name for name, (_, shape) in layout.items() if getattr(shared.get(name), "shape", ()) != shape]:
        raise SetError(
            f"labels of codec {form.codec.name} need tensor {missing[0]!r} of the set; pass "
            "labels=safetensors.numpy.load_file('labels.safetensors')"
        )
    return result | {"logits": torch.from_numpy(form.codec.decode(decoded.labels, form.classes, temperature, shared))}


def _check_is_row(row: object) -> None:
    """Raise SetError if something is not a row, or one whose values were converted to tensors."""
    if not isinstance(row, Mapping):
        raise SetError(f"a row is a {type(row).__name__}; give one of load_dataset(...), as in dataset[0]")
    if any(isinstance(value, torch.Tensor) for value in row.values()):
        raise SetError("the row was converted to tensors; use dataset.with_format(None)")


def _wide(array: np.ndarray) -> np.dtype:
    return array.dtype if array.dtype.kind == "f" else np.dtype(np.int64)


def apply_view(row: Mapping[str, Any], index: int, partner: Mapping[str, Any] | None = None) -> torch.Tensor:
    """Compute one stored view of a row as the network input: float32 [3,S,S], normalised as for the teacher.

    `decode_row(row)["partner"][index]` is the position in the shard of the row mixed into the view, 65535 if none. Its
    row number is that position plus `decode_row(row)["meta"]["first"]`.

    Args:
        row: A row of `load_dataset` or `webdataset`.
        index: View index, from 0.
        partner: The row that is mixed into this view; needed only if there is one.

    Raises:
        SetError: The partner row is missing or is the wrong row.
        OptionError: `index` is out of range.
        IntegrityError, FormatVersion.
    """
    _check_is_row(row)
    image = row_pixels(row[column(row, IMAGE_COLUMNS, "image")])
    form = row_format(row, (image.shape[1], image.shape[2]))
    decoded = checked_row(row, form)
    if not isinstance(index, int | np.integer) or not 0 <= index < decoded.views.count:
        raise OptionError(f"view index {index!r:.40} is not one of the {decoded.views.count} views; they count from 0")
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
