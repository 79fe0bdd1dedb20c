"""Shards that are mapped are checked like shards that are read into memory."""

import shutil

import pytest
from hostile import codecs, sets

from ddkit import ReplayLoader
from ddkit.errors import DdkitError, IntegrityError
from ddkit.format.manifest_file import read_manifest
from ddkit.replay.stores.shard_files import ShardFiles

CASES = [name for name in sets.CASES if name not in sets.HARMLESS_TO_A_STUDENT]
assert set(CASES) >= codecs.ONLY_A_STUDENT


@pytest.mark.parametrize("name", [*CASES, "records_of_another_hash"])
def test_no_epoch_of_a_hostile_set_is_replayed(name, base, outside):
    root = outside / "set"
    shutil.copytree(base, root)
    sets.CASES[name](root)
    with pytest.raises(DdkitError):
        list(ReplayLoader(root, batch_size=10, store="mapped", device="cpu", prefetch=0))


def cut_off(path):
    path.write_bytes(path.read_bytes()[:-10240])


def flipped(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("change", [cut_off, flipped, lambda path: path.unlink(), lambda path: path.write_bytes(b"")])
def test_a_shard_that_changes_after_it_was_verified_is_verified_again(change, base, outside):
    manifest = read_manifest(shutil.copytree(base, outside / "set"))
    files = ShardFiles([manifest], None, None)
    files.prepare(1)
    change(manifest.root / manifest.shards[1].path)
    with pytest.raises(IntegrityError, match=manifest.shards[1].path):
        files.open(1)


def test_a_shard_that_is_only_put_in_place_again_is_opened(base, outside):
    manifest = read_manifest(shutil.copytree(base, outside / "set"))
    files = ShardFiles([manifest], None, None)
    labels, path = files.prepare(1).labels, manifest.root / manifest.shards[1].path
    shutil.copy(path, path.with_suffix(".new"))
    path.with_suffix(".new").rename(path)
    assert (files.open(1).known.labels == labels).all() and len(files.open(1).tar) == manifest.shards[1].bytes
