"""Repositories of the Hub: ids, listings, downloads and commits."""

from __future__ import annotations

import hashlib
import os
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
from ddkit.hub.retries import StaleParent, api, error_text, is_transient, status_of, with_retries

_REPO = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*)(@(?P<revision>[\w./-]+))?")


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository, as the Hub lists it.

    Attributes:
        size: Size in bytes.
        blob: Git's sha1 of the file.
        sha256: Its sha256, if it is stored as a large file (LFS), else None.
    """

    size: int
    blob: str
    sha256: str | None


@dataclass(frozen=True)
class Remote:
    """A repository at a commit.

    Attributes:
        head: The commit; None if the repository has none.
        files: File by path.
        public, gated: Whether the repository is public (None: it does not exist), and whether readers have to ask.
    """

    head: str | None
    files: Mapping[str, RemoteFile]
    public: bool | None = None
    gated: bool = False


def split_id(text: str) -> tuple[str, str | None] | None:
    """Split the id of a dataset.

    Args:
        text: `ORG/NAME[@REVISION]`, or the URL of the dataset on the Hub.

    Returns:
        (repository, revision or None), or None if `text` is not an id.
    """
    found = _REPO.fullmatch(re.sub(r"^(https?://(huggingface\.co|hf\.co)|hf:/)/datasets/", "", text))
    return None if found is None else (found["repo"], found["revision"])


def parse_id(text: str) -> tuple[str, str | None] | None:
    """Split the id of a dataset, unless it is an existing local path.

    Args:
        text: As in `split_id`.

    Returns:
        As `split_id`; also None if `text` is an existing path.
    """
    return None if os.path.exists(text) else split_id(text)


def check_repo(text: str) -> str:
    """Check the id of a repository; returns it.

    Args:
        text: `ORG/NAME`.

    Raises:
        OptionError: The Hub does not allow this id.
    """
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95}", text) or "--" in text or ".." in text:
        found = split_id(text)
        hint = f"; did you mean YOUR_NAME/{text}?" if re.fullmatch(r"[\w.-]+", text) else ""
        hint = f"; did you mean {found[0]}?" if found and found[0] != text else hint
        raise OptionError(
            f"{text!r} is not a repository id; write ORG/NAME with letters, digits, '-', '_' and '.'{hint}"
        )
    return text


# ------------------------------------------------------------------ reading


def remote(repo: str, revision: str | None = None, kind: str = "dataset") -> Remote:
    """List a repository at the head of a revision.

    Args:
        repo: Id of the repository.
        revision: Branch, tag or commit; default: the main branch.
        kind: `dataset`, `model` or `space`.
    """

    def read() -> Remote:
        info = api().repo_info(repo, repo_type=kind, revision=revision)
        access = {"public": not info.private, "gated": bool(getattr(info, "gated", False))}
        if info.sha is None:
            return Remote(None, {}, **access)
        _commit(info.sha)
        tree = api().list_repo_tree(repo, repo_type=kind, revision=info.sha, recursive=True)
        return Remote(info.sha, dict(_file(entry) for entry in tree if hasattr(entry, "blob_id")), **access)

    return with_retries(f"reading {repo}", repo, read, kind)


def _file(entry: Any) -> tuple[str, RemoteFile]:
    """Check a file of a listing, of which the client takes over any JSON values. Raises InvalidResponse."""
    file = RemoteFile(entry.size, entry.blob_id, entry.lfs.sha256 if entry.lfs else None)
    texts = (entry.path, file.blob, "" if file.sha256 is None else file.sha256)
    if type(file.size) is not int or file.size < 0 or not all(isinstance(text, str) for text in texts):
        raise InvalidResponse(f"its list of files holds {str(entry)[:80]!r}")
    return entry.path, file


def head(repo: str, revision: str | None = None) -> str:
    """Return the commit at `revision` (default: the main branch) of the dataset `repo`."""
    info = with_retries(f"reading {repo}", repo, lambda: _commit(api().dataset_info(repo, revision=revision).sha))
    return str(info)


def _commit(sha: Any) -> str:
    """Check a commit hash, which also names a folder in the client's cache. Raises InvalidResponse."""
    if not isinstance(sha, str) or not COMMIT.fullmatch(sha):
        raise InvalidResponse(f"{str(sha)[:60]!r} is not a commit")
    return sha


def find(repo: str, revision: str | None = None, kind: str = "dataset") -> Remote | None:
    """List a repository at the head of a revision, if it exists.

    Args:
        repo: Id of the repository.
        revision: Branch, tag or commit; default: the main branch.
        kind: `dataset`, `model` or `space`.

    Returns:
        The repository; None if it or the revision does not exist or is not visible to this token.
    """
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
    """Download a file of a repository, or take it from the client's cache; interrupted downloads are resumed.

    If the Hub cannot be reached, the file in the cache is used, with a note.

    Args:
        repo: Id of the repository.
        path: Path of the file in the repository.
        revision: Branch, tag or commit; default: the main branch.
        into: Folder to download to instead of the cache.
        again: Download even if the file exists locally.
        kind: `dataset`, `model` or `space`.
        most: Largest size to accept, in bytes; None: any.

    Raises:
        HubFile: The repository has no such file.
        HubAccess, HubError, DiskError.
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
        note(f"{repo}: the Hub cannot be reached; using {path} from the cache")
        return found


def commit_of(fetched: Path, path: str) -> str:
    """Return the commit of `fetched`, a file in the client's cache whose path in the repository is `path`."""
    return fetched.parents[len(Path(path).parts) - 1].name


