"""Downloads a set, or a part of one, from the Hub: fetches and verifies all files, and writes the manifest last."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import replace
from pathlib import Path

from ddkit import hub
from ddkit.core.console import note, progress, size_words
from ddkit.core.files import disk_errors, file_sha256, publish, refuse_links, write_bytes
from ddkit.core.front_matter import LARGEST_CARD
from ddkit.core.locks import locked
from ddkit.errors import HubFile, IntegrityError, OtherRun
from ddkit.format.manifest import Manifest, SubsetOf
from ddkit.format.manifest_file import check_links, is_set, read_manifest, work_beside, write_manifest
from ddkit.format.measurements import merged_measurements
from ddkit.format.results import merged_results
from ddkit.format.verification import set_problems
from ddkit.publishing.rendering import card_files, card_text, parse_user_content
from ddkit.publishing.user_content import UserContent, merged
from ddkit.sets.opening import fetch_listed, largest_files, remote_manifest


def pull(source: str, directory: str | Path, *, ipc: int | None = None, revision: str | None = None) -> Manifest:
    """Download the set `ORG/NAME[@REVISION]` into a directory.

    An interrupted download is resumed; complete files are kept.

    Args:
        source: "ORG/NAME[@REVISION]" on the Hub.
        directory: The directory to make.
        ipc: Only the first images per class (one of the set's prefixes); the manifest then records that it is a part.
        revision: A branch, tag or commit.

    Returns:
        The manifest of `directory`.

    Raises:
        SetError, HubAccess, HubError.
        OtherRun: `directory` holds something else.
        IntegrityError: A file is damaged; the message names shard and row.
    """
    out, (repo, named) = Path(directory), hub.split_id(source) or (hub.check_repo(source), None)
    whole = remote_manifest(repo, named, revision)
    commit = whole.root.name
    wanted = whole if ipc in (None, whole.ipc) else part_of(whole, ipc or 0, repo, commit)
    with locked(out, "pulling", {"repo": repo, "commit": commit, "ipc": wanted.ipc}):
        return _pull(out, repo, commit, wanted)


def _pull(out: Path, repo: str, commit: str, wanted: Manifest) -> Manifest:
    """Run `pull`; the caller holds the lock of `out`. wanted: manifest of the set or part to download."""
    before = _claim(out, wanted)
    results = merged_results(wanted.results, before.results if before else ())
    measurements = merged_measurements(wanted.measurements, before.measurements if before else ())
    wanted = wanted.changed(results=results, measurements=measurements).at(out, repo)
    loading = work_beside(out) / "pulling"
    loading.mkdir(parents=True, exist_ok=True)
    files = wanted.files()
    missing = [path for path, sha in files.items() if not ((out / path).is_file() and file_sha256(out / path) == sha)]
    most = largest_files(wanted)
    total = size_words(sum(most[path] for path in missing if not path.endswith(".rows")))
    note(f"{repo} at {commit[:12]}: {total} in {len(missing)} files to fetch")
    with progress(f"fetching {repo}", len(missing), "files") as advance:
        for path in missing:
            _fetch(repo, path, commit, loading, out, files[path], most[path])
            advance(1)
    if problems := set_problems(wanted):
        raise IntegrityError(f"{repo} at {commit[:12]}: {problems[0]}; it is damaged there: report it to its owner")
    theirs = parse_user_content(_card(repo, commit), out, f"the card of {repo}")
    ours = parse_user_content(card_text(out / "README.md"), out, str(out / "README.md")) if before else UserContent()
    for name, content in card_files(wanted, merged(ours, theirs)).items():
        write_bytes(out / name, content)
    write_manifest(out, wanted)  # last, since it marks the set as complete
    for path in (before.files() if before else {}).keys() - files.keys():
        (out / path).unlink(missing_ok=True)  # belongs to an earlier version of the same set
    shutil.rmtree(loading)
    with contextlib.suppress(OSError):
        work_beside(out).rmdir()  # fails unless it is empty
    return read_manifest(out)


def part_of(manifest: Manifest, ipc: int, repo: str, commit: str) -> Manifest:
    """Return the manifest of a part of a set: its prefixes up to `ipc`, with a reference to the whole.

    Args:
        manifest: The whole set.
        ipc: Images per class of the part.
        repo: Repository of the whole set.
        commit: Its commit.

    Raises:
        SetError: `ipc` is not a prefix of the set.
    """
    plan = {prefix: log for prefix, log in manifest.log.plan.items() if int(prefix) <= ipc}
    return manifest.changed(
        shards=tuple(manifest.shards_of(ipc)),
        ipc=ipc,
        prefixes=tuple(prefix for prefix in manifest.prefixes if prefix <= ipc),
        name=manifest.name.removesuffix(f"-ipc{manifest.ipc}") + f"-ipc{ipc}",
        results=tuple(result for result in manifest.results if result.ipc <= ipc),
        measurements=tuple(one for one in manifest.measurements if one.ipc <= ipc),
        log=replace(manifest.log, plan=plan),
        subset_of=SubsetOf(repo=repo, revision=commit, content=manifest.content, ipc=manifest.ipc),
    )


def _claim(out: Path, wanted: Manifest) -> Manifest | None:
    """Check that `out` is new or holds this set; return the manifest in it, or None.

    Raises OtherRun if it holds something else.
    """
    if out.exists() and not out.is_dir():
        raise OtherRun(f"{out} is a file; give the name of a new directory")
    check_links(out)
    refuse_links(out.absolute().parent, [work_beside(out).name])
    begun = (work_beside(out) / "pulling").is_dir()
    before = None
    if is_set(out):
        before = read_manifest(out)
        if before.fingerprint != wanted.fingerprint:
            raise OtherRun(f"{out} holds another set ({before.name}); choose another directory")
        if before.ipc > wanted.ipc:
            raise OtherRun(f"{out} holds more of this set (ipc {before.ipc}, not {wanted.ipc}); choose another")
    elif out.exists() and not begun and any(out.iterdir()):
        raise OtherRun(f"{out} is not empty and not a distilled set; give the name of a new directory")
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    return before


def _fetch(repo: str, path: str, commit: str, loading: Path, out: Path, sha256: str, most: int) -> None:
    """Move one file to its place; if its bytes differ, download it a second time (the caller verifies it)."""
    found = fetch_listed(repo, path, commit, loading, most=most)
    if file_sha256(found) != sha256:
        found = hub.fetch(repo, path, revision=commit, into=loading, again=True, most=most)
    with disk_errors(out / path):
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        publish(found, out / path)


def _card(repo: str, commit: str) -> str | None:
    try:
        return card_text(hub.fetch(repo, "README.md", revision=commit, most=LARGEST_CARD))
    except HubFile:
        return None
