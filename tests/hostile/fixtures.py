"""What the hostile cases share: a process that forks itself for each command, and a place with something precious."""

import pytest

from hostile.harness import Runner


@pytest.fixture(scope="session")
def runner():
    made = Runner()
    yield made
    made.stop()


@pytest.fixture(scope="session")
def base(rded_set, tmp_path_factory):
    """A set without its OUT.work."""
    return rded_set.root


@pytest.fixture
def outside(tmp_path):
    """A folder beside the set, with a secret that nobody may read into anything, change or delete."""
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "secret.txt").write_text("the secret\n")
    return tmp_path
