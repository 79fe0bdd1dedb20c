"""Publishes a directory on the Hub: verify, render the card, create the repository, upload, commit once, check, tag.

The repository is read before every attempt and decides what is still to be done, so a push that was interrupted, or
whose response was lost, is repeated safely. `main` is the old set or the new one, never a mixture.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ddkit import hub
from ddkit.core.console import note, progress, size_words
from ddkit.core.files import write_bytes
from ddkit.core.front_matter import LARGEST_CARD
from ddkit.core.locks import locked
from ddkit.errors import FormatVersion, HubError, IntegrityError, OptionError, Refused
from ddkit.format.manifest import Manifest
from ddkit.format.manifest_file import FILE, LARGEST_MANIFEST, parse_manifest, read_manifest, write_manifest
from ddkit.format.results import ResultEntry, merged_results
from ddkit.format.verification import directory_problems
from ddkit.publishing.licences import choose_license, wants_gate
from ddkit.publishing.rendering import card_files, card_text, parse_user_content
from ddkit.publishing.user_content import MARKS, merged

COMMIT_FILES = 1000  # more go through a pull request, merged at once: the Hub limits a commit to a minute
TRIES = 8
CARD = "README.md"
_REF = re.compile(r"[A-Za-z0-9_][\w./-]{0,200}")
_NOT_A_USERS = {".gitattributes"}  # created by the Hub in a new repository


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """What a push did, or with `--dry-run` would do.

    Attributes:
        repo: "ORG/NAME" on the Hub.
        url: Address of the repository.
        send: Path -> bytes of each file to send.
        delete: Paths to delete.
        commit: The commit; None if nothing was committed.
        tag: The tag.
        tagged: The commit of the tag; an earlier one if only the card has changed since.
        revision: The branch, or the pull request's.
        pull_request: Address of the pull request.
        notes: What the publisher should know, one line each.
    """

    repo: str
    url: str
    send: dict[str, int]
    delete: list[str]
    commit: str | None = None
    tag: str | None = None
    tagged: str | None = None
    revision: str | None = None
    pull_request: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        """Bytes to send."""
        return sum(self.send.values())


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
    """Publish a set as a dataset on the Hub. `directory` is changed only after the push has succeeded.

    Args:
        directory: The set.
        repo: "ORG/NAME" on the Hub.
        license: The licence's identifier on the Hub, or "other"; required at the first push, then remembered.
        license_name: Name of the licence "other".
        license_link: Link of the licence "other": an address, or a file of the repository.
        private: Make a new repository private.
        gated: "auto" or "manual": readers have to agree to terms first.
        into_existing: Also push into a repository that holds other files, or more of this set.
        card_extra: A Markdown file, shown at the end of the card.
        create_pr: Propose the set as a pull request.
        revision: A branch. Default "main".
        tag: Name of the tag. Default "content-…", from the manifest's content.
        commit_message: Default: the set's name.
        dry_run: Only report what would be sent and deleted.

    Raises:
        SetError, IntegrityError, Refused, OptionError, HubAccess, HubError.
    """
    hub.check_repo(repo)
    _check_options(gated, create_pr, tag, revision)
    manifest = read_manifest(directory)
    licence = choose_license(license, license_name, license_link, manifest.license)
    extra = _read_extra(card_extra)
    if problems := directory_problems(manifest.root):
        raise IntegrityError(
            f"{manifest.root}: {problems[0]}; a damaged set is not published; create or fetch it again"
        )
    if not dry_run:
        hub.whoami(repo)
    there = hub.find(repo, revision) or (hub.find(repo) if revision else None) or hub.Remote(None, {})
    if private and there.public:
        raise Refused(f"{repo} exists and is public; make it private in its settings first, or choose another name")
    older = _their_manifest(repo, there)
    _check_target(manifest, repo, there, older, into_existing)
    tags = {} if there.head is None or create_pr else hub.tags(repo)
    if revision in tags:
        raise OptionError(f"--revision {revision} is a tag of {repo}; give a branch")
    published = manifest.changed(
        repo=repo, license=licence, results=merged_results(manifest.results, _same_results(manifest, older))
    )
    work = _Work(published, _rendered(published, repo, there, extra), repo, revision)
    changes = work.changes(there)
    notes = _advice(published, gated, older, there, private)
    pushed = Pushed(repo=repo, url=hub.url(repo), send=changes.sizes(), delete=changes.delete, notes=notes)
    if tag in tags and (changes.add or changes.delete or tags[tag] != there.head):
        raise Refused(f"{repo} has a tag {tag} already, at {tags[tag][:12]}; choose another --tag")
    if dry_run or (create_pr and not changes.add and not changes.delete):
        return pushed
    for line in notes:
        note(f"{repo}: {line}")
    work.prepare(there, private=private, gated=gated)
    message = commit_message or f"ddkit: {published.name}"
    if create_pr:
        opened = _one_commit(changes, repo, message, None, there.head, create_pr=True)
        return replace(pushed, commit=opened.oid, pull_request=opened.pr_url, revision=opened.pr_revision)
    commit = commit_changes(work.changes, repo, revision, message)
    name = tag or f"content-{published.content[:12]}"
    hub.tag(repo, name, commit)
    _keep_rendered(manifest, work)
    at = tags.get(name, commit)  # the tag stays if only the card has changed
    return replace(pushed, commit=commit, tag=name, tagged=at, revision=revision)


def _same_results(manifest: Manifest, older: Manifest | None) -> tuple[ResultEntry, ...]:
    """Return the results in the repository's manifest, if it is the same set."""
    return older.results if older is not None and older.fingerprint == manifest.fingerprint else ()


