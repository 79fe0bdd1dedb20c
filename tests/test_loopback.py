"""The loopback Hub answers the real clients as the Hub does, and its faults reach them."""

from __future__ import annotations

import io
import random
import tarfile
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants
from huggingface_hub import errors as hf
from loopback import Fault, Hub, Repo, User, schedule

# httpx2 says so at every PUT of an LFS object by huggingface_hub.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

ID = "ann/digits"
LARGE = random.Random(0).randbytes(3_000_000)
FILES = {"README.md": b"---\nlicense: mit\n---\n", "data/large.tar": LARGE}
FILES |= {f"data/{i}.{'tar' if i % 2 else 'json'}": b"%d\n" % i for i in range(38)}


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> HfApi:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client's back-off
    return HfApi(token="write-token")


@pytest.fixture
def repo(hub: Hub) -> Repo:
    return hub.add_repo("dataset", ID)


def push(api: HfApi, files: dict[str, bytes], **how: object) -> str:
    operations = [CommitOperationAdd(path, data) for path, data in files.items()]
    return api.create_commit(ID, operations, commit_message="push", repo_type="dataset", **how).oid


@pytest.mark.parametrize("xet", [False, True])
def test_a_push_is_one_commit_and_done_again_none(hub, api, monkeypatch, xet):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", not xet)
    for _ in range(2):
        api.create_repo(ID, repo_type="dataset", exist_ok=True)
    repo = hub.repos["dataset", ID]
    head = api.dataset_info(ID).sha
    oid = push(api, FILES, parent_commit=head)
    assert repo.head() == oid and {path: repo.read(path) for path in FILES} == FILES
    assert (hub.received_bytes > len(LARGE)) != xet
    assert push(api, FILES) == oid and len(repo.commits()) == 2
    with pytest.raises(hf.HfHubHTTPError, match="412"):
        push(api, {"late.md": b"late"}, parent_commit=head)


def test_refs_deletions_and_pull_requests(api, repo):
    first = push(api, FILES)
    api.create_tag(ID, tag="v1", revision=first, repo_type="dataset")
    with pytest.raises(hf.HfHubHTTPError, match="409"):
        api.create_tag(ID, tag="v1", repo_type="dataset")
    api.create_branch(ID, branch="try/it", repo_type="dataset")
    push(api, {"try.md": b"try"}, revision="try/it")
    api.create_commit(ID, [CommitOperationDelete("data/")], commit_message="empty", repo_type="dataset")
    assert {*repo.files()} == {".gitattributes", "README.md"} and {*repo.files("try/it")} > {*repo.files("v1")}
    push(api, {"a.tar": b"a"}, create_pr=True)
    assert api.create_pull_request(ID, title="b", repo_type="dataset").git_reference == "refs/pr/2"
    push(api, {"b.tar": b"b"}, revision="refs/pr/2")
    api.change_discussion_status(ID, 2, "open", repo_type="dataset")
    for num in (1, 2):
        assert "b.tar" not in repo.files()
        api.merge_pull_request(ID, num, repo_type="dataset")
    assert {*repo.files()} == {".gitattributes", "README.md", "a.tar", "b.tar"}


def test_parts_pages_and_checksums(hub, api, repo, tmp_path):
    hub.multipart_above, hub.page_size = 1_000_000, 7
    additions = [CommitOperationAdd(path, data) for path, data in FILES.items()]
    api.preupload_lfs_files(ID, additions, repo_type="dataset")
    hub.forget_traffic()
    api.create_commit(ID, additions, commit_message="push", repo_type="dataset")
    assert hub.received_bytes == 0
    for damaged in ([], ["data/large.tar"]):
        folder = tmp_path / str(len(damaged))
        api.snapshot_download(ID, repo_type="dataset", local_dir=folder)
        seen = api.verify_repo_checksums(ID, repo_type="dataset", local_dir=folder)
        assert seen.checked_count == len(FILES) + 1 and [bad["path"] for bad in seen.mismatches] == damaged
        hub.flip_bit("dataset", ID, "data/large.tar", 1000)


