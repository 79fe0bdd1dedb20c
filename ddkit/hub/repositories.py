"""Repositories of the Hub: their names, what they hold, fetching, and committing."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ddkit.core.console import note
from ddkit.core.files import read_limited
from ddkit.core.front_matter import LARGEST_CARD, front_matter
from ddkit.errors import HubError, HubFile, HubNone, OptionError
from ddkit.hub.responses import COMMIT, InvalidResponse
from ddkit.hub.retries import StaleParent, api, is_transient, with_retries, status_of, words

_REPO = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*)(@(?P<revision>[\w./-]+))?")


@dataclass(frozen=True)
class RemoteFile:
    """What the Hub says of a file: bytes, git's sha1 of it, and its sha256 where it is stored as a large file."""

    size: int
    blob: str
    sha256: str | None


@dataclass(frozen=True)
class Remote:
    """A repository at a commit (`head`, None while it has none): path -> file; public: whether anyone may see it, None
    where it is not there."""

    head: str | None
    files: Mapping[str, RemoteFile]
    public: bool | None = None


def split_id(text: str) -> tuple[str, str | None] | None:
    """`ORG/NAME[@REVISION]`, or its address on the Hub, as (repo, revision); None for anything else."""
    found = _REPO.fullmatch(re.sub(r"^(https?://(huggingface\.co|hf\.co)|hf:/)/datasets/", "", text))
    return None if found is None else (found["repo"], found["revision"])


def parse_id(text: str) -> tuple[str, str | None] | None:
    """As `split_id`; None also for what is a path here."""
    return None if Path(text).exists() else split_id(text)


def check_repo(text: str) -> str:
    """A repository's id. Raises OptionError for what cannot be one."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95}", text) or "--" in text or ".." in text:
        found = split_id(text)
        hint = f"; did you mean YOUR_NAME/{text}?" if re.fullmatch(r"[\w.-]+", text) else ""
        hint = f"; did you mean {found[0]}?" if found else hint
        raise OptionError(f"{text!r} is no repository; write ORG/NAME with letters, digits, '-', '_' and '.'{hint}")
    return text


# ------------------------------------------------------------------ reading


def remote(repo: str, revision: str | None = None, kind: str = "dataset") -> Remote:
    """What a repository holds at the head of a revision."""

    def read() -> Remote:
        info = api().repo_info(repo, repo_type=kind, revision=revision)
        if info.sha is None:
            return Remote(None, {}, not info.private)
        _commit(info.sha)
        tree = api().list_repo_tree(repo, repo_type=kind, revision=info.sha, recursive=True)
        files = {
            entry.path: RemoteFile(entry.size, entry.blob_id, entry.lfs.sha256 if entry.lfs else None)
            for entry in tree
            if hasattr(entry, "blob_id")
        }
        return Remote(info.sha, files, not info.private)

    return with_retries(f"reading {repo}", repo, read, kind)


def head(repo: str, revision: str | None = None) -> str:
    """The commit a revision of a dataset is at."""
    info = with_retries(f"reading {repo}", repo, lambda: _commit(api().dataset_info(repo, revision=revision).sha))
    return str(info)


def _commit(sha: Any) -> str:
    """A commit as the Hub names it: also the name of a folder in the client's cache. Raises InvalidResponse."""
    if not isinstance(sha, str) or not COMMIT.fullmatch(sha):
        raise InvalidResponse(f"{str(sha)[:60]!r} is no commit")
    return sha


def find(repo: str, revision: str | None = None, kind: str = "dataset") -> Remote | None:
    """As `remote`; None where there is no such repository or revision, or none that this token may see."""
    try:
        return remote(repo, revision, kind)
    except HubNone:
        return None


def fetch(
    repo: str,
    path: str,
    *,
    revision: str | None = None,
    into: Path | None = None,
    again: bool = False,
    kind: str = "dataset",
    most: int | None = None,
) -> Path:
    """A file of a repository, from the client's cache where it is there; a broken download is continued.

    into: a folder instead of the cache; again: download what is there already; most: bytes that it may have. Raises
    HubFile where there is no such file, HubAccess, HubError, DiskError.
    """
    if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts or "\\" in path:
        raise HubError(f"{repo} names a file {path!r}, which lies outside of it; nothing is fetched")

    def get(cached: bool = False) -> Path:
        found = api().hf_hub_download(
            repo, path, repo_type=kind, revision=revision, local_dir=into, force_download=again, local_files_only=cached
        )
        return Path(found)

    try:
        return with_retries(f"fetching {path}", repo, get, kind, repeated=True, most=most)
    except HubError:
        if into is not None or again:
            raise
        try:
            found = get(cached=True)
        except FileNotFoundError:
            found = None
        if found is None:
            raise
        note(f"{repo}: the Hub cannot be reached; {path} as it is in the cache")
        return found


def commit_of(fetched: Path, path: str) -> str:
    """The commit that a file fetched into the cache is of."""
    return fetched.parents[len(Path(path).parts) - 1].name