@dataclass(frozen=True)
class _Work:
    """The target state of the repository: the manifest, and the files rendered from it."""

    published: Manifest
    rendered: Mapping[str, bytes]
    repo: str
    revision: str | None

    def changes(self, there: hub.Remote) -> Changes:
        """Return the difference to the repository's files."""
        return _changes(self.published, self.rendered, there, self.repo)

    def prepare(self, there: hub.Remote, *, private: bool, gated: str | None) -> None:
        """Create the repository and the branch, and set the gate."""
        if there.public is None:
            hub.create(self.repo, private=private)
        if gated:
            hub.set_gated(self.repo, gated)
        if self.revision is not None and not self.revision.startswith("refs/pr/"):
            hub.create_branch(self.repo, self.revision)


def _keep_rendered(manifest: Manifest, work: _Work) -> None:
    """Write the pushed card and manifest into the set, unless the set has changed meanwhile."""
    with locked(manifest.root, "publishing"):
        if read_manifest(manifest.root) != manifest:
            note(f"{manifest.root} changed while it was sent; run `ddkit push` again to send the changes")
            return
        for path, data in work.rendered.items():
            if path != FILE:
                write_bytes(manifest.root / path, data)
        write_manifest(manifest.root, work.published)


# ------------------------------------------------------------------ checks, and what is to be changed


def _read_extra(path: str | Path | None) -> str | None:
    if path is None:
        return None
    try:
        text = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"--card-extra {path} is not a text file ({error}); give Markdown in UTF-8") from error
    if mark := next((mark for mark in MARKS if mark in text), None):
        raise OptionError(f"--card-extra {path} holds ddkit's own mark {mark!r}; leave it out")
    return text


def _check_options(gated: str | None, create_pr: bool, tag: str | None, revision: str | None) -> None:
    """Raise OptionError for conflicting options, and for invalid names of tags or branches."""
    if gated not in (None, "auto", "manual"):
        raise OptionError(f"--gated is {gated!r}; valid: auto, manual")
    if create_pr and (revision or tag or gated):
        raise OptionError("--create-pr only opens a pull request; leave out --revision, --tag and --gated")
    for option, name in (("--tag", tag), ("--revision", revision)):
        if name is not None and (not _REF.fullmatch(name) or ".." in name or name.endswith((".lock", "/", "."))):
            raise OptionError(f"{option} is {name!r}; give a name of letters, digits, '-', '_', '.' and '/'")
    if tag in ("main", "HEAD") or (tag or "").startswith("refs/"):
        raise OptionError(f"--tag is {tag!r}, which git reserves; choose another")
    if revision is not None and re.fullmatch(r"[0-9a-f]{40}", revision):
        raise OptionError(f"--revision is the commit {revision[:12]}…; a push goes to a branch, give its name")


