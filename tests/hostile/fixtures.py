"""What the hostile cases share: a process that forks itself for each command, and a place with something precious."""

import pytest

from hostile import servers
from hostile.harness import Runner


@pytest.fixture(scope="session")
def runner(tmp_path_factory):
    """Its Hub is the hostile server, and its home a folder of its own."""
    home = tmp_path_factory.mktemp("home")
    server = servers.Server()
    made = Runner(
        HF_ENDPOINT=server.url, HF_HOME=str(home / "hf"), HF_TOKEN="write-token", HF_HUB_DISABLE_XET="1",
        HF_HUB_DOWNLOAD_TIMEOUT="1", DDKIT_CACHE=str(home / "ddkit"),
    )  # fmt: skip
    made.home = home
    yield made
    made.stop()
    server.stop()


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
