"""Opening a set wherever it lies: in a directory, or on the Hub, whose files are fetched and compared first."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ddkit import hub
from ddkit.core.console import note, progress, size_words
from ddkit.core.files import file_sha256
from ddkit.errors import HubAccess, HubError, HubFile, IntegrityError, OptionError, SetError
from ddkit.format.damage import images_problem, shard_problem
from ddkit.format.entries import files_of
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
    """The set in a directory, or under `ORG/NAME[@REVISION]` on the Hub: the files that are needed are fetched into the
    client's cache and compared with the manifest, so that an offline call serves from there.

    ipc: fetch this prefix only; labels, images: fetch shards with labels, tars with images alone. Manifest.root is the
    directory. Raises SetError, HubAccess, HubError, IntegrityError, FormatVersion.
    """
    manifest, named = open_manifest(source, revision), hub.parse_id(str(source))
    if named is not None:
        fetch_files(manifest, named[0], manifest.files(ipc, labels=labels, images=images))
    return manifest


def open_manifest(source: str | Path, revision: str | None = None) -> Manifest:
    """The manifest alone of a set in a directory or on the Hub; raises as `open_set`."""
    named = hub.parse_id(str(source))
    if named is None:
        try:
            return read_manifest(source)
        except SetError as error:
            if hub.split_id(str(source)) and Path(source).exists():
                raise SetError(f"{error}; or rename this folder, which hides the Hub's {source}") from error
            raise
    try:
        return remote_manifest(*named, revision)
    except (HubAccess, HubError) as error:
        raise type(error)(f"{source} is no directory here, and on the Hub: {error}") from error


def remote_manifest(repo: str, named: str | None = None, revision: str | None = None) -> Manifest:
    """The manifest of a set on the Hub; its `root` is the commit's folder in the cache.

    named, revision: a branch, tag or commit, as part of the id and given beside it. Raises OptionError where the two
    differ, SetError, HubAccess, HubError, IntegrityError, FormatVersion.
    """
    if named and revision and named != revision:
        raise OptionError(f"{repo}@{named} and revision {revision} name two; leave one out")
    try:
        path = hub.fetch(repo, FILE, revision=revision or named, most=LARGEST_MANIFEST)
    except HubFile as error:
        raise SetError(
            f"{repo} on the Hub is no ddkit set (it has no {FILE}); `load_dataset` may still open it"
        ) from error
    try:
        found = read_manifest(path.parent)
    except IntegrityError:  # the copy in the cache may be at fault
        path = hub.fetch(repo, FILE, revision=hub.commit_of(path, FILE), again=True, most=LARGEST_MANIFEST)
        try:
            found = read_manifest(path.parent)
        except IntegrityError as error:
            problem = str(error).removeprefix(str(path)).rpartition(";")[0].strip()
            raise IntegrityError(f"{repo}: its {FILE} {problem}; tell its owner") from error
    return found.at(found.root, repo)


def fetch_files(manifest: Manifest, repo: str, files: Mapping[str, str]) -> None:
    """Fetch files of a set (path -> sha256) to `manifest.root` in the cache, compared with the manifest.

    One whose bytes differ is fetched once more. Raises IntegrityError naming shard and row.
    """
    commit = manifest.root.name
    wanted = {path: sha for path, sha in files.items() if not (manifest.root / path).is_file()}
    most = largest_files(manifest)
    if total := sum(most[path] for path in wanted if path.endswith(".tar")):
        note(f"{repo}: fetching {size_words(total)} in {len(wanted)} files")
    with progress(f"fetching {repo}", len(wanted), "files") as advance:
        for path in wanted:
            fetch_listed(repo, path, commit, most=most[path])
            advance(1)
    differing = [path for path, sha256 in files.items() if file_sha256(manifest.root / path) != sha256]
    for path in differing:  # the copy in the cache may be at fault
        hub.fetch(repo, path, revision=commit, again=True, most=most[path])
        if file_sha256(manifest.root / path) != files[path]:
            raise IntegrityError(
                f"{repo} at {commit[:12]}: {blame(manifest, path)}; it was damaged there, tell its owner"
            )


def largest_files(manifest: Manifest) -> dict[str, int]:
    """path -> the most bytes that a listed file can have: a tar's own, and what records of its rows take."""
    most = {}
    for shard in manifest.shards:
        most[shard.path] = shard.bytes
        most[shard.rows_path] = shard.rows * LONGEST_ROW
        if shard.images:
            most[shard.images.path] = shard.images.bytes
    return most


def fetch_listed(repo: str, path: str, commit: str, into: Path | None = None, *, most: int | None = None) -> Path:
    """A file that the manifest lists, of at most `most` bytes. Raises IntegrityError where the repository has none."""
    try:
        return hub.fetch(repo, path, revision=commit, into=into, most=most)
    except HubFile as error:
        raise IntegrityError(f"{repo} at {commit[:12]}: {path} is missing; tell its owner") from error


def blame(manifest: Manifest, path: str) -> str:
    """Which shard and row a file that differs from the manifest breaks, as far as what is there can tell."""
    for shard in manifest.shards:
        if path in files_of([shard]):
            beside = shard.images is not None and path == shard.images.path
            problem = images_problem(manifest, shard) if beside else shard_problem(manifest, shard)
            if problem:
                return problem
    return f"{path} differs from the manifest"


def is_remote(source: str) -> bool:
    """Whether a set is looked for on the Hub."""
    return hub.parse_id(source) is not None


def verify(source: str | Path, full: bool = False) -> list[str]:
    """Every problem of a set in a directory or on the Hub, one line each; an empty list means all is well.

    On the Hub shards are compared by its own sha256; full: fetched and read. Raises as `open_set`.
    """
    return verify_set(str(source), full)[1]


def verify_set(source: str, full: bool = False) -> tuple[Manifest, list[str]]:
    """A set compared with its manifest, wherever it lies: the manifest and every problem.

    On the Hub by the Hub's own sha256, without fetching a shard, or with `full` fetched and read row by row. Small
    files that the Hub keeps without a sha256 are fetched.
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
