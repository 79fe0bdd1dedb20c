"""Damage is seeded, never leaves a set as it was, and says which files it changed."""

import shutil

import numpy as np
import pytest

from ddkit.mutator import KINDS, ROWS, SHARDS, damage


def contents(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", KINDS)
def test_the_named_files_change_and_no_others(rded_set, tmp_path, kind):
    before, seen = contents(rded_set.root), []
    for number, seed in enumerate((0, 0, 1)):
        root = shutil.copytree(rded_set.root, tmp_path / str(number))
        done = damage(root, kind, np.random.default_rng(seed))
        after = contents(root)
        assert {path for path in before if after.get(path) != before[path]} == set(done.paths), done
        assert done.kind == kind and done.paths and any(path in done.detail for path in done.paths)
        seen.append((done, after))
    assert seen[0] == seen[1] and (seen[0] != seen[2] or kind in SHARDS)  # of two shards there is little to choose


def test_a_set_that_is_too_small_is_refused(random_set, tmp_path):
    root = shutil.copytree(random_set.root, tmp_path / "one")
    for kind in set(SHARDS) - {"deleted shard"}:
        with pytest.raises(ValueError, match="needs two"):
            damage(root, kind, np.random.default_rng(0))
    assert all(damage(shutil.copytree(root, tmp_path / kind), kind, np.random.default_rng(0)) for kind in ROWS)
    with pytest.raises(ValueError, match="unknown kind of damage 'rust'; valid: bit, byte"):
        damage(root, "rust", np.random.default_rng(0))
