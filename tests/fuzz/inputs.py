"""Valid inputs of the targets, written by ddkit itself or by the library whose files it reads. All small."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from hostile.sets import content_hash
from PIL import Image

from ddkit.core.files import SEAL, write_sealed
from ddkit.core.serialization import canonical
from ddkit.engine.units import UnitFile
from ddkit.format.codecs.interface import centred
from ddkit.format.codecs.registry import LabelDecoder, find_codec
from ddkit.format.entries import LabelFile
from ddkit.format.label_file import CARRIED_TEACHER, SHARED_LABELS, write_shared
from ddkit.format.manifest import Manifest, self_hash
from ddkit.format.manifest_file import read_manifest
from ddkit.format.row_format import RowFormat
from ddkit.format.row_records import member, parse_rows
from ddkit.format.views_member import DecodedRow, pack_views, save_tensors
from ddkit.networks.checkpoints import read_weights
from ddkit.pipeline.record import RECORD, find_record
from ddkit.sources.packed import pack_split, write_index
from ddkit.testing import untrained_teacher
from fuzz.mutations import joined, zipped

OLD = Path(__file__).parent.parent / "golden" / "rded"  # 10 classes, 32 px, 4 views, patches, CutMix, fp16
CODECS = ("fp16", "int8", "topk:3", "lowrank:4", "lowrank:5:i4+top2", "lowrank:3:f16", "sampled:9", "teacher")


@functools.cache
def golden() -> Manifest:
    """The set whose parts are mutated."""
    return read_manifest(OLD)


@functools.cache
def shard() -> tuple[bytes, bytes]:
    """Tar and row records of its first shard."""
    entry = golden().shards[0]
    return (OLD / entry.path).read_bytes(), (OLD / entry.rows_path).read_bytes()


@functools.cache
def rows() -> tuple[DecodedRow, ...]:
    """The decoded rows of that shard."""
    tar, records = shard()
    form = RowFormat.of(golden())
    return tuple(form.unpack(member(tar, record.views), "") for record in parse_rows(records, ""))


def first_image() -> bytes:
    """Its first image, a PNG."""
    tar, records = shard()
    return member(tar, parse_rows(records, "")[0].image)


# ------------------------------------------------------------------ a set's labels in every codec


def with_codec(name: str, mix: str = "cutmix") -> Manifest:
    """The manifest with labels of another codec."""
    codec, file = find_codec(name), None
    if codec.FROM_PIXELS:
        file = LabelFile(path=CARRIED_TEACHER, bytes=3_000_000, sha256="0" * 64)
    elif codec.shared_layout(10):
        file = LabelFile(path=SHARED_LABELS, bytes=400, sha256="0" * 64)
    made = golden().changed(labels=replace(golden().labels, codec=name, file=file))
    return made.changed(views=replace(made.views, mix=mix))


@functools.cache
def decoder(name: str) -> LabelDecoder:
    """The decoder of a codec, fitted to the shard's own logits."""
    logits = np.concatenate([centred(row.labels["logits"]) for row in rows()])
    codec = find_codec(name)
    return LabelDecoder(codec, 10, codec.prepared(codec.fit(logits)))


def views_member(name: str, mix: str = "cutmix") -> bytes:
    """The views member of the first row with labels of a codec."""
    row, known = rows()[0], decoder(name)
    tensors = row.views.tensors()
    if mix != "cutmix":
        del tensors["mix_box"]
    if mix == "none":
        del tensors["partner"]
    if mix == "mixup":
        tensors["mix_lam"] = np.where(tensors["partner"] == 65535, 1, 0.25).astype(np.float32)
    logits = centred(row.labels["logits"])
    labels = known.codec.encode(logits, known.shared, np.random.default_rng(0))
    classes = 10 if known.codec.NAMES_CLASSES else None
    return pack_views(type(row.views)(**tensors), labels, replace(row.metadata, codec=name, classes=classes))


