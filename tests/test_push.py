"""Push against a Hub on loopback, through the real client: one commit, again, grown, refused, and under faults."""

import json
import shutil
from pathlib import Path

import loopback
import pytest
from huggingface_hub import constants

from ddkit.errors import HubAccess, HubError, IntegrityError, OptionError, Refused
from ddkit.format.manifest import Manifest, read_manifest, write_manifest
from ddkit.pipeline import distill
from ddkit.publishing import push as pushing
from ddkit.publishing.push import push

# httpx2 warns of the body that huggingface_hub gives it for every large file
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:httpx2")


@pytest.fixture(params=["lfs", "xet"])
def way(request, monkeypatch, hub):
    """Both ways of sending large files."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", request.param == "lfs")
    return request.param


@pytest.fixture
def mine(random_set, tmp_path) -> Path:
    return Path(shutil.copytree(random_set.root, tmp_path / "mine"))


def on_hub(hub, repo="lab/digits", revision="main"):
    return hub.repos["dataset", repo].files(revision)


def test_what_is_pushed_is_the_directory(hub, way, mine):
    done = push(mine, "lab/digits", license="mit")
    repo = hub.repos["dataset", "lab/digits"]
    files = {str(p.relative_to(mine)) for p in mine.rglob("*") if p.is_file()}
    assert set(repo.files()) - {".gitattributes"} == files
    assert all(repo.read(name) == (mine / name).read_bytes() for name in files)
    assert read_manifest(mine).data["repo"] == "lab/digits" and read_manifest(mine).data["license"]["id"] == "mit"
    assert done.tag in repo.tags and repo.tags[done.tag] == done.commit == repo.head()


def test_pushing_again_sends_nothing(hub, way, mine):
    first = push(mine, "lab/digits", license="mit")
    hub.forget_traffic()
    again = push(mine, "lab/digits")
    assert again.commit == first.commit and again.send == {} and hub.received_bytes == 0
    assert not any("/commit/" in request or "PUT" in request for request in hub.requests)
