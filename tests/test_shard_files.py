"""Shards that are mapped are checked like shards that are read into memory."""

import shutil

import pytest
from hostile import sets

from ddkit import ReplayLoader
from ddkit.errors import DdkitError

CASES = [name for name in sets.CASES if name not in sets.HARMLESS_TO_A_STUDENT]


@pytest.mark.parametrize("name", [*CASES, "records_of_another_hash"])
def test_no_epoch_of_a_hostile_set_is_replayed(name, base, outside):
    root = outside / "set"
    shutil.copytree(base, root)
    sets.CASES[name](root)
    with pytest.raises(DdkitError):
        list(ReplayLoader(root, batch_size=10, store="mapped", device="cpu", prefetch=0))