def licence(repo: str, revision: str | None = None) -> str | None:
    """What a dataset's card says of its licence."""
    try:
        card = read_limited(fetch(repo, "README.md", revision=revision, most=LARGEST_CARD), LARGEST_CARD)
        matter = front_matter((card or b"").decode("utf-8", "replace"))[0]
    except (HubFile, ValueError):  # no card, or front matter that is none
        return None
    said = matter.get("license")
    names = [name for name in (said if isinstance(said, list) else [said]) if isinstance(name, str)]
    return ", ".join(names)[:200] or None


# ------------------------------------------------------------------ writing


def whoami(repo: str) -> str:
    """The name behind the token, asked before something is written to `repo`. Raises HubAccess without one."""
    return str(with_retries("asking who you are", repo, lambda: api().whoami().get("name", "")))


def create(repo: str, *, private: bool, kind: str = "dataset") -> None:
    """Make the repository where it is not there."""
    with_retries(
        f"creating {repo}",
        repo,
        lambda: api().create_repo(repo, repo_type=kind, private=private or None, exist_ok=True),
        kind,
    )


def create_branch(repo: str, branch: str) -> None:
    """Make a branch where it is not there."""
    with_retries(
        f"branch {branch}", repo, lambda: api().create_branch(repo, branch=branch, repo_type="dataset", exist_ok=True)
    )


def set_gated(repo: str, gated: str) -> None:
    """Ask readers for their consent first: `auto` or `manual`."""
    with_retries(f"gating {repo}", repo, lambda: api().update_repo_settings(repo, repo_type="dataset", gated=gated))


def tags(repo: str) -> dict[str, str]:
    """Tags -> commit."""
    found = with_retries(f"reading {repo}", repo, lambda: api().list_repo_refs(repo, repo_type="dataset"))
    return {ref.name: ref.target_commit for ref in found.tags}


def tag(repo: str, name: str, commit: str) -> None:
    """Name a commit; a tag that is there stays."""
    with_retries(
        f"tag {name}",
        repo,
        lambda: api().create_tag(repo, tag=name, revision=commit, repo_type="dataset", exist_ok=True),
    )


def git_sha1(data: bytes) -> str:
    """The name git gives a file with these bytes."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


Content = Path | bytes


def same(content: Content, sha256: str, there: RemoteFile | None) -> bool:
    """Whether the Hub holds these bytes. sha256: of `content`."""
    if there is None:
        return False
    if there.sha256 is not None:
        return there.sha256 == sha256
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    return there.size == size and there.blob == git_sha1(
        content if isinstance(content, bytes) else content.read_bytes()
    )


class Upload:
    """Files on their way into one commit: sent first (`send`), then named in `commit`, which alone makes them seen."""

    def __init__(
        self, repo: str, add: Mapping[str, Content], delete: Iterable[str] = (), kind: str = "dataset"
    ) -> None:
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        self.repo, self.kind = repo, kind
        self._add = [
            CommitOperationAdd(path, content if isinstance(content, bytes) else str(content))
            for path, content in add.items()
        ]
        self._delete = [CommitOperationDelete(path) for path in delete]

    def send(self, revision: str | None, create_pr: bool, advance: Callable[[int], None], at_once: int = 16) -> None:
        """Send what the Hub keeps as large files; what it has already is not sent again. advance: bytes."""
        for start in range(0, len(self._add), at_once):
            part = self._add[start : start + at_once]

            def preupload(part: list[Any] = part) -> None:
                api().preupload_lfs_files(
                    self.repo, part, repo_type=self.kind, revision=revision, create_pr=create_pr, free_memory=False
                )

            with_retries(f"sending {part[0].path_in_repo}", self.repo, preupload, self.kind)
            advance(sum(operation.upload_info.size for operation in part))

    def commit(self, message: str, *, parent: str | None, revision: str | None = None, create_pr: bool = False) -> Any:
        """The commit, tried once: raises StaleParent where another came first or no clear answer came.

        Returns the client's CommitInfo (oid, pr_url, pr_revision).
        """

        def once() -> Any:
            try:
                return api().create_commit(
                    self.repo, [*self._add, *self._delete], commit_message=message, repo_type=self.kind,
                    revision=revision, parent_commit=parent, create_pr=create_pr,
                )  # fmt: skip
            except Exception as error:
                if status_of(error) == 412 or (is_transient(error) and not (create_pr and status_of(error) is None)):
                    raise StaleParent(words(error)) from error
                raise

        return with_retries(f"committing to {self.repo}", self.repo, once, self.kind)


def open_request(repo: str, title: str) -> int:
    """Open a pull request to collect several commits in; returns its number."""
    opened = with_retries(
        "opening a pull request", repo, lambda: api().create_pull_request(repo, title, repo_type="dataset")
    )
    return int(opened.num)


def merge_request(repo: str, number: int) -> None:
    """Make all commits of a pull request seen at once."""

    def merge() -> None:
        discussion = api().get_discussion_details(repo, number, repo_type="dataset")
        if discussion.status == "draft":
            api().change_discussion_status(repo, number, "open", repo_type="dataset")
        if discussion.status != "merged":
            api().merge_pull_request(repo, number, repo_type="dataset")

    with_retries(f"merging pull request {number}", repo, merge)
