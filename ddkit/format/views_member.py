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
from ddkit.format.codecs import Codec
from ddkit.format.entries import RowMetadata
from ddkit.format.views import Views


def save_tensors(tensors: Mapping[str, np.ndarray], metadata: dict[str, str] | None = None) -> bytes:
    """Arrays as safetensors. (The library writes the buffer of a strided array as if it were contiguous.)"""
    return _save({name: np.ascontiguousarray(array) for name, array in tensors.items()}, metadata)


def pack_views(views: Views, labels: Mapping[str, np.ndarray], metadata: RowMetadata) -> bytes:
    """The member `{key}.views.safetensors` of one row.

    views: of this row alone (n = 1); labels: the codec's tensors [V,...].
    """
    tensors = {name: np.ascontiguousarray(array[0]) for name, array in views.tensors().items()}
    tensors |= {name: np.ascontiguousarray(array) for name, array in labels.items()}
    return save_tensors(tensors, {"ddkit": canonical(metadata.to_json(), indent=None)})


@dataclass(frozen=True)
class UnpackedRow:
    """A views member as it was read: nothing of it is compared with the set yet. metadata: any JSON table."""

    views: Views
    labels: dict[str, np.ndarray]
    metadata: dict[str, Any]


@dataclass(frozen=True)
class DecodedRow:
    """A row whose types, shapes and metadata are those of its set.

    views: of this row alone (n = 1); labels: the codec's tensors [V,...]; pixels: uint8 [3,S,S], None where the image
    was not decoded.
    """

    views: Views
    labels: dict[str, np.ndarray]
    metadata: RowMetadata
    pixels: np.ndarray | None = None


def unpack_views(data: bytes, codec: Codec, where: str) -> UnpackedRow:
    """The inverse of `pack_views`; RowFormat checks types and values. where: for messages. Raises IntegrityError."""
    try:
        tensors, metadata = _unpacked(data)
        labels = {name: tensors.pop(name) for name in (*codec.TENSORS, *(["mean"] if "mean" in tensors else []))}
        views = Views(**{name: array[None] for name, array in tensors.items()})
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityError(f"{where}: the views cannot be read ({error}); fetch the set again") from error
    return UnpackedRow(views, labels, metadata)


LARGEST_HEADER = 1_000_000  # bytes of the JSON before the tensors of one row
_DTYPES = {"U8": ("u1", 1), "U16": ("<u2", 2), "U32": ("<u4", 4), "I8": ("i1", 1), "I16": ("<i2", 2),
           "F16": ("<f2", 2), "F32": ("<f4", 4)}  # fmt: skip


def _unpacked(data: bytes) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(tensors, metadata) of safetensors bytes, read as strictly as they are written: tensors follow one another to
    the end, and the one metadata key holds canonical JSON. Raises ValueError, KeyError, TypeError."""
    header, start = _header(data)
    metadata = _metadata(header)
    buffer = bytearray(data)  # arrays of it may be written to, which torch asks for
    tensors: dict[str, np.ndarray] = {}
    at = 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        (dtype, width), shape = _DTYPES[entry["dtype"]], entry["shape"]
        count = math.prod(shape)
        whole = all(type(n) is int for n in (*shape, *entry["data_offsets"])) and len(shape) > 0 < count <= len(data)
        if not whole or entry["data_offsets"] != [at, at + count * width]:
            raise ValueError(f"tensor {name[:40]!r} does not follow the one before")
        tensors[name] = np.frombuffer(buffer, dtype, count, start + at).reshape(shape)
        at += count * width
    if start + at != len(data):
        raise ValueError("something behind the last tensor")
    return tensors, metadata


def _header(data: bytes) -> tuple[dict[str, Any], int]:
    """(the JSON before the tensors, where they begin) of safetensors bytes."""
    length = int.from_bytes(data[:8], "little")
    if length > min(LARGEST_HEADER, len(data) - 8):
        raise ValueError(f"a header of {length} bytes")
    if data[8:9] != b"{":
        raise ValueError("a header that is no table")
    return strict_json(data[8 : 8 + length]), 8 + length


def _metadata(header: dict[str, Any]) -> dict[str, Any]:
    """Takes the metadata out of a header: one key, `ddkit`, with a canonical JSON table."""
    entry = header.pop("__metadata__")
    if set(entry) != {"ddkit"}:
        raise ValueError(f"metadata keys {sorted(entry)!r:.80}")
    try:
        metadata = json.loads(entry["ddkit"])
        if not isinstance(metadata, dict) or canonical(metadata, indent=None) != entry["ddkit"]:
            raise ValueError("metadata that is no canonical JSON table")  # a key twice, NaN, blanks
    except RecursionError as error:
        raise ValueError("metadata that is nested too deeply") from error
    return metadata


def read_metadata(data: bytes) -> dict[str, Any]:
    """The JSON under `__metadata__.ddkit` of safetensors bytes. Raises ValueError, KeyError, TypeError."""
    return _metadata(_header(data)[0])
