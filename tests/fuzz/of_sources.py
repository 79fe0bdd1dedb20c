"""Readers of sources, published labels and the Hub's answers."""

from __future__ import annotations

import contextlib
import json
import tarfile
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from ddkit.errors import HubAccess, HubError, IntegrityError, SourceError
from ddkit.sources.archives import Archive
from ddkit.sources.decoding import Unreadable, decode_rgb, image_extent
from ddkit.sources.packed import open_packed, packed_splits
from ddkit.sources.published_labels import read_batch
from ddkit.sources.tables import open_table
from ddkit.sources.tar_checks import check_tar
from fuzz import inputs, mutations
from fuzz.checking import agree, file_of, target
from fuzz.mutations import of_bytes, of_json, of_parts, or_bytes, parts_of

# ------------------------------------------------------------------ sources


@target(
    "source-image",
    Unreadable,
    mutate=or_bytes(mutations.of_png),
    inputs=lambda: [
        inputs.first_image(),
        *(inputs.image(form, side=12) for form in ("JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")),
        inputs.image("PNG", "I;16", 12),
        inputs.image("PNG", "P", 12, transparency=3),
        inputs.image("JPEG", "CMYK", 12),
        inputs.image("TIFF", "F", 12, compression="tiff_lzw"),
        inputs.image("JPEG", exif=inputs.turned(), side=12),
    ],
)
def read_source_image(data: bytes) -> None:
    pixels = decode_rgb(data)
    agree(pixels.dtype == np.uint8 and pixels.ndim == 3 and len(pixels) == 3, "pixels")
    agree(sorted(image_extent(data)) == sorted(pixels.shape[1:]), "another extent than the header's")


@target("tar", SourceError, mutate=or_bytes(mutations.of_tar, 0.1), inputs=lambda: [inputs.tar(), inputs.tar(".json")])
def read_tar(data: bytes) -> None:
    with file_of(data, "train.tar") as path:
        check_tar(path)
        with tarfile.open(path) as archive:
            agree(all(info.isreg() or info.isdir() for info in archive), "a member that is no file")


@target("zip", SourceError, OSError, mutate=mutations.of_zip(mutations.of_png), inputs=lambda: [inputs.zip_source()])
def read_zip(data: bytes) -> None:
    with file_of(data, "images.zip") as path:
        archive = Archive([path])
        agree(len(archive.class_folders()) == len(archive.names), "classes")
        for i in range(len(archive.names)):
            with contextlib.suppress(OSError):
                archive.read(i)


@target(
    "exported",
    SourceError,
    IntegrityError,
    mutate=of_parts(of_json(), of_bytes, of_bytes),
    inputs=lambda: [inputs.exported()],
)
def read_exported(data: bytes) -> None:
    index, lines, tar = parts_of(data, 3)
    with file_of(index, "source.json") as path:
        (path.parent / "data").mkdir()
        (path.parent / "data" / "train-00000.tar").write_bytes(tar)
        (path.parent / "data" / "train-00000.tar.rows").write_bytes(lines)
        for split in packed_splits(path.parent):
            found = open_packed(path.parent, split)
            agree(
                len(found.labels) == len(found.places) and all(0 <= n < len(found.names) for n in found.labels),
                "labels",
            )
            for i in range(len(found.labels)):
                found.raw(i)


@target(
    "torch-list",
    SourceError,
    mutate=mutations.of_zip(mutations.of_pickle),
    inputs=lambda: [inputs.published(mix) for mix in ("cutmix", "mixup", "none")],
)
def read_torch_file(data: bytes) -> None:
    batch = read_batch(data, "epoch_0/batch_0.tar")
    agree(bool(np.isfinite(batch.logits).all()) and len(batch.partners) == len(batch), "labels")
    boxes = batch.boxes(32, 32)
    agree(bool((boxes >= 0).all() and (boxes[:, :2] + boxes[:, 2:] <= 32).all()), "crops outside the image")


def _table(data: bytes, name: str) -> None:
    """A table, as `distill --data` opens it; `datasets` keeps nothing of it."""
    import datasets

    with file_of(data, name) as path, tempfile.TemporaryDirectory() as cache:
        before, datasets.config.HF_DATASETS_CACHE = datasets.config.HF_DATASETS_CACHE, cache
        try:
            table = open_table(str(path), "train")
            for i in range(min(len(table.labels), 8)):
                with contextlib.suppress(OSError, Unreadable):
                    decode_rgb(bytes(table.raw(i)))
        finally:
            datasets.config.HF_DATASETS_CACHE = before


@target("parquet", SourceError, mutate=of_bytes, inputs=lambda: [inputs.parquet()], weight=1.5)
def read_parquet(data: bytes) -> None:
    _table(data, "train.parquet")


@target("webdataset", SourceError, mutate=or_bytes(mutations.of_tar, 0.1), inputs=lambda: [inputs.tar()], weight=1.5)
def read_webdataset(data: bytes) -> None:
    _table(data, "train.tar")


# ------------------------------------------------------------------ the Hub


@contextlib.contextmanager
def answering(headers: dict[str, Any], info: bytes, entries: bytes) -> Iterator[None]:
    """The client meets these answers instead of a network, and waits for nothing."""
    import httpx2
    from huggingface_hub.utils import get_session

    import ddkit.hub.retries

    ddkit.hub.retries.api()
    status = headers.pop("status", 200)
    kept = {str(k): str(v) for k, v in headers.items()}
    pages = iter(range(5))

    def answer(request: httpx2.Request) -> httpx2.Response:
        if next(pages, None) is None:
            raise httpx2.ReadTimeout("enough")
        return httpx2.Response(status, headers=kept, content=entries if "/tree/" in request.url.path else info)

    session, sleep = get_session(), time.sleep
    transport, session._transport, time.sleep = session._transport, httpx2.MockTransport(answer), lambda seconds: None
    try:
        yield
    finally:
        session._transport, time.sleep = transport, sleep


@target(
    "hub", HubError, HubAccess, mutate=of_parts(of_json(), of_json(), of_json()), inputs=lambda: [inputs.hub_answers()]
)
def read_hub(data: bytes) -> None:
    from ddkit import hub

    headers, info, entries = parts_of(data, 3)
    try:
        said = json.loads(headers)
        said = {k.encode("ascii").decode(): str(v).encode("latin1").decode("latin1") for k, v in said.items()}
        said["status"] = min(max(int(said.get("status", 200)), 200), 599)
        if any(not k or set(k + v) & set("\r\n\0") for k, v in said.items() if isinstance(v, str)):
            return
    except (ValueError, AttributeError, RecursionError):
        return  # headers that no server can send
    with answering(said, info, entries):
        found = hub.remote("evil/x")
        for path, file in found.files.items():
            agree(
                isinstance(path, str) and type(file.size) is int and file.size >= 0 and isinstance(file.blob, str),
                "a file of no size",
            )
            agree(file.sha256 is None or isinstance(file.sha256, str), "a hash that is no text")
