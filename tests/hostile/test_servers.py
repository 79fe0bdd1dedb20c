"""No server's answer leaves the client's cache, keeps a command waiting, fills memory, or takes more than a line."""

import pytest

from hostile import servers
from hostile.harness import Runner
from hostile.test_sources import refused

LONGEST_S = 20


@pytest.mark.parametrize("name", servers.MODES)
def test_a_hostile_server_is_refused(name, hub_runner, outside):
    before = hub_runner.tree(outside)
    asked = "evil/" + name
    commands = [["pull", asked, "got"], ["push", str(hub_runner.base), asked, "--license", "mit", "--dry-run"]]
    if name.startswith(("info", "pages", "waits", "drops", "etag", "commit")):
        commands.append(["distill", "out", "--data", asked, "--method", "random"])
    for told in hub_runner.run(outside, *commands):
        if told["code"] == 0:
            assert "push" in str(commands) and "files" in told["out"], told  # an odd, empty repository
            continue
        refused(told)
        assert told["seconds"] < LONGEST_S, told
    assert hub_runner.tree(outside) == before
    assert not [path for path in hub_runner.home.rglob("*evil*") if "datasets--evil" not in str(path)]


@pytest.fixture(scope="module")
def hub_runner(tmp_path_factory, base):
    """A runner whose Hub is the hostile server, with a cache of its own."""
    home = tmp_path_factory.mktemp("home")
    server = servers.Server()
    made = Runner(
        HF_ENDPOINT=server.url,
        HF_HOME=str(home / "hf"),
        HF_TOKEN="write-token",
        HF_HUB_DISABLE_XET="1",
        HF_HUB_DOWNLOAD_TIMEOUT="1",
    )
    made.home, made.base = home, base
    yield made
    made.stop()
    server.stop()