def _their_manifest(repo: str, there: hub.Remote) -> Manifest | None:
    """Return the repository's manifest, which lists the files a push may delete; None if missing or invalid."""
    if FILE not in there.files:
        return None
    path = hub.fetch(repo, FILE, revision=there.head, most=LARGEST_MANIFEST)
    try:
        return parse_manifest(path.read_bytes(), path)
    except (IntegrityError, FormatVersion) as error:
        note(f"{repo}: its {FILE} is not valid ({error}), so none of its files are deleted")
        return None


def _check_target(
    manifest: Manifest, repo: str, there: hub.Remote, older: Manifest | None, into_existing: bool
) -> None:
    """Raise Refused if the repository holds other files, or more of this set than `manifest`."""
    files = set(there.files) - _NOT_A_USERS
    if files and FILE not in files and not into_existing:
        raise Refused(
            f"{repo} holds {len(files)} files but no ddkit set ({', '.join(sorted(files)[:3])}, …); choose another "
            "name, or add ours to it with --into-existing"
        )
    part = manifest.subset_of
    if part and part.repo.lower() == repo.lower():
        raise Refused(
            f"{manifest.root} is a part ({manifest.ipc} images per class) of {repo} and would replace the whole; "
            "push it under another name"
        )
    same = older is not None and older.fingerprint == manifest.fingerprint
    if older and same and older.ipc > manifest.ipc and not into_existing:
        raise Refused(
            f"{repo} holds more of this set ({older.ipc} images per class, here {manifest.ipc}); fetch it with "
            f"`ddkit pull {repo} DIR`, or reduce it with --into-existing"
        )


def _rendered(published: Manifest, repo: str, there: hub.Remote, extra: str | None) -> dict[str, bytes]:
    """Return the manifest and the files rendered from it, with the user content of both cards."""
    theirs = card_text(hub.fetch(repo, CARD, revision=there.head, most=LARGEST_CARD)) if CARD in there.files else None
    here = parse_user_content(card_text(published.root / CARD), published.root, str(published.root / CARD))
    user_content = merged(here, parse_user_content(theirs, published.root, f"the card of {repo}"))
    if extra is not None:
        user_content = replace(user_content, extra=extra)
    return {FILE: published.to_bytes(), **card_files(published, user_content)}


@dataclass(frozen=True)
class Changes:
    """The files to send (`add`: path -> content) and the paths to delete (`delete`)."""

    add: dict[str, hub.Content]
    delete: list[str]

    def sizes(self) -> dict[str, int]:
        """Return the bytes of each file to send."""
        return {p: len(c) if isinstance(c, bytes) else c.stat().st_size for p, c in self.add.items()}


def _changes(published: Manifest, rendered: Mapping[str, bytes], there: hub.Remote, repo: str) -> Changes:
    add: dict[str, hub.Content] = {}
    for path, sha256 in published.files().items():
        if not hub.same(published.root / path, sha256, there.files.get(path)):
            add[path] = published.root / path
    for path, data in rendered.items():
        if not hub.same(data, hashlib.sha256(data).hexdigest(), there.files.get(path)):
            add[path] = data
    keep = {*published.files(), *rendered}
    older = _their_manifest(repo, there)
    listed = older.files() if older else {}
    return Changes(add, sorted(path for path in listed if path not in keep and path in there.files))


