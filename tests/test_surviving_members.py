"""Members are found in damaged tars by their hashes; any bytes may be searched."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddkit.errors import IntegrityError
from ddkit.format.damage import open_shard
from ddkit.format.row_records import member
from ddkit.format.surviving_members import SurvivingMembers, find_members, records_of


@pytest.fixture(scope="module")
def shard(rded_set):
    tar, records = open_shard(rded_set, rded_set.shards[1])
    return bytes(tar), records


def test_the_records_of_an_intact_shard_are_those_of_its_file(shard):
    assert records_of(shard[0], "it") == shard[1]


@pytest.mark.parametrize("seed", range(8))
def test_every_member_whose_bytes_are_left_is_found(shard, tmp_path, seed):
    """Whole rows are moved to other places, then bytes are changed: what is intact and has a header or its place is
    found, nothing else."""
    tar, records = shard
    rng = np.random.default_rng(seed)
    starts = [record.image.offset - 3 * 512 for record in records] + [len(tar)]
    rows = [tar[a:b] for a, b in zip(starts, starts[1:])]
    moved = bytearray(b"".join(rows[i] for i in rng.permutation(len(rows))))
    for at in rng.integers(len(moved), size=5):
        moved[at] ^= 1
    (tmp_path / "moved.tar").write_bytes(moved)
    (tmp_path / "empty.tar").write_bytes(b"")
    left = SurvivingMembers([tmp_path / name for name in ("moved.tar", "empty.tar", "none.tar")], len(moved))
    places = [place for record in records for place in (record.image, record.views)]
    found = [left.find(place) for place in places]
    assert all(data in (None, member(tar, place)) for data, place in zip(found, places))
    assert 0 < sum(data is None for data in found) <= 5 or all(found)
    nowhere = replace(places[0], sha256=hashlib.sha256(b"nowhere").hexdigest())
    assert left.find(nowhere) is None


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 511), st.binary(min_size=1, max_size=20)), max_size=8))
def test_any_bytes_may_be_searched(shard, changes):
    data = bytearray(shard[0][: 40 * 512])
    for block, at, new in changes:
        data[512 * block + at : 512 * block + at + len(new)] = new
    for _, place in find_members(bytes(data)):
        assert hashlib.sha256(data[place.offset : place.offset + place.length]).hexdigest() == place.sha256
    try:
        records_of(bytes(data), "it")
    except IntegrityError as error:
        assert "\n" not in str(error)