def label_file(name: str) -> bytes:
    """The bytes of a `labels.safetensors`."""
    shared = {key: array.astype(np.float16) for key, array in decoder(name).shared.items()}
    with TemporaryDirectory() as folder:
        write_shared(Path(folder), find_codec(name), shared)
        return (Path(folder) / SHARED_LABELS).read_bytes()


@functools.cache
def checkpoint() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Metadata and weights of a tiny network; the metadata lacks its own hash, so that it can be changed."""
    with TemporaryDirectory() as folder:
        path = untrained_teacher(Path(folder) / "t.safetensors", arch="timm:test_efficientnet", classes=3)
        weights, metadata = read_weights(path)
    del metadata["sha256"]
    return metadata, {name: tensor.numpy() for name, tensor in weights.items()}


def checkpoint_edits() -> bytes:
    """Metadata of a checkpoint, and tensors that take the place of some of its own."""
    metadata, weights = checkpoint()
    some = {name: weights[name] for name in sorted(weights, key=lambda name: weights[name].size)[:4]}
    return joined(canonical(metadata).encode(), save_tensors(some))


# ------------------------------------------------------------------ hashes made true


def true_manifest(data: Any) -> Any:
    """The JSON of a manifest with its own hashes."""
    with contextlib.suppress(KeyError, TypeError, AttributeError):
        data["content"] = content_hash(data)
    return data | {"self": self_hash(data)}


def sealed(payload: bytes, key: str = "k") -> bytes:
    """The bytes of a sealed file."""
    digest = hashlib.sha256(key.encode() + b"\n" + payload).hexdigest()
    return f"{SEAL} {digest} {key}\n".encode() + payload


def unsealed(data: bytes) -> bytes:
    """The payload of a sealed file."""
    return data.partition(b"\n")[2]


def unit() -> bytes:
    """The bytes of a unit's result."""
    with TemporaryDirectory() as folder:
        file = UnitFile(Path(folder) / "x.unit", "k")
        file.write({"images": np.zeros((1, 3, 2, 2), np.uint8), "losses": np.ones(2, np.float32)}, {"seconds": 1.5})
        return file.path.read_bytes()


def sealed_json(value: Any) -> bytes:
    """The bytes of a sealed JSON value."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "x"
        write_sealed(path, canonical(value).encode(), "-")
        return path.read_bytes()


# ------------------------------------------------------------------ images


def image(form: str, mode: str = "RGB", side: int = 32, **options: Any) -> bytes:
    """An image of noise in a format of Pillow."""
    pixels = np.random.default_rng(1).integers(0, 256, (side, side, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, form, **options)
    return buffer.getvalue()


def turned() -> Image.Exif:
    """EXIF data with an orientation."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


# ------------------------------------------------------------------ sources


