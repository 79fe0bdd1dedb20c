"""Push against a Hub on loopback, through the real client: one commit, again, grown, refused, and under faults."""

import json
import shutil
from pathlib import Path

import loopback
import pytest
from huggingface_hub import constants

from ddkit.core.serialization import read_dataclass
from ddkit.errors import HubAccess, HubError, IntegrityError, OptionError, Refused
from ddkit.format.manifest import Manifest, SubsetOf
from ddkit.format.manifest_file import parse_manifest, read_manifest, write_manifest
from ddkit.format.results import ResultEntry
from ddkit.pipeline import distill
from ddkit.publishing import pushing
from ddkit.publishing.pushing import push

# httpx2 warns of the body that huggingface_hub gives it for every large file
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture(params=["lfs", "xet"])
def way(request, monkeypatch, hub):
    """Both ways of sending large files."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", request.param == "lfs")
    return request.param


@pytest.fixture
def mine(random_set, tmp_path) -> Path:
    return Path(shutil.copytree(random_set.root, tmp_path / "mine"))


@pytest.fixture
def rded_copy(rded_set, tmp_path) -> Manifest:
    return read_manifest(shutil.copytree(rded_set.root, tmp_path / "rded"))


def on_hub(hub, repo="lab/digits", revision="main"):
    return hub.repos["dataset", repo].files(revision)


def test_what_is_pushed_is_the_directory(hub, way, mine):
    done = push(mine, "lab/digits", license="mit")
    repo = hub.repos["dataset", "lab/digits"]
    files = {str(p.relative_to(mine)) for p in mine.rglob("*") if p.is_file()}
    assert set(repo.files()) - {".gitattributes"} == files
    assert all(repo.read(name) == (mine / name).read_bytes() for name in files)
    assert read_manifest(mine).repo == "lab/digits" and read_manifest(mine).license.id == "mit"
    assert done.tag in repo.tags and repo.tags[done.tag] == done.commit == repo.head()


def test_pushing_again_sends_nothing(hub, way, mine):
    first = push(mine, "lab/digits", license="mit")
    hub.forget_traffic()
    again = push(mine, "lab/digits")
    assert again.commit == first.commit and again.send == {} and hub.received_bytes == 0
    assert not any("/commit/" in request or "PUT" in request for request in hub.requests)


def test_a_grown_set_sends_its_new_shards_only(hub, way, tmp_path, teacher):
    options = {"data": "digits", "method": "random", "protocol": "demo", "views": 3, "teacher": teacher, "workers": 1}
    out = tmp_path / "grows"
    distill(out, ipc=1, **options)
    push(out, "lab/grows", license="mit")
    old = set(on_hub(hub, "lab/grows"))
    grown = distill(out, ipc=2, **options)
    assert grown.repo == "lab/grows" and grown.license.id == "mit"
    hub.forget_traffic()
    done = push(out, "lab/grows")
    new = {path for path in done.send if path.endswith(".tar")}
    assert {Path(path).name for path in new} == {"train-ipc002-00000.tar"} and done.delete == []
    assert set(on_hub(hub, "lab/grows")) == old | {p for p in done.send}
    assert len(hub.repos["dataset", "lab/grows"].tags) == 2  # each content has its name


def test_only_what_the_old_manifest_lists_is_deleted(hub, way, rded_copy, mine):
    push(rded_copy.root, "lab/set", license="mit")
    repo = hub.repos["dataset", "lab/set"]
    repo.commit("main", "a person's file", {"notes.txt": repo.store("notes.txt", b"mine")})
    listed = set(rded_copy.files())
    done = push(mine, "lab/set", license="mit")
    assert set(done.delete) == listed - set(read_manifest(mine).files()) and done.delete
    assert repo.read("notes.txt") == b"mine" and set(read_manifest(mine).files()) <= set(repo.files())
    assert "replaces another set" in " ".join(done.notes)


def test_dry_run_changes_nothing(hub, mine):
    before = {p: p.read_bytes() for p in mine.rglob("*") if p.is_file()}
    told = push(mine, "lab/digits", license="mit", dry_run=True)
    assert hub.repos == {} and {p: p.read_bytes() for p in mine.rglob("*") if p.is_file()} == before
    push(mine, "lab/digits", license="mit")
    assert set(told.send) == set(on_hub(hub)) - {".gitattributes"} and told.commit is None


def test_pull_request_branch_tag_private_and_gated(hub, way, mine):
    push(mine, "lab/digits", license="mit", private=True, gated="manual", tag="v1")
    repo = hub.repos["dataset", "lab/digits"]
    assert repo.private and repo.gated == "manual" and repo.tags["v1"] == repo.head()
    text = (mine / "README.md").read_text()
    (mine / "README.md").write_text(text + "\nA word of mine.\n")
    head = repo.head()
    with pytest.raises(Refused, match="has a tag v1 already"):
        push(mine, "lab/digits", tag="v1")
    proposed = push(mine, "lab/digits", create_pr=True)
    assert proposed.pull_request and repo.head() == head and len(repo.pulls) == 1
    there = push(mine, "lab/digits", revision="next")
    assert repo.head() == head and repo.branches["next"] == there.commit
    assert b"A word of mine." in repo.read("README.md", "next")


def test_private_is_never_public(hub, mine):
    push(mine, "lab/digits", license="mit")
    with pytest.raises(Refused, match="exists and is public"):
        push(mine, "lab/digits", private=True)
    push(mine, "lab/hidden", license="mit", private=True)
    assert push(mine, "lab/hidden", private=True).send == {}


def test_what_people_wrote_on_the_card_survives(hub, mine, tmp_path):
    extra = tmp_path / "extra.md"
    extra.write_text("## Thanks\n\nTo the ants.")
    push(mine, "lab/digits", license="mit", card_extra=extra)
    repo = hub.repos["dataset", "lab/digits"]
    web = (
        repo.read("README.md")
        .decode()
        .replace("---\n<!--", "extra_gated_prompt: be kind\n---\nFrom the web.\n\n<!--", 1)
    )
    assert web.count("From the web.") == 1
    repo.commit("main", "edit on the web", {"README.md": repo.store("README.md", web.encode())})
    push(mine, "lab/digits", license="cc-by-4.0")
    for text in (repo.read("README.md").decode(), (mine / "README.md").read_text()):
        assert "From the web." in text and "To the ants." in text and "extra_gated_prompt: be kind" in text
        assert "license: cc-by-4.0" in text and text.count("ddkit:start") == text.count("ddkit:end") == 1
    (mine / "README.md").write_text((mine / "README.md").read_text() + "\nFrom here.\n")
    push(mine, "lab/digits")
    for text in (repo.read("README.md").decode(), (mine / "README.md").read_text()):
        assert "From the web." in text and "From here." in text


def test_a_foreign_repository_is_refused(hub, mine):
    hub.add_repo("dataset", "lab/other", {"README.md": b"# my notes\n", "train.csv": b"1,2"})
    with pytest.raises(Refused, match="no ddkit set .*into_existing=True") as told:
        push(mine, "lab/other", license="mit")
    assert "--into-existing" in told.value.command_line
    push(mine, "lab/other", license="mit", into_existing=True)
    repo = hub.repos["dataset", "lab/other"]
    assert repo.read("train.csv") == b"1,2" and b"# my notes" in repo.read("README.md")


REFUSALS = [
    ("digits", {}, OptionError, "ORG/NAME"),
    ("lab/a--b", {}, OptionError, "not a repository"),
    ("lab/digits", {"license": "MIT"}, OptionError, "did you mean mit"),
    ("lab/digits", {"license": None}, Refused, "--license"),
    ("lab/digits", {"license": "other"}, OptionError, "--license-name"),
    ("lab/digits", {"gated": "yes"}, OptionError, "auto, manual"),
    ("lab/digits", {"card_extra": "nowhere.md"}, OptionError, "not a text file"),
    ("carol/digits", {}, HubAccess, "may not do that in carol/digits"),
]


@pytest.mark.parametrize(("repo", "options", "kind", "words"), REFUSALS)
def test_what_cannot_be_is_one_line(hub, mine, repo, options, kind, words):
    with pytest.raises(kind, match=words.removeprefix("--").replace("-name", "_name")) as told:
        push(mine, repo, **({"license": "mit"} | options))
    assert words in told.value.command_line and "\n" not in str(told.value) and hub.repos == {}
    assert read_manifest(mine).repo is None


@pytest.mark.parametrize(
    ("token", "words"),
    [
        ("wrong", "refuses your token"),
        ("read-token", "may not do that"),
        ("other-token", "may not do that"),
        (None, "hf auth login"),
    ],
)
def test_tokens_that_do_not_serve(hub, way, mine, token, words, monkeypatch):
    if token is None:
        monkeypatch.delenv("HF_TOKEN")
    else:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(HubAccess, match=words) as told:
        push(mine, "lab/digits", license="mit")
    assert "\n" not in str(told.value)


def test_no_network_quota_and_damage(hub, way, mine, monkeypatch):
    hub.users["write-token"] = loopback.User("ann", ("lab",), quota_bytes=1000)
    with pytest.raises((HubError, HubAccess), match="quota"):
        push(mine, "lab/digits", license="mit")
    assert not any(path.endswith("tar") for path in on_hub(hub))
    shard = next(mine.glob("data/*.tar"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(IntegrityError, match="not published"):
        push(mine, "lab/digits", license="mit")
    (mine / "ddkit.json").unlink()
    with pytest.raises(Exception, match="not a finished distilled set"):
        push(mine, "lab/digits", license="mit")


def test_a_part_does_not_replace_the_whole(hub, mine):
    manifest = read_manifest(mine)
    part = SubsetOf(repo="lab/digits", revision="0" * 40, content="0" * 64, ipc=10)
    write_manifest(mine, manifest.changed(subset_of=part))
    with pytest.raises(Refused, match="is a part"):
        push(mine, "lab/digits", license="mit")


def test_more_files_than_a_commit_takes_are_seen_at_once(hub, way, rded_copy, monkeypatch):
    monkeypatch.setattr(pushing, "COMMIT_FILES", 3)
    seen = []
    hub.watch = lambda hub: [seen.append(set(r.files())) for r in hub.repos.values()]
    push(rded_copy.root, "lab/large", license="mit")
    states = {frozenset(files - {".gitattributes"}) for files in seen}
    assert states == {frozenset(), frozenset(on_hub(hub, "lab/large")) - {".gitattributes"}}
    assert hub.repos["dataset", "lab/large"].pulls


def whole_or_nothing(hub):
    """`main` names no file of a set that is not there with the bytes its manifest says."""
    for repo in hub.repos.values():
        files = repo.files()
        tars = {path for path in files if path.endswith((".tar", ".rows"))}
        assert ("ddkit.json" in files) or not tars
        if "ddkit.json" in files:
            assert set(parse_manifest(repo.read("ddkit.json"), Path("ddkit.json")).files()) == tars


@pytest.mark.parametrize("seed", range(3))
def test_faults_end_in_success_or_one_line_and_main_is_never_half(hub, way, rded_copy, mine, seed):
    push(rded_copy.root, "lab/set", license="mit")
    hub.watch = whole_or_nothing
    hub.faults = loopback.schedule(seed, xet=way == "xet")
    try:
        push(mine, "lab/set", license="mit")
    except (HubError, HubAccess) as told:
        assert "\n" not in str(told)
        push(mine, "lab/set", license="mit")
    assert set(read_manifest(mine).files()) <= set(on_hub(hub, "lab/set"))


def test_nothing_is_lost_when_the_answer_is(hub, way, mine):
    hub.faults = [loopback.Fault("lost-response", r"^POST .*/commit/")]
    done = push(mine, "lab/digits", license="mit")
    ours = [c for c in hub.repos["dataset", "lab/digits"].commits() if "ddkit" in c.title]
    assert len(ours) == 1 and done.commit == hub.repos["dataset", "lab/digits"].head()


def test_more_of_the_set_on_the_hub_is_not_cut_down(hub, tmp_path, teacher):
    options = {"data": "digits", "method": "random", "protocol": "demo", "views": 3, "teacher": teacher, "workers": 1}
    small, large = tmp_path / "small", tmp_path / "large"
    distill(small, ipc=1, **options)
    shutil.copytree(small, large)
    distill(large, ipc=2, **options)
    push(large, "lab/x", license="mit")
    with pytest.raises(Refused, match="holds more of this set"):
        push(small, "lab/x", license="mit")
    assert push(small, "lab/x", license="mit", into_existing=True).delete


def test_what_was_measured_elsewhere_stays(hub, mine, tmp_path):
    result = {
        "of": "this", "ipc": 2, "arch": "convnet3", "protocol": "demo", "labels": "stored", "val": "digits:test",
        "seeds": [0], "n_sets": 1, "n_students": 1, "values": [[50.0]], "mean": 50.0, "std": 0.0, "difference": None,
        "total_bytes": 1000, "seconds": 3.0, "command": "ddkit evaluate x", "hardware": "a machine",
    }  # fmt: skip
    other = shutil.copytree(mine, tmp_path / "other")
    write_manifest(other, read_manifest(other).changed(results=(read_dataclass(ResultEntry, result),)))
    push(other, "lab/digits", license="mit")
    push(mine, "lab/digits", license="mit")
    assert json.loads((mine / "ddkit.json").read_text())["results"] == [result | {"val_images": None}]
    assert b"50.00" in hub.repos["dataset", "lab/digits"].read("README.md")


def test_a_tag_stays_where_it_is_and_that_is_told(hub, mine):
    first = push(mine, "lab/digits", license="mit", tag="v1")
    (mine / "README.md").write_text((mine / "README.md").read_text() + "\nMore.\n")
    second = push(mine, "lab/digits")
    assert second.commit != first.commit and second.tagged == second.commit  # the content had no tag of its own yet
    (mine / "README.md").write_text((mine / "README.md").read_text() + "\nStill more.\n")
    third = push(mine, "lab/digits")
    assert third.tagged == second.commit != third.commit
    for words in ({"tag": "v1"}, {"revision": "v1"}):
        with pytest.raises((Refused, OptionError), match="v1"):
            push(mine, "lab/digits", **words)


@pytest.mark.parametrize("name", ["a b", "", "main", "refs/heads/x", "..", "x/", "0" * 40])
def test_names_that_git_would_not_take(hub, mine, name):
    option = "revision" if name in ("", "0" * 40) else "tag"
    with pytest.raises(OptionError, match=rf"^{option} ") as told:
        push(mine, "lab/digits", license="mit", **{option: name})
    assert f"--{option}" in told.value.command_line and hub.repos == {}


def test_nothing_to_propose_opens_no_pull_request(hub, mine):
    push(mine, "lab/digits", license="mit")
    assert push(mine, "lab/digits", create_pr=True).pull_request is None
    assert not hub.repos["dataset", "lab/digits"].pulls


BROKEN_CARDS = {
    "no YAML": lambda card: card.replace("license: mit", "license: [mit"),
    "no start": lambda card: card.replace("<!-- ddkit:start -->", ""),
    "no end": lambda card: card.replace("<!-- ddkit:end -->", ""),
    "twice": lambda card: card + card,
}


@pytest.mark.parametrize("how", BROKEN_CARDS)
def test_a_card_that_cannot_be_taken_apart_is_kept_whole(hub, mine, how):
    push(mine, "lab/digits", license="mit")
    repo = hub.repos["dataset", "lab/digits"]
    broken = BROKEN_CARDS[how](repo.read("README.md").decode()) + "\nWords of mine.\n"
    repo.commit("main", "edit", {"README.md": repo.store("README.md", broken.encode())})
    push(mine, "lab/digits")
    text = repo.read("README.md").decode()
    assert text.count("# Random real images") == 1 and text.count("ddkit:end") == 1
    (kept,) = mine.with_name("mine.work").glob("README-*.md")
    assert kept.read_text() == broken


def test_tags_of_others_stay_and_edits_of_both_sides_do_not_double(hub, mine):
    push(mine, "lab/digits", license="mit")
    repo = hub.repos["dataset", "lab/digits"]
    for i in range(4):
        web = repo.read("README.md").decode().replace("- ddkit\n", "- ddkit\n- handwriting\n") + f"\nWeb {i}.\n"
        repo.commit("main", "edit", {"README.md": repo.store("README.md", web.encode())})
        (mine / "README.md").write_text((mine / "README.md").read_text() + f"\nHere {i}.\n")
        push(mine, "lab/digits")
    text = repo.read("README.md").decode()
    assert all(text.count(f"{side} {i}.") == 1 for side in ("Web", "Here") for i in range(4))
    assert text.count("- handwriting") == 1


def test_a_card_that_the_hub_finds_too_large(hub, rded_set, tmp_path):
    hub.largest_card = 3000
    root = shutil.copytree(rded_set.root, tmp_path / "set")
    with pytest.raises(
        HubAccess, match=r"rejects it \(the Hub answered 413.*; shorten README.md, .*run the same command"
    ):
        push(root, "ann/set", license="mit")