def licence(repo: str, revision: str | None = None) -> str | None:
    """Return the licence that the card of the dataset `repo` states at `revision`, or None."""
    try:
        card = read_limited(fetch(repo, "README.md", revision=revision, most=LARGEST_CARD), LARGEST_CARD)
        matter = front_matter((card or b"").decode("utf-8", "replace"))[0]
    except (HubFile, ValueError):  # no card, or invalid front matter
        return None
    said = matter.get("license")
    names = [name for name in (said if isinstance(said, list) else [said]) if isinstance(name, str)]
    return ", ".join(names)[:200] or None


# ------------------------------------------------------------------ writing


def whoami(repo: str) -> str:
    """Return the name of the token's account.

    Args:
        repo: The repository that is to be written, for messages.

    Raises:
        HubAccess: There is no valid token.
    """
    return str(with_retries("asking who you are", repo, lambda: api().whoami().get("name", "")))


def create(repo: str, *, private: bool, kind: str = "dataset", sdk: str | None = None) -> None:
    """Create a repository unless it exists.

    Args:
        repo: Id of the repository.
        private: Create it as private; false leaves the default of the account or organisation.
        kind: `dataset`, `model` or `space`, which needs its `sdk`.
    """
    options: dict[str, Any] = {"repo_type": kind, "private": private or None, "exist_ok": True, "space_sdk": sdk}
    with_retries(f"creating {repo}", repo, lambda: api().create_repo(repo, **options), kind)


def create_branch(repo: str, branch: str) -> None:
    """Create the branch `branch` of the dataset `repo` unless it exists."""
    with_retries(
        f"branch {branch}", repo, lambda: api().create_branch(repo, branch=branch, repo_type="dataset", exist_ok=True)
    )


def set_gated(repo: str, gated: str) -> None:
    """Require access requests for the dataset `repo`, approved as `gated` says: `auto` or `manual`."""
    with_retries(f"gating {repo}", repo, lambda: api().update_repo_settings(repo, repo_type="dataset", gated=gated))


def tags(repo: str) -> dict[str, str]:
    """Return the commits of the dataset `repo` that have tags, by tag."""
    found = with_retries(f"reading {repo}", repo, lambda: api().list_repo_refs(repo, repo_type="dataset"))
    return {ref.name: ref.target_commit for ref in found.tags}


def tag(repo: str, name: str, commit: str) -> None:
    """Tag the commit `commit` of the dataset `repo` as `name`; an existing tag is left unchanged."""
    with_retries(
        f"tag {name}",
        repo,
        lambda: api().create_tag(repo, tag=name, revision=commit, repo_type="dataset", exist_ok=True),
    )


def git_sha1(data: bytes) -> str:
    """Return git's sha1, in hex, of a file with the content `data`."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


Content = Path | bytes


def same(content: Content, sha256: str, there: RemoteFile | None) -> bool:
    """Return whether the Hub has a file with this content.

    Args:
        content: The content, or the path of a local file.
        sha256: Its sha256, in hex.
        there: The file on the Hub; None if it does not exist.
    """
    if there is None:
        return False
    if there.sha256 is not None:
        return there.sha256 == sha256
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    return there.size == size and there.blob == git_sha1(
        content if isinstance(content, bytes) else content.read_bytes()
    )


class Upload:
    """Files of one commit: `send` uploads large files, `commit` then makes all files visible at once.

    Args:
        repo: Id of the repository.
        add: Content, or local path, by path in the repository.
        delete: Paths to delete.
        kind: `dataset`, `model` or `space`.
    """

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
        """Upload the files that the Hub stores as large files (LFS), except those it already has.

        Args:
            revision: The branch of the commit.
            create_pr: Whether the commit opens a pull request.
            advance: Called with the number of bytes of each group of files once it is uploaded.
            at_once: Number of files in a group.
        """
        for start in range(0, len(self._add), at_once):
            part = self._add[start : start + at_once]

            def preupload(part: list[Any] = part) -> None:
                api().preupload_lfs_files(
                    self.repo, part, repo_type=self.kind, revision=revision, create_pr=create_pr, free_memory=False
                )

            with_retries(f"sending {part[0].path_in_repo}", self.repo, preupload, self.kind)
            advance(sum(operation.upload_info.size for operation in part))

    def commit(self, message: str, *, parent: str | None, revision: str | None = None, create_pr: bool = False) -> Any:
        """Create the commit, without retries.

        Args:
            message: Commit message.
            parent: The commit that the branch must be at.
            revision: The branch.
            create_pr: Whether to open a pull request.

        Returns:
            The client's CommitInfo (oid, pr_url, pr_revision).

        Raises:
            StaleParent: The branch is at another commit, or the response was lost.
        """

        def once() -> Any:
            try:
                return api().create_commit(
                    self.repo, [*self._add, *self._delete], commit_message=message, repo_type=self.kind,
                    revision=revision, parent_commit=parent, create_pr=create_pr,
                )  # fmt: skip
            except Exception as error:
                if status_of(error) == 412 or (is_transient(error) and not (create_pr and status_of(error) is None)):
                    raise StaleParent(error_text(error)) from error
                raise

        return with_retries(f"committing to {self.repo}", self.repo, once, self.kind)


def open_request(repo: str, title: str) -> int:
    """Open a pull request on the dataset `repo`, named `title`, for several commits; returns its number."""
    opened = with_retries(
        "opening a pull request", repo, lambda: api().create_pull_request(repo, title, repo_type="dataset")
    )
    return int(opened.num)


def merge_request(repo: str, number: int) -> None:
    """Merge pull request `number` of the dataset `repo`, which makes all its commits visible at once."""

    def merge() -> None:
        discussion = api().get_discussion_details(repo, number, repo_type="dataset")
        if discussion.status == "draft":
            api().change_discussion_status(repo, number, "open", repo_type="dataset")
        if discussion.status != "merged":
            api().merge_pull_request(repo, number, repo_type="dataset")

    with_retries(f"merging pull request {number}", repo, merge)
