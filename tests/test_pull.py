"""Pull and every other way a set is read from the Hub: by id, in part, offline, damaged, private, gated."""

import json
import shutil
from pathlib import Path

import loopback
import pytest
import torch
from hostile.sets import content_hash
from huggingface_hub import constants

from ddkit import ReplayLoader
from ddkit.errors import HubAccess, HubError, IntegrityError, OtherRun, SetError
from ddkit.evaluation.students import train
from ddkit.publishing.pulling import pull
from ddkit.publishing.pushing import push
from ddkit.sets.opening import open_manifest, open_set, verify_set

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def there(hub, rded_set, tmp_path, monkeypatch) -> str:
    """RDED's set (prefixes 1 and 3), published; a cache of its own for every test."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    copy = shutil.copytree(rded_set.root, tmp_path / "sent")
    push(copy, "lab/rded", license="mit")
    hub.forget_traffic()
    return "lab/rded"


def shards_fetched(hub) -> set[str]:
    return {Path(r).name for r in hub.requests if r.startswith("GET") and r.endswith(".tar")}


def test_pull_gives_the_directory_back(hub, there, rded_set, tmp_path):
    got = pull(there, tmp_path / "got")
    assert got.content == rded_set.content and got.repo == there
    sent = tmp_path / "sent"
    for path in (p for p in sent.rglob("*") if p.is_file()):
        assert (tmp_path / "got" / path.relative_to(sent)).read_bytes() == path.read_bytes(), path
    hub.forget_traffic()
    pull(there, tmp_path / "got")
    assert not shards_fetched(hub)
    assert not list((tmp_path / "got").glob(".*")) and not (tmp_path / "got.work" / "pull").exists()


def test_a_part_is_cut_honestly(hub, there, tmp_path):
    part = pull(there, tmp_path / "part", ipc=1)
    assert shards_fetched(hub) == {"train-ipc001-00000.tar"}
    assert part.prefixes == (1,) and part.ipc == 1 and part.rows() == 10
    assert part.subset_of.repo == there and part.subset_of.ipc == 3
    text = (tmp_path / "part" / "README.md").read_text()
    assert "1 image per class" in text and "This is a part" in text and "ipc3" not in text
    whole = pull(there, tmp_path / "part")  # grows into the whole
    assert whole.ipc == 3 and whole.subset_of is None
    with pytest.raises(OtherRun, match="holds more of this set"):
        pull(there, tmp_path / "part", ipc=1)
    with pytest.raises(SetError, match="no prefix of 2"):
        pull(there, tmp_path / "other", ipc=2)


def test_pull_takes_nobody_elses_directory(hub, there, random_set, photographs, tmp_path):
    with pytest.raises(OtherRun, match="not empty"):
        pull(there, photographs)
    copy = shutil.copytree(random_set.root, tmp_path / "random")
    with pytest.raises(OtherRun, match="holds another set"):
        pull(there, copy)


@pytest.mark.parametrize("seed", range(6))
def test_a_broken_download_is_continued(hub, there, rded_set, tmp_path, seed):
    hub.faults = [loopback.Fault(kind, on=r"^GET .*\.tar", after=seed % 3, times=2) for kind in ("reset", "truncated")]
    hub.faults += loopback.schedule(seed, xet=False)
    try:
        got = pull(there, tmp_path / "got")
    except (HubError, HubAccess) as told:
        assert "\n" not in str(told)
        assert not (tmp_path / "got" / "ddkit.json").exists()
        got = pull(there, tmp_path / "got")
    assert got.content == rded_set.content


@pytest.mark.parametrize("way", ["pull", "train", "loader", "verify"])
def test_one_flipped_bit_on_the_server_is_refused(hub, there, rded_set, tmp_path, monkeypatch, way):
    monkeypatch.chdir(tmp_path)
    path = rded_set.shards[1].path
    hub.flip_bit("dataset", there, path, 100_000)
    with pytest.raises(IntegrityError, match=rf"{path}.*row \d{{8}}"):
        if way == "pull":
            pull(there, tmp_path / "got")
        elif way == "train":
            train(there, epochs=1)
        elif way == "loader":
            ReplayLoader(there, batch_size=4)
        else:
            raise IntegrityError(verify_set(there, full=True)[1][0])
    assert not (tmp_path / "got" / "ddkit.json").exists()


def test_the_loader_reads_a_hub_id_as_the_directory(hub, there, rded_set, monkeypatch):
    ours, theirs = ReplayLoader(rded_set.root, batch_size=10), ReplayLoader(there, batch_size=10)
    for a, b in zip(ours, theirs, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b))
    hub.faults = [loopback.Fault("reset", times=10**6)]  # offline now: the cache serves
    assert ReplayLoader(there, batch_size=10).rows == 30
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert ReplayLoader(there, batch_size=10).rows == 30


def test_only_the_shards_of_the_prefix_are_fetched(hub, there):
    assert ReplayLoader(there, batch_size=5, ipc=1).rows == 10
    assert shards_fetched(hub) == {"train-ipc001-00000.tar"}


def test_a_damaged_cache_is_mended(hub, there):
    first = open_set(there)
    shard = first.root / first.shards[0].path
    shard.resolve().write_bytes(b"rubbish" + shard.read_bytes()[7:])
    assert ReplayLoader(there, batch_size=10).rows == 30


def test_revisions(hub, there, tmp_path):
    head = hub.repos["dataset", there].head()
    tag = next(iter(hub.repos["dataset", there].tags))
    assert open_manifest(f"{there}@{tag}").root.name == head
    assert ReplayLoader(there, batch_size=5, ipc=1, revision=head).rows == 10
    with pytest.raises(HubAccess, match="no such revision"):
        pull(there, tmp_path / "x", revision="nowhere")


def test_train_and_inspect_fetch_what_they_need(hub, there, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    open_manifest(there)
    assert not shards_fetched(hub)
    _, result = train(there, epochs=1)
    assert result.epochs == 1 and len(shards_fetched(hub)) == 2


def test_verify_by_the_hubs_own_hashes(hub, there):
    assert verify_set(there)[1] == [] and not shards_fetched(hub)
    repo = hub.repos["dataset", there]
    path = next(p for p in repo.files() if p.endswith(".tar"))
    repo.commit("main", "other bytes", {path: repo.store(path, b"x" * 2048)})
    (problem,) = verify_set(there)[1]
    assert problem.startswith(path) and not shards_fetched(hub)


def test_who_may_read(hub, there, tmp_path, monkeypatch):
    repo = hub.repos["dataset", there]
    repo.private = True
    assert open_manifest(there).rows() == 30
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    monkeypatch.setenv("HF_TOKEN", "other-token")
    with pytest.raises(HubAccess, match="private one that this token may not see"):
        pull(there, tmp_path / "x")
    repo.private, repo.gated = False, "auto"
    with pytest.raises(HubAccess, match="is gated; ask for access at"):
        pull(there, tmp_path / "x")
    repo.granted.add("bob")
    assert pull(there, tmp_path / "x").rows() == 30


def test_what_is_no_set_is_said_in_one_line(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    hub.add_repo("dataset", "lab/plain", {"train.csv": b"1,2"})
    for name, words in (("lab/plain", "not a ddkit set"), ("lab/none", "not a directory, and on the Hub: no dataset")):
        with pytest.raises((SetError, HubAccess), match=words) as told:
            ReplayLoader(name, batch_size=1)
        assert "\n" not in str(told.value)
    manifest = {"format": 99, "shards": []}
    hub.add_repo("dataset", "lab/new", {"ddkit.json": json.dumps(manifest).encode()})
    with pytest.raises(Exception, match="format 99"):
        ReplayLoader("lab/new", batch_size=1)
    hub.faults = [loopback.Fault("reset", times=10**6)]
    with pytest.raises(HubError, match="cannot be reached"):
        pull("lab/unseen", tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_nothing_of_the_users_is_lost_by_pulling_again(hub, there, tmp_path):
    out = tmp_path / "got"
    pull(there, out)
    (out / "data" / "notes.txt").write_text("mine")
    (out / "data" / ".ipynb_checkpoints").mkdir()
    (out / "README.md").write_text((out / "README.md").read_text() + "\nMy words.\n")
    pull(there, out)
    assert (out / "data" / "notes.txt").read_text() == "mine" and "My words." in (out / "README.md").read_text()
    assert not (tmp_path / "got.work").exists()


LIES = [
    {"name": "../../evil"}, {"name": "/tmp/evil"}, {"ipc": 10**9}, {"classes": None}, {"cost": None}, {"shards": []},
    {"views": 7}, {"results": [{}]}, {"image": {"size": 10**6}}, {"seed": "x"}, {"format": -5},
]  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_a_manifest_that_cannot_be_true_is_refused_by_everyone(hub, there, tmp_path, lie, monkeypatch):
    from ddkit.format.manifest import self_hash

    monkeypatch.chdir(tmp_path)
    repo = hub.repos["dataset", there]
    data = json.loads(repo.read("ddkit.json")) | lie
    data["self"] = self_hash(data)
    repo.commit("main", "lie", {"ddkit.json": repo.store("ddkit.json", json.dumps(data).encode())})
    for read in (lambda: pull(there, tmp_path / "got"), lambda: train(there, epochs=1), lambda: verify_set(there)):
        with pytest.raises(IntegrityError, match="report it to its owner") as told:
            read()
        assert "\n" not in str(told.value)
    assert not (tmp_path / "got").exists() and not list(tmp_path.glob("*evil*"))


def test_a_shard_that_the_manifest_repeats_is_refused(hub, there, tmp_path):
    from ddkit.format.manifest import self_hash

    repo = hub.repos["dataset", there]
    data = json.loads(repo.read("ddkit.json"))
    data["shards"].append(data["shards"][-1])
    data["content"] = content_hash(data)
    data["self"] = self_hash(data)
    repo.commit("main", "lie", {"ddkit.json": repo.store("ddkit.json", json.dumps(data).encode())})
    with pytest.raises(IntegrityError, match="rows, 20 are due"):
        ReplayLoader(there, batch_size=5)


def test_addresses_and_two_revisions(hub, there, tmp_path):
    assert open_manifest(f"https://huggingface.co/datasets/{there}").rows() == 30
    with pytest.raises(Exception, match="name two"):
        pull(f"{there}@main", tmp_path / "x", revision="other")
    with pytest.raises(SetError, match=f"{there} has no prefix of 2"):
        ReplayLoader(there, batch_size=5, ipc=2)
