"""No server's answer leaves the client's cache, keeps a command waiting, fills memory, or takes more than a line."""

import pytest

from hostile import servers
from hostile.test_sources import refused

LONGEST_S = 20


@pytest.mark.parametrize("name", servers.MODES)
def test_a_hostile_server_is_refused(name, runner, base, outside):
    before = runner.tree(outside)
    asked = "evil/" + name
    commands = [["pull", asked, "got"], ["push", str(base), asked, "--license", "mit", "--dry-run"]]
    if name.startswith(("info", "pages", "waits", "drops", "etag", "commit")):
        commands.append(["distill", "out", "--data", asked, "--method", "random"])
    for told in runner.run(outside, *commands):
        if told["code"] == 0:
            assert "push" in str(commands) and "files" in told["out"], told  # an odd, empty repository
            continue
        refused(told)
        assert told["seconds"] < LONGEST_S, told
    assert runner.tree(outside) == before
    assert not [path for path in runner.home.rglob("*evil*") if "datasets--evil" not in str(path)]
