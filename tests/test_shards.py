"""The published bytes: pinned literally, and stable."""

import hashlib
import io
import json
import tarfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddkit.errors import IntegrityError
from ddkit.format.codecs.registry import find_codec
from ddkit.format.entries import Origin, RowMetadata, shard_path, shard_rows, shard_sizes
from ddkit.format.images import decode_image, encode_image
from ddkit.format.row_records import member, parse_rows
from ddkit.format.shards import Sample, write_shard
from ddkit.format.views import Views
from ddkit.format.views_member import pack_views, unpack_views


def blob():
    views = Views(
        box=np.array([[[0, 1, 2, 3], [4, 5, 6, 7]]], np.uint8),
        flip=np.array([[0, 1]], np.uint8),
        partner=np.array([[1, 65535]], np.uint16),
        mix_box=np.array([[[0, 0, 1, 1], [0, 0, 0, 0]]], np.uint8),
    )
    labels = {"logits": np.array([[1.0, -1.0], [0.5, -0.5]], np.float16)}
    metadata = RowMetadata(
        codec="fp16", first=0, size=8, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), stage=1, rank=0,
        origin=Origin(kind="real", rows=(3,)),
    )  # fmt: skip
    return pack_views(views, labels, metadata), views, labels


VIEWS_HEADER = (
    b'{"__metadata__":{"ddkit":"{\\"codec\\":\\"fp16\\",\\"first\\":0,\\"format\\":1,\\"mean\\":[0.5,0.5,0.5],'
    b'\\"origin\\":{\\"kind\\":\\"real\\",\\"rows\\":[3]},\\"rank\\":0,\\"size\\":8,\\"stage\\":1,\\"std\\":[0.25,0.25,0.25]}"},'
)


def test_the_views_member_is_pinned():
    data, _, _ = blob()
    length = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + length]
    assert header.startswith(VIEWS_HEADER)
    tensors = {k: v for k, v in json.loads(header).items() if k != "__metadata__"}
    assert {k: (v["dtype"], v["shape"]) for k, v in tensors.items()} == {
        "logits": ("F16", [2, 2]),
        "partner": ("U16", [2]),
        "box": ("U8", [2, 4]),
        "flip": ("U8", [2]),
        "mix_box": ("U8", [2, 4]),
    }
    body = data[8 + length :]
    start, end = tensors["logits"]["data_offsets"]
    assert body[start:end] == bytes.fromhex("003c00bc003800b8")
    start, end = tensors["partner"]["data_offsets"]
    assert body[start:end] == bytes.fromhex("0100ffff")


def test_the_shard_is_pinned(tmp_path):
    data, _, _ = blob()
    samples = [Sample(5, 1, b"image-bytes", data), Sample(6, 0, b"other", data)]
    entry = write_shard(tmp_path, "data/train-ipc002-00000.tar", 2, samples)
    raw = (tmp_path / entry.path).read_bytes()
    assert len(raw) == entry.bytes == 10240 and hashlib.sha256(raw).hexdigest() == entry.sha256
    name = b"00000005.cls"
    assert raw[:100] == name + bytes(100 - len(name))
    assert raw[100:148] == b"0000644\x000000000\x000000000\x0000000000001\x0000000000000\x00"
    assert raw[257:265] == b"ustar\x0000" and raw[265:329] == bytes(64)
    assert raw[512:513] == b"1"
    rows = (tmp_path / "data/train-ipc002-00000.rows").read_bytes()
    assert hashlib.sha256(rows).hexdigest() == entry.rows_sha256
    n = len(data)
    sha = hashlib.sha256
    assert rows.decode().splitlines()[0].split("\t") == [
        "00000005", "1", "1536", "11", sha(b"image-bytes").hexdigest(), "2560", str(n), sha(data).hexdigest(),
    ]  # fmt: skip
    with tarfile.open(tmp_path / entry.path) as tar:
        assert tar.getnames() == [
            f"0000000{row}.{part}" for row in (5, 6) for part in ("cls", "png", "views.safetensors")
        ]
    again = write_shard(tmp_path / "again", "data/train-ipc002-00000.tar", 2, samples)
    assert again == entry


def test_rows_say_where_the_members_are(tmp_path):
    data, _, _ = blob()
    samples = [Sample(i, i % 3, bytes([i]) * (100 * i + 1), data) for i in range(7)]
    entry = write_shard(tmp_path, "data/train-ipc001-00000.tar", 1, samples)
    raw = (tmp_path / entry.path).read_bytes()
    records = parse_rows((tmp_path / "data/train-ipc001-00000.rows").read_bytes(), "rows")
    for sample, record in zip(samples, records):
        assert (record.row, record.label) == (sample.row, sample.label)
        assert member(raw, record.image) == sample.image and member(raw, record.views) == sample.views


def test_views_come_back():
    data, views, labels = blob()
    row = unpack_views(data, find_codec("fp16"), "x")
    assert all((a == row.views.tensors()[name]).all() for name, a in views.tensors().items())
    assert (row.labels["logits"] == labels["logits"]).all()
    assert row.metadata["origin"] == {"kind": "real", "rows": [3]}


@given(st.binary(max_size=60))
def test_rubbish_is_refused(data):
    with pytest.raises(IntegrityError, match="row 3"):
        unpack_views(data, find_codec("fp16"), "row 3")
    with pytest.raises(IntegrityError):
        decode_image(data, "png", "row 3")


@given(st.integers(1, 10**6), st.integers(256, 16384))
def test_shards_are_few_and_even(rows, most):
    sizes = shard_sizes(rows, most)
    assert sum(sizes) == rows and max(sizes) <= most and max(sizes) - min(sizes) <= 1
    assert sizes == sorted(sizes, reverse=True) and len(sizes) == -(-rows // most)


def test_membership_depends_on_the_image_size_alone():
    assert (shard_rows(224), shard_rows(64), shard_rows(32), shard_rows(2000)) == (1508, 8130, 11494, 256)
    assert shard_path(5, 0) == "data/train-ipc005-00000.tar"


@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 99))
def test_images_are_lossless(height, width, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (3, height, width), dtype=np.uint8)
    data = encode_image(pixels)
    assert data == encode_image(pixels) and (decode_image(data, "png", "x") == pixels).all()
    assert io.BytesIO(data).read(4) == b"\x89PNG"


def test_strided_arrays_keep_their_values():
    """A network in channels-last holds strided weights; the library alone would write their buffers."""
    from safetensors.numpy import load

    from ddkit.format.views_member import save_tensors

    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    strided = {"transposed": x.transpose(2, 0, 1), "column": x[:, :, 1], "every": x[..., ::2]}
    found = load(save_tensors(strided))
    assert all((found[name] == value).all() for name, value in strided.items())