def _advice(
    published: Manifest, gated: str | None, older: Manifest | None, there: hub.Remote, private: bool
) -> tuple[str, ...]:
    """Return what the publisher should know, one line each."""
    advice = []
    if there.public is None and published.license:
        seen = "private" if private else "public (--private makes it private)"
        advice.append(f"a new repository, {seen}, under the licence {published.license.name or published.license.id}")
    if gated is None and wants_gate(published):
        advice.append(
            f"holds real pixels ({published.real_pixels}) of {published.source.id}, whose terms restrict who may have "
            "them: consider --gated auto"
        )
    if older and older.fingerprint != published.fingerprint:
        advice.append(f"replaces another set ({older.name}, content {older.content[:12]}; git keeps it)")
    if older and older.license and published.license and older.license.id != published.license.id:
        advice.append(f"the licence changes from {older.license.id} to {published.license.id}")
    return tuple(advice)


# ------------------------------------------------------------------ commits


def commit_changes(
    wanted: Callable[[hub.Remote], Changes], repo: str, revision: str | None, message: str, kind: str = "dataset"
) -> str:
    """Commit until the repository matches, and return that commit. Raises HubError after several attempts.

    Args:
        wanted: Returns the changes that are still needed, given the repository's state.
        repo: "ORG/NAME" on the Hub.
        revision: A branch. Default "main".
        message: Message of the commits.
        kind: "dataset" or "model".
    """
    why = "it changed under us"
    for _ in range(TRIES):
        there = hub.remote(repo, revision, kind)
        todo = wanted(there)
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
            note(f"{repo}: {why}; checking it again")
            hub.pause()
    raise HubError(f"{repo}: still differs after {TRIES} commits ({why}); run the same command again")


def _one_commit(
    changes: Changes,
    repo: str,
    message: str,
    revision: str | None,
    parent: str | None,
    create_pr: bool = False,
    kind: str = "dataset",
) -> Any:
    upload = hub.Upload(repo, changes.add, changes.delete, kind)
    total = sum(changes.sizes().values())
    with progress(f"sending to {repo}", total, "bytes") as advance:
        upload.send(revision, create_pr, advance)
    return upload.commit(message, parent=parent, revision=revision, create_pr=create_pr)


def _through_a_request(changes: Changes, repo: str, message: str) -> None:
    """Send several commits through a pull request, the manifest in the last one, and merge it."""
    number = hub.open_request(repo, message)
    branch = f"refs/pr/{number}"
    last = [path for path in changes.add if "/" not in path]
    data = [path for path in changes.add if "/" in path]
    parts = [data[i : i + COMMIT_FILES] for i in range(0, len(data), COMMIT_FILES)]
    for i, paths in enumerate((*parts, last), start=1):
        part = Changes({path: changes.add[path] for path in paths}, changes.delete if paths is last else [])
        if part.add or part.delete:
            _one_commit(part, repo, f"{message} ({i} of {len(parts) + 1})", branch, None)
    hub.merge_request(repo, number)


def summary(pushed: Pushed, dry_run: bool) -> list[str]:
    """Describe the push `pushed`, or with `dry_run` an intended one, in lines for the terminal."""
    shards = sum(path.endswith(".tar") for path in pushed.send)
    lines = [f"{len(pushed.send)} files ({shards} shards, {size_words(pushed.bytes)}), {len(pushed.delete)} deleted"]
    if not pushed.send and not pushed.delete:
        lines = ["nothing to send: the Hub already has everything"]
    if dry_run:
        listed = [f"send    {size:>12}  {path}" for path, size in pushed.send.items()]
        listed += [f"delete  {'':>12}  {path}" for path in pushed.delete]
        return [
            *listed,
            *lines,
            *(f"note: {text}" for text in pushed.notes),
            "(the permissions of your token are not checked)",
        ]
    if pushed.pull_request:
        return [*lines, pushed.pull_request]
    if pushed.commit is None:
        return [f"nothing to propose: {pushed.url} already has it"]
    tagged = f"tag {pushed.tag}" if pushed.tagged == pushed.commit else f"its content is already tagged {pushed.tag}"
    return [*lines, f"{pushed.url} at {pushed.commit[:12]}, {tagged}"]
