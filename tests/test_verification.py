"""A set that was damaged is refused, and the damage is named."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from hostile.sets import content_hash

from ddkit.core.serialization import canonical
from ddkit.errors import FormatVersion, IntegrityError, SetError
from ddkit.format.manifest import self_hash
from ddkit.format.manifest_file import read_manifest, write_manifest
from ddkit.format.row_records import parse_rows
from ddkit.format.verification import directory_problems, stale_files
from ddkit.replay.loader import ReplayLoader


@pytest.fixture
def copy(rded_set, tmp_path):
    return read_manifest(shutil.copytree(rded_set.root, tmp_path / "copy"))


def flip_bit(path, offset, bit=0):
    data = bytearray(path.read_bytes())
    data[offset] ^= 1 << bit
    path.write_bytes(data)


def refused(manifest, *words):
    problems = directory_problems(manifest.root)
    assert problems and all(word in problems[0] for word in words), problems
    with pytest.raises(IntegrityError) as error:
        ReplayLoader(manifest.root, batch_size=4)
    assert all(word in str(error.value) for word in words)


def test_an_intact_set_is_right(rded_set):
    assert directory_problems(rded_set.root) == []


@pytest.mark.parametrize("what", ["image", "views"])
def test_a_flipped_bit_is_named(copy, what):
    shard = copy.shards[1]
    records = parse_rows((copy.root / shard.rows_path).read_bytes(), "")
    record = records[7]
    place = record.image if what == "image" else record.views
    flip_bit(copy.root / shard.path, place.offset + place.length // 2)
    refused(copy, shard.path, f"{record.row:08d}", "image" if what == "image" else "views.safetensors")


def test_a_flipped_class_is_named(copy):
    shard = copy.shards[0]
    flip_bit(copy.root / shard.path, 512)
    refused(copy, "00000000", "cls")


def test_a_flipped_header_is_found(copy):
    shard = copy.shards[0]
    flip_bit(copy.root / shard.path, 120)
    refused(copy, shard.path, "header")


def test_every_flipped_bit_is_found(copy):
    shard = copy.shards[0]
    tar = copy.root / shard.path
    whole = tar.read_bytes()
    rng = np.random.default_rng(0)
    for offset in rng.integers(0, len(whole), 200):
        flip_bit(tar, int(offset), int(rng.integers(8)))
        assert directory_problems(copy.root)
        tar.write_bytes(whole)
    assert directory_problems(copy.root) == []


@pytest.mark.parametrize("keep", [0, 1, 511, 512, 5120, -1, -512])
def test_a_truncated_tar_is_named(copy, keep):
    shard = copy.shards[1]
    tar = copy.root / shard.path
    tar.write_bytes(tar.read_bytes()[:keep])
    refused(copy, shard.path, "instead of")


def test_swapped_shards_are_named(copy):
    first, second = (copy.root / shard.path for shard in copy.shards)
    a, b = first.read_bytes(), second.read_bytes()
    first.write_bytes(b)
    second.write_bytes(a)
    refused(copy, "swapped", "ipc001", "ipc003")


def test_a_deleted_row_is_named(copy):
    import tarfile

    shard = copy.shards[1]
    path = copy.root / shard.path
    with tarfile.open(path) as tar:
        members = [(info, tar.extractfile(info).read()) for info in tar.getmembers()]
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        import io

        for info, data in members:
            if not info.name.startswith("00000014."):
                tar.addfile(info, io.BytesIO(data))
    refused(copy, "row 00000014 is missing")


def test_missing_files_and_wrong_records(copy):
    shard = copy.shards[0]
    rows = copy.root / shard.rows_path
    text = rows.read_bytes()
    rows.write_bytes(text.replace(b"0", b"1", 1))
    refused(copy, "train-ipc001-00000.rows differs", "intact")
    rows.unlink()
    refused(copy, "train-ipc001-00000.rows is missing")
    rows.write_bytes(text)
    (copy.root / shard.path).unlink()
    refused(copy, f"{shard.path} is missing")


def test_the_manifest_guards_itself(copy):
    path = copy.root / "ddkit.json"
    text = path.read_text()
    path.write_text(text.replace('"ipc": 3', '"ipc": 4'))
    with pytest.raises(IntegrityError, match="changed after it was written"):
        read_manifest(copy.root)
    path.write_text(text[:-20])
    with pytest.raises(IntegrityError, match="damaged"):
        read_manifest(copy.root)
    path.write_text("[" * 100_000)
    with pytest.raises(IntegrityError, match="damaged"):
        read_manifest(copy.root)


def test_a_newer_format_is_refused_with_the_upgrade(copy):
    path = copy.root / "ddkit.json"
    data = json.loads(path.read_text()) | {"format": 3}
    path.write_text(canonical(data | {"self": self_hash(data)}))
    with pytest.raises(FormatVersion, match="format 3.*pip install -U ddkit"):
        read_manifest(copy.root)


def test_a_path_outside_the_set_is_refused(copy):
    data = json.loads((copy.root / "ddkit.json").read_text())
    data["shards"][0]["path"] = "../../etc/passwd"
    (copy.root / "ddkit.json").write_text(canonical(data | {"self": self_hash(data)}))
    with pytest.raises(IntegrityError, match="shards.0..path is"):
        read_manifest(copy.root)


def test_what_is_no_set(tmp_path):
    with pytest.raises(SetError, match="no directory"):
        read_manifest(tmp_path / "nothing")
    with pytest.raises(SetError, match="ddkit distill"):
        read_manifest(tmp_path)
    (tmp_path / "half").mkdir()
    (tmp_path / "half.work").mkdir()
    with pytest.raises(SetError, match="again to finish it"):
        read_manifest(tmp_path / "half")


def test_a_card_of_another_content_is_told_without_failing(copy):
    assert stale_files(copy) == []
    (copy.root / "README.md").write_text("my own")
    (copy.root / "_info.json").unlink()
    assert stale_files(copy) == ["README.md", "_info.json"] and directory_problems(copy.root) == []


# Every key that docs/format.md gives `ddkit.json`: a set that ddkit writes has them all, and no others.
KEYS = {
    *("format", "self", "content", "name", "created_by", "install", "repo", "license", "classes", "ipc", "image"),
    *("image_tars", "views", "normalisation", "eval", "labels", "method", "recipe", "seed", "fingerprint"),
    *("prefixes", "shard_rows", "recommended", "real_pixels", "log", "cost", "devices", "source", "teachers"),
    *("shards", "relabelled_from", "subset_of", "results"),
}


def test_manifest_keys_and_hashes(copy):
    data = json.loads((copy.root / "ddkit.json").read_text())
    assert set(data) == KEYS and data["content"] == content_hash(data) == copy.content
    again = write_manifest(copy.root, copy.changed(results=(), cost=replace(copy.cost, recover=99.0)))
    text = (copy.root / "ddkit.json").read_text()
    assert again.content == data["content"] and json.loads(text)["self"] != data["self"]
    assert json.loads(text)["cost"]["recover"] == 99
    assert text == canonical(json.loads(text)) + "\n" and text.startswith("{\n  ")
    assert copy.rows() == 30 and copy.rows(1) == 10 and copy.prefixes == (1, 3)
    with pytest.raises(SetError, match="it has 1, 3"):
        copy.shards_of(2)