def tar(suffix: str = ".cls") -> bytes:
    """A tar of four images with their classes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for i in range(4):
            for name, data in ((f"{i:03d}.png", image("PNG", side=4)), (f"{i:03d}{suffix}", str(i % 2).encode())):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def zip_source() -> bytes:
    """A zip of class folders."""
    return zipped([(f"{i % 2}/{i}.png", image("PNG", side=4)) for i in range(4)])


def parquet() -> bytes:
    """A table of four images with their classes."""
    import pyarrow
    from pyarrow import parquet as files

    cells = pyarrow.array([{"bytes": image("PNG", side=4), "path": f"{i}.png"} for i in range(4)])
    buffer = io.BytesIO()
    files.write_table(pyarrow.table({"image": cells, "label": pyarrow.array([0, 1, 0, 1])}), buffer)
    return buffer.getvalue()


def exported() -> bytes:
    """An exported source: `source.json`, row records and tar."""
    with TemporaryDirectory() as folder:
        root = Path(folder)
        entries = pack_split(root, "train", [(image("PNG", side=4), i % 2) for i in range(3)])
        write_index(root, [{"name": "a", "id": None}, {"name": "b", "id": None}], {"train": entries})
        paths = ("source.json", "data/train-00000.tar.rows", "data/train-00000.tar")
        return joined(*((root / path).read_bytes() for path in paths))


def published(mix: str = "cutmix") -> bytes:
    """Published labels of a batch of four, as `torch.save` writes them."""
    crops = torch.tensor([[0.0, 0.0, 0.5, 0.5]] * 4)
    region = [np.int64(1), np.int64(2), np.int64(9), np.int64(20)] if mix == "cutmix" else None
    partners = None if mix == "none" else torch.tensor([1, 0, 3, 2])
    parts = [crops, torch.tensor([True, False, True, False]), partners, 0.3, region, torch.ones(4, 3).half()]
    buffer = io.BytesIO()
    torch.save(parts, buffer)
    return buffer.getvalue()


def hub_answers() -> bytes:
    """What the Hub says of a repository: headers of its answers, the repository, its files."""
    sha = "0123456789abcdef0123456789abcdef01234567"
    headers = {"status": 200, "ETag": '"abcdef"', "X-Repo-Commit": sha, "Link": "", "ratelimit": '"api";r=9;t=0'}
    lfs = {"oid": "a" * 64, "size": 7, "pointerSize": 120}
    entries = [
        {"type": "file", "oid": "b" * 40, "size": 3, "path": "ddkit.json"},
        {"type": "directory", "oid": "c" * 40, "path": "data"},
        {"type": "file", "oid": "b" * 40, "size": 7, "path": "data/a.tar", "lfs": lfs},
    ]
    info = {
        "id": "evil/x",
        "sha": sha,
        "private": False,
        "tags": [],
        "siblings": [{"rfilename": "ddkit.json"}],
        "cardData": {},
        "lastModified": "2024-01-01T00:00:00.000Z",
        "downloads": 1,
        "likes": 0,
        "disabled": False,
        "gated": False,
    }
    return joined(*(json.dumps(part).encode() for part in (headers, info, entries)))


def record() -> bytes:
    """An OUT.work/run.json that came with somebody's set."""
    found = find_record(OLD)
    assert found is not None
    with TemporaryDirectory() as folder:
        found.save(Path(folder))
        data = json.loads((Path(folder) / RECORD).read_bytes())
    del data["signature"]  # of this user
    return canonical(data).encode()


def protocol_files() -> list[bytes]:
    """Two shipped protocols and a recipe."""
    package = Path(__import__("ddkit").__file__).parent
    return [
        (package / name).read_bytes()
        for name in ("protocols/cudd.toml", "protocols/demo.toml", "recipes/rded-digits.toml")
    ]


def protocol_in_manifest() -> bytes:
    """A manifest that defines its own protocol."""
    data = golden().to_json()
    tables = {"views": {"scale": ["1/factor", 1], "mix": "cutmix"}, "train": {"epochs": 5, "batch_from": [2, 4]}}
    more = {"ipc": {"10": {"train": {"lr": 0.1}}}, "arch": {"res*": {"train": {"lr": 0.2}}}}
    more |= {"dataset": {"x": {"views": {"flip": 0}, "ipc": {"1": {"train": {"epochs": 3}}}}}}
    data["recommended"] |= {"protocol": "own", "definition": {"name": "own", **tables, **more}}
    data["views"]["protocol"] = "own"
    return (canonical(true_manifest(data)) + "\n").encode()


def cards() -> list[bytes]:
    """The card of a set, one of a user, and front matter alone."""
    return [
        (OLD / "README.md").read_bytes(),
        b"---\nlicense: [mit, other]\ntags:\n- a\n- &x b\n- *x\nsize: 1.5\nwhen: 2024-01-02\n---\n# A set\n\ntext\n",
        b"---\nconfigs:\n- {config_name: default, data_files: [{split: train, path: 'data/*.tar'}]}\n---\n",
    ]


def digest(data: bytes) -> str:
    """A short name for an input."""
    return hashlib.sha256(data).hexdigest()[:12]
