"""From a directory to the Hub: verify, card, repository, send, one commit, compare, tag.

What the Hub holds is looked at before every try and decides what is still to do, so a push that was stopped, or whose
answer was lost, is simply begun again; `main` is the old set or the new one, never between.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ddkit import hub
from ddkit.errors import HubError, IntegrityError, OptionError, Refused
from ddkit.format.integrity import verify
from ddkit.format.manifest import FILE, Manifest, files_of, parse_manifest, read_manifest, seal
from ddkit.plain import canonical
from ddkit.publishing.card import FRONT_KEYS, card_files
from ddkit.publishing.licences import licence_facts, wants_gate
from ddkit.publishing.outside import merged, outside_of
from ddkit.runtime import note, progress, size_words, write_bytes

COMMIT_FILES = 1000  # more are collected in a pull request and merged at once: the Hub gives a commit a minute
TRIES = 8
CARD = "README.md"
_NOT_A_USERS = {".gitattributes"}  # what the Hub itself puts into a new repository


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """What a push did, or with `--dry-run` would do. send: path -> bytes; commit: of the revision, None if dry."""

    repo: str
    url: str
    send: dict[str, int]
    delete: list[str]
    bytes: int
    commit: str | None = None
    tag: str | None = None
    pull_request: str | None = None
    notes: tuple[str, ...] = ()


def push(
    directory: str | Path,
    repo: str,
    *,
    license: str | None = None,
    license_name: str | None = None,
    license_link: str | None = None,
    private: bool = False,
    gated: str | None = None,
    into_existing: bool = False,
    card_extra: str | Path | None = None,
    create_pr: bool = False,
    revision: str | None = None,
    tag: str | None = None,
    commit_message: str | None = None,
    dry_run: bool = False,
) -> Pushed:
    """Publish the set in `directory` as the dataset `repo` (ORG/NAME) on the Hub.

    license: required at the first push; gated: `auto` or `manual`; into_existing: also into a repository with files
    that are no ddkit set; card_extra: a Markdown file for the card; revision: a branch; tag: a name for the commit
    (default `content-…`, from the manifest's content). Nothing in `directory` changes unless the push went well.
    Raises SetError, IntegrityError, Refused, OptionError, HubAccess, HubError.
    """
    hub.check_repo(repo)
    if gated not in (None, "auto", "manual"):
        raise OptionError(f"--gated is {gated!r}; valid: auto, manual")
    if create_pr and revision is not None:
        raise OptionError("--create-pr makes a branch of its own; leave --revision out")
    manifest = read_manifest(directory)
    licence = licence_facts(license, license_name, license_link, manifest.data["license"])
    extra = _read_extra(card_extra)
    if problems := verify(manifest.root):
        raise IntegrityError(f"{manifest.root}: {problems[0]}; a damaged set is not published, make or fetch it again")
    there = _look(repo, revision, dry_run)
    _check_target(manifest, repo, there, into_existing)
    if private and there.public:
        raise Refused(f"{repo} is there and public; make it private in its settings first, or choose another name")
    published = Manifest(manifest.root, seal({**manifest.data, "repo": repo, "license": licence}))
    rendered = _rendered(published, repo, there, extra)
    plan = _plan(published, rendered, there, repo)
    notes = _advice(published, gated, plan)
    pushed = Pushed(
        repo=repo, url=hub.url(repo), send=plan.sizes(), delete=plan.delete, bytes=sum(plan.sizes().values()),
        notes=notes,
    )  # fmt: skip
    if dry_run:
        return pushed
    tag_name = tag or f"content-{published.data['content'][:12]}"
    if tag is not None and plan.add and there.head is not None and tag in hub.refs(repo):
        raise Refused(f"{repo} has a tag {tag} already, of another content; choose another --tag")
    hub.create(repo, private=private)
    if gated:
        hub.set_gated(repo, gated)
    if revision is not None:
        hub.create_branch(repo, revision)
    message = commit_message or f"ddkit: {published.data['name']}"
    if create_pr:
        opened = _one_commit(plan, repo, message, None, there.head, create_pr=True)
        return replace(pushed, commit=opened.oid, pull_request=opened.pr_url)
    commit = bring(lambda there: _plan(published, rendered, there, repo), repo, revision, message)
    hub.tag(repo, tag_name, commit)
    for path, data in rendered.items():
        write_bytes(manifest.root / path, data)
    return replace(pushed, commit=commit, tag=tag_name)


# ------------------------------------------------------------------ what is there, what is to do


def _read_extra(path: str | Path | None) -> str | None:
    if path is None:
        return None
    if not Path(path).is_file():
        raise OptionError(f"--card-extra {path} is no file; give a Markdown file")
    return Path(path).read_text(encoding="utf-8").strip()


def _look(repo: str, revision: str | None, dry_run: bool = False) -> hub.Remote:
    """The repository as it is; empty where it or the branch is not there yet. Asks who we are before it is made."""
    if not dry_run:
        hub.whoami(repo)
    return hub.find(repo, revision) or (hub.find(repo) if revision else None) or hub.Remote(None, {})


def _check_target(manifest: Manifest, repo: str, there: hub.Remote, into_existing: bool) -> None:
    """Raises Refused where a repository holds somebody's other files, or more of this set than we have."""
    files = set(there.files) - _NOT_A_USERS
    if files and FILE not in files and not into_existing:
        raise Refused(
            f"{repo} holds {len(files)} files and no ddkit set ({', '.join(sorted(files)[:3])}, …); choose another "
            "name, or add ours to it with --into-existing"
        )
    part = manifest.data["subset_of"]
    if part and part["repo"] == repo:
        raise Refused(
            f"{manifest.root} is a part ({manifest.ipc} images per class) of {repo} and would replace the whole; "
            "push it under another name"
        )


def _rendered(published: Manifest, repo: str, there: hub.Remote, extra: str | None) -> dict[str, bytes]:
    """The manifest and the files rendered from it, what people wrote on either card kept."""
    path = published.root / CARD
    here = outside_of(path.read_text(encoding="utf-8") if path.is_file() else None, FRONT_KEYS)
    text = None
    if CARD in there.files:
        text = hub.fetch(repo, CARD, revision=there.head).read_text(encoding="utf-8", errors="replace")
    outside = merged(here, outside_of(text, FRONT_KEYS))
    if extra is not None:
        outside = replace(outside, extra=extra)
    return {FILE: (canonical(dict(published.data)) + "\n").encode(), **card_files(published, outside)}


@dataclass(frozen=True)
class Plan:
    """What is to be sent and deleted, beyond what the Hub holds."""

    add: dict[str, hub.Content]
    delete: list[str]

    def sizes(self) -> dict[str, int]:
        return {p: len(c) if isinstance(c, bytes) else c.stat().st_size for p, c in self.add.items()}


def _plan(published: Manifest, rendered: Mapping[str, bytes], there: hub.Remote, repo: str) -> Plan:
    add: dict[str, hub.Content] = {}
    for path, sha256 in published.files().items():
        if not hub.same(published.root / path, sha256, there.files.get(path)):
            add[path] = published.root / path
    for path, data in rendered.items():
        if not hub.same(data, hashlib.sha256(data).hexdigest(), there.files.get(path)):
            add[path] = data
    keep = {*published.files(), *rendered}
    listed = _listed(repo, there)
    return Plan(add, sorted(path for path in listed if path not in keep and path in there.files))


def _listed(repo: str, there: hub.Remote) -> set[str]:
    """The files that the manifest on the Hub lists: the only ones a push may delete."""
    if FILE not in there.files:
        return set()
    path = hub.fetch(repo, FILE, revision=there.head)
    try:
        return set(files_of(parse_manifest(path.read_bytes(), path)["shards"]))
    except IntegrityError:
        note(f"{repo}: its {FILE} cannot be trusted, so none of its files is deleted")
        return set()


def _advice(published: Manifest, gated: str | None, plan: Plan) -> tuple[str, ...]:
    """What a publisher should know before others do."""
    advice = []
    if gated is None and wants_gate(dict(published.data)):
        advice.append(
            f"holds real pixels ({published.data['real_pixels']}) of {published.data['source']['id']}, whose terms "
            "restrict who may have them: consider --gated auto"
        )
    if any(path.endswith(".tar") for path in plan.delete):
        advice.append(f"replaces another set: {len(plan.delete)} of its files go (git keeps them)")
    return tuple(advice)


# ------------------------------------------------------------------ doing it


def bring(
    plan: Callable[[hub.Remote], Plan], repo: str, revision: str | None, message: str, kind: str = "dataset"
) -> str:
    """Commit until the Hub holds what `plan` wants, and see that it does; returns the commit."""
    why = "it changed under us"
    for _ in range(TRIES):
        there = hub.remote(repo, revision, kind)
        todo = plan(there)
        if not todo.add and not todo.delete:
            assert there.head is not None
            return there.head
        try:
            if len(todo.add) + len(todo.delete) > COMMIT_FILES and revision is None:
                _through_a_request(todo, repo, message)
            else:
                _one_commit(todo, repo, message, revision, there.head, kind=kind)
        except hub.StaleParent as stale:
            why = str(stale)
            note(f"{repo}: {why}; looking at it again")
            hub.pause()
    raise HubError(f"{repo}: still not as it should be after {TRIES} commits ({why}); run the same command again")


def _one_commit(
    plan: Plan,
    repo: str,
    message: str,
    revision: str | None,
    parent: str | None,
    create_pr: bool = False,
    kind: str = "dataset",
) -> Any:
    upload = hub.Upload(repo, plan.add, plan.delete, kind)
    total = sum(plan.sizes().values())
    with progress(f"sending to {repo}", total, "bytes") as advance:
        upload.send(revision, create_pr, advance)
    return upload.commit(message, parent=parent, revision=revision, create_pr=create_pr)


def _through_a_request(plan: Plan, repo: str, message: str) -> None:
    """Several commits in a pull request, the manifest in the last one, merged at once."""
    number = hub.open_request(repo, message)
    branch = f"refs/pr/{number}"
    last = [path for path in plan.add if "/" not in path]
    data = [path for path in plan.add if "/" in path]
    parts = [data[i : i + COMMIT_FILES] for i in range(0, len(data), COMMIT_FILES)]
    for i, paths in enumerate((*parts, last), start=1):
        part = Plan({path: plan.add[path] for path in paths}, plan.delete if paths is last else [])
        if part.add or part.delete:
            _one_commit(part, repo, f"{message} ({i} of {len(parts) + 1})", branch, None)
    hub.merge_request(repo, number)


def summary(pushed: Pushed) -> list[str]:
    """A push in lines for people."""
    shards = sum(path.endswith(".tar") for path in pushed.send)
    lines = [f"{len(pushed.send)} files ({shards} shards, {size_words(pushed.bytes)}), {len(pushed.delete)} deleted"]
    return lines + [f"note: {text}" for text in pushed.notes]
