"""Spaces: ours alone are written to, and the page of a set that is not open to everyone is not public."""

import shutil

import pytest
from typer.testing import CliRunner

from ddkit.cli.app import app
from ddkit.errors import OptionError, Refused

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def pushed(hub, random_set, tmp_path, monkeypatch):
    """Pushes the set with options, and says how the command ended."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    root = shutil.copytree(random_set.root, tmp_path / "set")

    def run(*options):
        return CliRunner().invoke(app, ["push", str(root), "lab/set", "--license", "mit", *options])

    return run


def test_the_space_of_a_private_set_is_private(hub, pushed):
    assert pushed("--private").exit_code == 0
    assert pushed("--space", "lab/page").exit_code == 0  # later, without saying that it is private
    assert hub.repos["dataset", "lab/set"].private and hub.repos["space", "lab/page"].private
    assert "index.html" in hub.repos["space", "lab/page"].files()


def test_the_space_of_a_gated_set_is_private(hub, pushed):
    assert pushed("--gated", "manual", "--space", "lab/page").exit_code == 0
    assert not hub.repos["dataset", "lab/set"].private and hub.repos["space", "lab/page"].private
    assert pushed("--space", "lab/another").exit_code == 0 and hub.repos["space", "lab/another"].private


def test_nothing_is_sent_where_the_space_cannot_be(hub, pushed):
    for space, files, options, error, message in (
        ("not valid", None, (), OptionError, "not valid"),
        ("lab/theirs", {"README.md": b"---\nsdk: static\n---\n"}, (), Refused, "did not make"),
        ("lab/unnamed", {"index.html": b"theirs"}, (), Refused, "did not make"),
        ("lab/open", {}, ("--private",), Refused, "is public and lab/set is not open to everyone"),
        ("lab/page", None, ("--create-pr",), OptionError, "leave create_pr"),
    ):
        if files is not None:
            hub.add_repo("space", space, files)
        result = pushed("--space", space, *options)
        assert isinstance(result.exception, error) and message in str(result.exception)
        assert ("dataset", "lab/set") not in hub.repos and set(hub.repos) <= {("space", space)}
        hub.reset()


def test_a_dry_run_names_the_space_and_makes_nothing(hub, pushed):
    result = pushed("--space", "lab/page", "--dry-run")
    assert result.exit_code == 0 and "page: lab/page" in result.stdout and not hub.repos
