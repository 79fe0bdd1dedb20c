"""The member `{key}.views.safetensors` of a row: its views and soft labels as safetensors."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from safetensors.numpy import save as _save

from ddkit.core.serialization import canonical, strict_json
from ddkit.errors import IntegrityError
from ddkit.format.codecs.interface import Codec
from ddkit.format.entries import RowMetadata
from ddkit.format.views import Views


def save_tensors(tensors: Mapping[str, np.ndarray], metadata: dict[str, str] | None = None) -> bytes:
    """Serialise arrays as safetensors.

    Arrays are made contiguous first: the library writes the buffer of a strided array as if it were contiguous.

    Args:
        tensors: The arrays by name.
        metadata: Text entries of the header.
    """
    return _save({name: np.ascontiguousarray(array) for name, array in tensors.items()}, metadata)


def pack_views(views: Views, labels: Mapping[str, np.ndarray], metadata: RowMetadata) -> bytes:
    """Return the bytes of the views member of one row.

    Args:
        views: Views of this row alone (n = 1).
        labels: The codec's tensors [V,...].
        metadata: Metadata of the row.
    """
    tensors = {name: np.ascontiguousarray(array[0]) for name, array in views.tensors().items()}
    tensors |= {name: np.ascontiguousarray(array) for name, array in labels.items()}
    return save_tensors(tensors, {"ddkit": canonical(metadata.to_json(), indent=None)})


@dataclass(frozen=True)
class UnpackedRow:
    """A views member as read, not yet compared with the format of the set.

    Attributes:
        views: Views of this row alone (n = 1).
        labels: The codec's tensors, and `mean` if present.
        metadata: Any JSON object.
    """

    views: Views
    labels: dict[str, np.ndarray]
    metadata: dict[str, Any]


@dataclass(frozen=True)
class DecodedRow:
    """A row whose types, shapes and metadata match its set.

    Attributes:
        views: Views of this row alone (n = 1).
        labels: The codec's tensors [V,...].
        metadata: Metadata of the row.
        pixels: uint8 [3,S,S]; None if the image was not decoded.
    """

    views: Views
    labels: dict[str, np.ndarray]
    metadata: RowMetadata
    pixels: np.ndarray | None = None


def unpack_views(data: bytes, codec: Codec, where: str) -> UnpackedRow:
    """Read a views member, the inverse of `pack_views`. Types and values are checked by RowFormat.

    Args:
        data: Bytes of the member.
        codec: Codec of the labels.
        where: Name of the row in messages.

    Raises:
        IntegrityError: The bytes are not a views member.
    """
    try:
        tensors, metadata = unpack_tensors(data)
        labels = {name: tensors.pop(name) for name in (*codec.tensors, *(["mean"] if "mean" in tensors else []))}
        views = Views(**{name: array[None] for name, array in tensors.items()})
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityError(f"{where}: the views cannot be read ({error}); fetch the set again") from error
    return UnpackedRow(views, labels, metadata)


LARGEST_HEADER = 1_000_000  # bytes of the header of a views member
_DTYPES = {"U8": ("u1", 1), "U16": ("<u2", 2), "U32": ("<u4", 4), "I8": ("i1", 1), "I16": ("<i2", 2),
           "F16": ("<f2", 2), "F32": ("<f4", 4)}  # fmt: skip


def unpack_tensors(data: bytes) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return (tensors, metadata) of safetensors bytes, read as strictly as ddkit writes them.

    Tensors must follow one another up to the end, and the one metadata key must hold canonical JSON.

    Args:
        data: The bytes.

    Raises:
        ValueError, KeyError, TypeError: They are not such bytes.
    """
    header, start = _header(data)
    metadata = _metadata(header)
    buffer = bytearray(data)  # writable, as torch requires of arrays it wraps
    tensors: dict[str, np.ndarray] = {}
    at = 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        (dtype, width), shape = _DTYPES[entry["dtype"]], entry["shape"]
        whole = all(type(n) is int for n in (*shape, *entry["data_offsets"]))
        count = math.prod(shape) if whole else 0  # a list times a number would be a longer list
        if len(shape) == 0 or not 0 < count <= len(data) or entry["data_offsets"] != [at, at + count * width]:
            raise ValueError(f"tensor {name[:40]!r} does not follow the one before")
        tensors[name] = np.frombuffer(buffer, dtype, count, start + at).reshape(shape)
        at += count * width
    if start + at != len(data):
        raise ValueError("bytes after the last tensor")
    return tensors, metadata


def _header(data: bytes) -> tuple[dict[str, Any], int]:
    """(header, offset of the first tensor) of safetensors bytes. Raises ValueError."""
    length = int.from_bytes(data[:8], "little")
    if length > min(LARGEST_HEADER, len(data) - 8):
        raise ValueError(f"a header of {length} bytes")
    if data[8:9] != b"{":
        raise ValueError("the header is not a table")
    return strict_json(data[8 : 8 + length]), 8 + length


def _metadata(header: dict[str, Any]) -> dict[str, Any]:
    """Remove the metadata from a header and parse it: one key, `ddkit`, with a canonical JSON object."""
    entry = header.pop("__metadata__")
    if set(entry) != {"ddkit"}:
        raise ValueError(f"metadata keys {sorted(entry)!r:.80}")
    try:
        metadata = json.loads(entry["ddkit"])
        if not isinstance(metadata, dict) or canonical(metadata, indent=None) != entry["ddkit"]:
            raise ValueError("metadata is not a canonical JSON object")  # duplicate keys, NaN, whitespace
    except RecursionError as error:
        raise ValueError("metadata is nested too deeply") from error
    return metadata


def tensor_starts(data: bytes) -> dict[str, int]:
    """Return where the bytes of each tensor begin in a views member that `unpack_views` accepts, by name.

    Args:
        data: Bytes of the member.
    """
    header, start = _header(data)
    return {name: start + int(entry["data_offsets"][0]) for name, entry in header.items() if name != "__metadata__"}


def read_metadata(data: bytes) -> dict[str, Any]:
    """Return the JSON object under `__metadata__.ddkit` of safetensors bytes.

    Args:
        data: Bytes of a views member.

    Raises:
        ValueError, KeyError, TypeError.
    """
    return _metadata(_header(data)[0])
