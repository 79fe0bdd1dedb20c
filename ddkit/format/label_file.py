"""The file of labels that all rows of a set share: `labels.safetensors`, or the teacher itself."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from ddkit.core.files import file_sha256, write_bytes
from ddkit.core.serialization import canonical
from ddkit.errors import IntegrityError
from ddkit.format.codecs.interface import Codec
from ddkit.format.codecs.registry import LabelDecoder, find_codec
from ddkit.format.entries import FORMAT, LabelFile
from ddkit.format.manifest import Manifest
from ddkit.format.views_member import save_tensors, unpack_tensors

SHARED_LABELS: Literal["labels.safetensors"] = "labels.safetensors"
CARRIED_TEACHER: Literal["teacher.safetensors"] = "teacher.safetensors"


def write_shared(root: Path, codec: Codec, shared: Mapping[str, np.ndarray]) -> LabelFile:
    """Write `labels.safetensors` atomically and return its entry for the manifest.

    Args:
        root: Directory of the set.
        codec: The codec.
        shared: The tensors that `codec.fit` returned.

    Raises:
        DiskError: The file cannot be written.
    """
    metadata = canonical({"format": FORMAT, "codec": codec.name}, indent=None)
    data = save_tensors(shared, {"ddkit": metadata})
    write_bytes(root / SHARED_LABELS, data)
    return LabelFile(path=SHARED_LABELS, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def parse_shared(data: bytes, codec: Codec, classes: int, where: str) -> dict[str, np.ndarray]:
    """Read and validate the bytes of a `labels.safetensors`.

    Args:
        data: The bytes.
        codec: Codec of the set.
        classes: Number of classes.
        where: The file in messages.

    Raises:
        IntegrityError: The bytes are not the shared tensors of such a set.
    """
    try:
        tensors, metadata = unpack_tensors(data)
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityError(f"{where} cannot be read ({error}); fetch the set again") from error
    found = {name: (array.dtype, array.shape) for name, array in tensors.items()}
    if found != codec.shared_layout(classes) or metadata.get("codec") != codec.name:
        raise IntegrityError(f"{where} is not of codec {codec.name} and {classes} classes; fetch the set again")
    if not all(np.isfinite(array).all() for array in tensors.values()):
        raise IntegrityError(f"{where} holds numbers that are not finite; fetch the set again")
    return tensors


def label_file_problem(manifest: Manifest) -> str | None:
    """Return how the shared file of a set differs from its manifest, or None.

    Args:
        manifest: The set.
    """
    entry = manifest.labels.file
    if entry is None:
        return None
    path = manifest.root / entry.path
    if not path.is_file():
        return f"{entry.path} is missing"
    if path.stat().st_size != entry.bytes or file_sha256(path) != entry.sha256:
        return f"{entry.path} differs from the manifest"
    if entry.path == SHARED_LABELS:
        try:
            label_decoder(manifest)
        except IntegrityError as error:
            return str(error).removesuffix("; fetch the set again")
    return None


def joined_decoder(manifests: Sequence[Manifest], ipc: int | None = None) -> LabelDecoder:
    """Return the decoder of the labels of joined sets, whose rows follow one another; raises as `label_decoder`.

    Args:
        manifests: The sets, with equal classes and codecs.
        ipc: The prefix of each that is joined; None: the whole.
    """
    starts = itertools.accumulate(manifest.rows(ipc) for manifest in manifests)
    return label_decoder(manifests[0]).joined(list(zip(starts, map(label_decoder, manifests[1:]))))


def label_decoder(manifest: Manifest) -> LabelDecoder:
    """Return the decoder of a set's labels. Its shared tensors are compared with the manifest.

    Args:
        manifest: The set.

    Raises:
        FormatVersion: The codec is unknown.
        IntegrityError: `labels.safetensors` is missing or damaged.
    """
    codec, classes, entry = find_codec(manifest.labels.codec, stored=True), len(manifest.classes), manifest.labels.file
    if entry is None or codec.FROM_PIXELS:
        return LabelDecoder(codec, classes, {})
    path = manifest.root / entry.path
    if not path.is_file():
        raise IntegrityError(f"{manifest.where}: {entry.path} is missing; fetch the set again")
    data = path.read_bytes() if path.stat().st_size == entry.bytes else b""
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        raise IntegrityError(f"{manifest.where}: {entry.path} differs from the manifest; fetch the set again")
    shared = parse_shared(data, codec, classes, f"{manifest.where}: {entry.path}")
    return LabelDecoder(codec, classes, codec.prepared(shared))
