"""From the Hub to a directory: fetch, compare every byte, the manifest last. Also a part of a set, cut honestly."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from ddkit import hub
from ddkit.errors import HubFile, IntegrityError, OtherRun
from ddkit.format.integrity import verify
from ddkit.format.manifest import FILE, Manifest, is_set, read_manifest, seal, write_manifest
from ddkit.format.remote import blame, remote_manifest
from ddkit.format.shards import file_sha256
from ddkit.publishing.card import FRONT_KEYS, publish_files
from ddkit.publishing.outside import outside_of
from ddkit.runtime import is_temporary, note, progress, size_words


def pull(source: str, directory: str | Path, *, ipc: int | None = None, revision: str | None = None) -> Manifest:
    """Fetch the set `ORG/NAME[@REVISION]` into `directory`; a broken download is continued, what is there is kept.

    ipc: only the first N images per class (one of the set's prefixes); the manifest then says that it is a part.
    Returns the manifest. Raises SetError, OtherRun (something else is in `directory`), HubAccess, HubError,
    IntegrityError naming shard and row.
    """
    named = hub.parse_id(source)
    repo, at = named if named else (hub.check_repo(source), None)
    out = Path(directory)
    whole = remote_manifest(repo, revision or at)
    commit = whole.root.name
    data = dict(whole.data) if ipc in (None, whole.ipc) else cut(whole, ipc or 0, repo, commit)
    loading = out.with_name(out.resolve().name + ".work") / "pull"
    _claim(out, loading, data)
    files = Manifest(out, data).files()
    missing = [path for path, sha in files.items() if not ((out / path).is_file() and file_sha256(out / path) == sha)]
    sizes = {shard["path"]: shard["bytes"] for shard in data["shards"]}
    note(
        f"{repo} at {commit[:12]}: {size_words(sum(sizes.get(p, 0) for p in missing))} in {len(missing)} files to fetch"
    )
    with progress(f"fetching {repo}", len(missing), "files") as advance:
        for path in missing:
            _fetch(repo, path, commit, loading, out, files[path])
            advance(1)
    shown = Manifest(out, data)
    if wrong := [path for path, sha in files.items() if file_sha256(out / path) != sha]:
        (out / FILE).unlink(missing_ok=True)
        raise IntegrityError(f"{repo} at {commit[:12]}: {blame(shown, wrong[0])}; it was damaged there, tell its owner")
    shown = write_manifest(out, data)
    for file in (*out.glob("data/*"), *out.glob("images/*")):
        if str(file.relative_to(out)) not in files and not is_temporary(file):
            file.unlink()  # of an earlier state of the same set
    if problems := verify(out):
        raise IntegrityError(f"{repo} at {commit[:12]}: {problems[0]}; it was damaged there, tell its owner")
    publish_files(shown, outside_of(_card(repo, commit), FRONT_KEYS))
    shutil.rmtree(loading)
    return read_manifest(out)


def cut(manifest: Manifest, ipc: int, repo: str, commit: str) -> dict[str, Any]:
    """The manifest of a part of a set: its prefixes up to `ipc`, and whose part it is. Raises SetError."""
    data = dict(manifest.data)
    kept = [prefix for prefix in manifest.prefixes if prefix <= ipc]
    of_whole = {"repo": repo, "revision": commit, "content": data["content"], "ipc": manifest.ipc}
    data |= {
        "shards": manifest.shards(ipc),
        "ipc": ipc,
        "prefixes": kept,
        "name": data["name"].removesuffix(f"-ipc{manifest.ipc}") + f"-ipc{ipc}",
        "results": [result for result in data["results"] if result["ipc"] <= ipc],
        "log": data["log"] | {"plan": {k: v for k, v in data["log"]["plan"].items() if int(k) <= ipc}},
        "subset_of": of_whole,
    }
    return seal(data)


def _claim(out: Path, loading: Path, data: dict[str, Any]) -> None:
    """Make `out` this set's, or raise OtherRun where it holds something else."""
    if is_set(out):
        there = read_manifest(out).data
        if there["fingerprint"] != data["fingerprint"]:
            raise OtherRun(f"{out} holds another set ({there['name']}); choose another directory")
        if there["ipc"] > data["ipc"]:
            raise OtherRun(f"{out} holds more of this set (ipc {there['ipc']}, not {data['ipc']}); choose another")
    elif out.exists() and not loading.is_dir() and (not out.is_dir() or any(out.iterdir())):
        raise OtherRun(f"{out} is not empty and not a distilled set; give the name of a new directory")
    loading.mkdir(parents=True, exist_ok=True)
    out.mkdir(parents=True, exist_ok=True)


def _fetch(repo: str, path: str, commit: str, loading: Path, out: Path, sha256: str) -> None:
    """One file to its place; one whose bytes differ is fetched once more (a check follows)."""
    found = hub.fetch(repo, path, revision=commit, into=loading)
    if file_sha256(found) != sha256:
        found = hub.fetch(repo, path, revision=commit, into=loading, again=True)
    (out / path).parent.mkdir(parents=True, exist_ok=True)
    os.replace(found, out / path)


def _card(repo: str, commit: str) -> str | None:
    try:
        return hub.fetch(repo, "README.md", revision=commit).read_text(encoding="utf-8", errors="replace")
    except HubFile:
        return None
