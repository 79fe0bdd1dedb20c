"""Opens distilled sets from a directory, or from the Hub, whose files are fetched and checked first."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from ddkit import hub
from ddkit.core.console import note, progress, size_words
from ddkit.core.files import file_sha256
from ddkit.errors import HubAccess, HubError, HubFile, IntegrityError, OptionError, SetError
from ddkit.format.damage import images_problem, shard_problem
from ddkit.format.entries import files_of
from ddkit.format.label_file import label_file_problem
from ddkit.format.manifest import Manifest
from ddkit.format.manifest_file import FILE, LARGEST_MANIFEST, read_manifest
from ddkit.format.row_records import LONGEST_ROW
from ddkit.format.verification import set_problems


def open_set(
    source: str | Path,
    ipc: int | None = None,
    *,
    revision: str | None = None,
    labels: bool = True,
    images: bool = False,
) -> Manifest:
    """Open a set in a directory or on the Hub.

    Files of the Hub are fetched to the client's cache and compared with the manifest; a later call also works offline.

    Args:
        source: The directory, or `ORG/NAME[@REVISION]`.
        ipc: Images per class of the prefix to fetch; default: the whole set.
        revision: Branch, tag or commit on the Hub; default: the main branch.
        labels: Fetch the shards with labels.
        images: Fetch the tars with images alone.

    Returns:
        The manifest; its `root` is the directory.

    Raises:
        SetError, HubAccess, HubError, IntegrityError, FormatVersion.
    """
    manifest, named = open_manifest(source, revision), hub.parse_id(str(source))
    if named is not None:
        fetch_files(manifest, named[0], manifest.files(ipc, labels=labels, images=images))
    return manifest


def open_manifest(source: str | Path, revision: str | None = None) -> Manifest:
    """Open only the manifest of a set in a directory or on the Hub; raises as `open_set`.

    Args:
        source: The directory, or `ORG/NAME[@REVISION]`.
        revision: Branch, tag or commit on the Hub; default: the main branch.
    """
    named = hub.parse_id(str(source))
    if named is None:
        try:
            return read_manifest(source)
        except SetError as error:
            if hub.split_id(str(source)) and os.path.exists(source):
                raise SetError(f"{error}; or rename this folder, which hides the Hub's {source}") from error
            raise
    try:
        return remote_manifest(*named, revision)
    except (HubAccess, HubError) as error:
        raise type(error)(f"{source} is not a directory, and on the Hub: {error}") from error


def remote_manifest(repo: str, named: str | None = None, revision: str | None = None) -> Manifest:
    """Fetch the manifest of a set on the Hub.

    Args:
        repo: Id of the dataset.
        named: Revision that is part of the id.
        revision: Revision that is given separately: branch, tag or commit.

    Returns:
        The manifest; its `root` is the folder of the commit in the client's cache.

    Raises:
        OptionError: `named` and `revision` differ.
        SetError, HubAccess, HubError, IntegrityError, FormatVersion.
    """
    if named and revision and named != revision:
        raise OptionError(f"{repo}@{named} and revision {revision} name two revisions; leave one out")
    try:
        path = hub.fetch(repo, FILE, revision=revision or named, most=LARGEST_MANIFEST)
    except HubFile as error:
        raise SetError(
            f"{repo} on the Hub is not a ddkit set (it has no {FILE}); `load_dataset` may still open it"
        ) from error
    try:
        found = read_manifest(path.parent)
    except IntegrityError:  # the cached copy may be damaged
        path = hub.fetch(repo, FILE, revision=hub.commit_of(path, FILE), again=True, most=LARGEST_MANIFEST)
        try:
            found = read_manifest(path.parent)
        except IntegrityError as error:
            problem = str(error).removeprefix(str(path)).rpartition(";")[0].strip()
            raise IntegrityError(f"{repo}: its {FILE} {problem}; report it to its owner") from error
    return found.at(found.root, repo)


def fetch_files(manifest: Manifest, repo: str, files: Mapping[str, str]) -> None:
    """Fetch files of a set to `manifest.root` in the cache and compare them with the manifest.

    A file that differs is fetched once more.

    Args:
        manifest: The manifest.
        repo: Id of the dataset.
        files: sha256 of the files by path.

    Raises:
        IntegrityError: A file still differs; the message names shard and row.
    """
    commit = manifest.root.name
    wanted = {path: sha for path, sha in files.items() if not (manifest.root / path).is_file()}
    most = largest_files(manifest)
    if total := sum(most[path] for path in wanted if not path.endswith(".rows")):
        note(f"{repo}: fetching {size_words(total)} in {len(wanted)} files")
    with progress(f"fetching {repo}", len(wanted), "files") as advance:
        for path in wanted:
            fetch_listed(repo, path, commit, most=most[path])
            advance(1)
    differing = [path for path, sha256 in files.items() if file_sha256(manifest.root / path) != sha256]
    for path in differing:  # the cached copy may be damaged
        hub.fetch(repo, path, revision=commit, again=True, most=most[path])
        if file_sha256(manifest.root / path) != files[path]:
            raise IntegrityError(
                f"{repo} at {commit[:12]}: {locate_damage(manifest, path)}; it is damaged there: report it to its owner"
            )


def fetch_label_file(manifest: Manifest) -> None:
    """Fetch the file of labels that all rows share, if the set has one and was opened on the Hub.

    Args:
        manifest: The set.

    Raises:
        HubAccess, HubError, IntegrityError.
    """
    entry = manifest.labels.file
    if entry is not None and manifest.location.hub_id is not None:
        fetch_files(manifest, manifest.location.hub_id, {entry.path: entry.sha256})


def largest_files(manifest: Manifest) -> dict[str, int]:
    """Return the largest size, in bytes, that each listed file can have, by path.

    Args:
        manifest: The manifest; it lists the sizes of tars, and the number of rows for files of records.
    """
    most: dict[str, int] = {manifest.labels.file.path: manifest.labels.file.bytes} if manifest.labels.file else {}
    for shard in manifest.shards:
        most[shard.path] = shard.bytes
        most[shard.rows_path] = shard.rows * LONGEST_ROW
        if shard.images:
            most[shard.images.path] = shard.images.bytes
    return most


def fetch_listed(repo: str, path: str, commit: str, into: Path | None = None, *, most: int | None = None) -> Path:
    """Fetch a file that the manifest lists.

    Args:
        repo: Id of the dataset.
        path: Path of the file.
        commit: The commit.
        into: Folder to download to instead of the cache.
        most: Largest size to accept, in bytes; None: any.

    Raises:
        IntegrityError: The repository does not have the file.
    """
    try:
        return hub.fetch(repo, path, revision=commit, into=into, most=most)
    except HubFile as error:
        raise IntegrityError(f"{repo} at {commit[:12]}: {path} is missing; report it to its owner") from error


def locate_damage(manifest: Manifest, path: str) -> str:
    """Describe which shard and row a damaged file affects, as far as the local files show.

    Args:
        manifest: The manifest.
        path: The file that differs from it.
    """
    if manifest.labels.file and path == manifest.labels.file.path and (problem := label_file_problem(manifest)):
        return problem
    for shard in manifest.shards:
        if path in files_of([shard]):
            beside = shard.images is not None and path == shard.images.path
            problem = images_problem(manifest, shard) if beside else shard_problem(manifest, shard)
            if problem:
                return problem
    return f"{path} differs from the manifest"


def is_remote(source: str) -> bool:
    """Return whether the set `source` is looked up on the Hub."""
    return hub.parse_id(source) is not None


def verify(source: str | Path, full: bool = False) -> list[str]:
    """Check a set in a directory or on the Hub against its manifest; raises as `open_set`.

    Args:
        source: The directory, or `ORG/NAME[@REVISION]`, whose files are compared by the sha256 that the Hub lists.
        full: Whether to fetch the files of a set on the Hub and check every row.

    Returns:
        One line per problem; empty if the set is intact.
    """
    return verify_set(str(source), full)[1]


def verify_set(source: str, full: bool = False) -> tuple[Manifest, list[str]]:
    """Check a set in a directory or on the Hub against its manifest.

    On the Hub, files are compared by the sha256 that it lists, without fetching them; files stored without one are
    fetched.

    Args:
        source: The directory, or `ORG/NAME[@REVISION]`.
        full: Whether to fetch the files of a set on the Hub and check every row.

    Returns:
        (manifest, problems).
    """
    named = hub.parse_id(source)
    if named is None:
        manifest = read_manifest(source)
        return manifest, set_problems(manifest)
    repo, manifest = named[0], remote_manifest(*named)
    commit = manifest.root.name
    there = hub.remote(repo, commit).files
    problems, most = [], largest_files(manifest)
    for path, sha256 in manifest.files().items():
        if path not in there:
            problems.append(f"{path} is missing")
            continue
        found = there[path].sha256 or file_sha256(hub.fetch(repo, path, revision=commit, most=most[path]))
        if found != sha256:
            problems.append(f"{path} differs from the manifest (sha256 {found[:12]}, not {sha256[:12]})")
    if full and not problems:
        try:
            fetch_files(manifest, repo, manifest.files())
        except IntegrityError as error:
            return manifest, [str(error).rpartition(";")[0]]
        problems = set_problems(manifest)
    return manifest, problems