def test_who_may_do_what(hub, api, repo, tmp_path):
    hub.add_repo("dataset", "ann/secret", {"a.md": b"a"}, private=True)
    gated = hub.add_repo("model", "ann/gated", {"a.md": b"a"}, gated=True)
    for token in (False, "unknown", "other-token"):
        with pytest.raises(hf.RepositoryNotFoundError):
            HfApi(token=token).dataset_info("ann/secret")
        with pytest.raises(hf.GatedRepoError):
            HfApi(token=token).hf_hub_download("ann/gated", "a.md", cache_dir=tmp_path)
    gated.granted.add("bob")
    HfApi(token="other-token").hf_hub_download("ann/gated", "a.md", cache_dir=tmp_path)
    for token, status in {False: "401", "unknown": "401", "read-token": "403", "other-token": "403"}.items():
        with pytest.raises(hf.HfHubHTTPError, match=status):
            push(HfApi(token=token), {"a.md": b"a"})
    hub.users["write-token"] = User("ann", quota_bytes=1000)
    with pytest.raises(ValueError, match="quota exceeded"):
        push(api, {"a.tar": bytes(1001)})


def test_a_pointer_without_its_bytes_is_refused(api, repo):
    ghost = CommitOperationAdd("ghost.tar", b"ghost")
    ghost._upload_mode, ghost._is_uploaded = "lfs", True
    with pytest.raises(hf.BadRequestError):
        api.create_commit(ID, [ghost], commit_message="push", repo_type="dataset")


@pytest.mark.parametrize("kind", ["429", "500", "502", "503", "504", "reset", "stall", "truncated"])
def test_what_the_client_gets_over(hub, api, repo, tmp_path, kind):
    hub.stall_s = 0.05
    hub.faults = [Fault(kind, r"^PUT /storage/" if kind != "truncated" else r"^GET .*/resolve/")]
    push(api, {"a.tar": b"a" * 1000})
    path = api.hf_hub_download(ID, "a.tar", repo_type="dataset", cache_dir=tmp_path)
    assert Path(path).read_bytes() == b"a" * 1000 and hub.faults[0].seen > 1


FATAL = {"503": hf.HfHubHTTPError, "reset": httpx2.TransportError, "stall": httpx2.TransportError}
FATAL |= {"expired-token": hf.HfHubHTTPError, "stale-parent": hf.HfHubHTTPError, "lost-response": httpx2.TransportError}


@pytest.mark.parametrize("kind", [*FATAL, "wrong-hash"])
def test_what_the_client_reports(hub, api, repo, kind):
    hub.stall_s = 0.05
    hub.faults = [Fault(kind, r"^PUT /storage/" if kind == "wrong-hash" else r"^POST .*/commit/main")]
    with pytest.raises(FATAL.get(kind, RuntimeError)):
        push(api, {"a.tar": b"a"}, parent_commit=repo.head())
    assert ("a.tar" in repo.files()) == (kind == "lost-response")
    assert push(api, {"a.tar": b"a"}) == repo.head() and repo.read("a.tar") == b"a"


def test_datasets_loads_and_streams(hub, api, tmp_path):
    import datasets

    def shard(keys: range) -> bytes:
        with tarfile.open(fileobj=(file := io.BytesIO()), mode="w") as tar:
            for key in keys:
                member = tarfile.TarInfo(f"{key:05}.cls")
                member.size = 1
                tar.addfile(member, io.BytesIO(b"%d" % key))
        return file.getvalue()

    card = b"---\nconfigs:\n- config_name: all\n  data_files: data/*.tar\n---\n"
    hub.add_repo("dataset", ID, {"README.md": card, "data/0.tar": shard(range(5)), "data/1.tar": shard(range(5, 9))})
    for streaming in (False, True):
        rows = datasets.load_dataset(ID, split="train", streaming=streaming, cache_dir=str(tmp_path))
        assert [row["__key__"] for row in rows] == [f"{key:05}" for key in range(9)]


def test_the_watch_sees_every_state_and_schedules_repeat(hub, api):
    hub.watch = lambda hub: 1 / (("dataset", ID) not in hub.repos)
    api.create_repo(ID, repo_type="dataset")
    assert [line.split(":")[0] for line in hub.violations] == ["POST /api/repos/create"]
    hub.violations.clear()
    assert all(1 <= len(schedule(seed, xet)) <= 6 for seed in range(50) for xet in (False, True))
    assert schedule(3, False) == schedule(3, False) != schedule(4, False)
