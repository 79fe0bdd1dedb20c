"""A dataset of the Hub as a source: which files its splits are made of, and the files of one split, fetched.

`datasets` says what the repository means (its card's `configs`, or the file names); only the files of the split that is
used are fetched, into the client's cache, and opened like files that lie here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddkit import hub
from ddkit.core.console import note, progress
from ddkit.core.worker_state import STATE
from ddkit.errors import SourceError

KINDS = ("parquet", "webdataset", "imagefolder", "arrow")  # others may run what they read (pickles), or hold no images


@dataclass(frozen=True)
class Online:
    """A dataset of the Hub at one commit. kind: the builder of `datasets` that reads its files; splits: name -> paths;
    features: of its card, or None."""

    repo: str
    commit: str
    kind: str
    splits: Mapping[str, list[str]]
    features: Any


class _Unopenable(Exception):
    """`datasets` finds nothing it can read there."""


def is_online(data: str) -> bool:
    """Whether a source is looked for on the Hub."""
    return data != "digits" and hub.parse_id(data) is not None


def look_up(data: str) -> Online:
    """What `ORG/NAME[@REVISION]` holds, without fetching its files. Raises SourceError, HubAccess, HubError."""
    return STATE.keep("hub dataset", data, lambda: _look_up(data), most=8)


def _look_up(data: str) -> Online:
    named = hub.parse_id(data)
    assert named is not None
    repo, revision = named
    commit = hub.head(repo, revision)
    try:
        builder = hub.with_retries(f"looking up {data}", repo, lambda: _builder(repo, commit))
    except _Unopenable as error:
        reason = " ".join(str(error).split())
        raise SourceError(f"{data} on the Hub cannot be opened: {reason[:300]}; --data takes a folder, too") from error
    splits: dict[str, list[str]] = {}
    for split, urls in (builder.config.data_files or {}).items():
        marked = [str(url).partition(f"{repo}@")[2] for url in urls]
        if not all(marked):
            raise SourceError(f"{data} takes files from elsewhere ({urls[0]}); download it and give the folder")
        splits[str(split)] = [path.partition("/")[2] for path in marked]
    if not splits:
        raise SourceError(f"{data} on the Hub names no data files; download it and give the folder")
    kind = builder.__module__.split(".")[-1]
    if kind not in KINDS:
        raise SourceError(
            f"{data} is read as {kind}; ddkit reads {', '.join(KINDS)} of the Hub: download and convert it"
        )
    return Online(repo, commit, builder.__module__.split(".")[-1], splits, builder.info.features)


def _builder(repo: str, commit: str) -> Any:
    import datasets

    datasets.disable_progress_bars()
    try:
        return datasets.load_dataset_builder(repo, revision=commit)
    except (OSError, ValueError) as error:
        chain = [e for e in (error, error.__context__, error.__cause__) if e is not None]
        if any(isinstance(e, ConnectionError | TimeoutError) or getattr(e, "response", None) for e in chain):
            raise
        raise _Unopenable(str(chain[-1])) from error  # its own first error hides behind that of its cache


def fetch_split(source: Online, split: str) -> list[Path]:
    """The files of one split, in the client's cache."""
    paths = source.splits[split]
    if len(paths) > 1:
        note(f"{source.repo}: split {split}, {len(paths)} files")
    files = []
    with progress(f"fetching {source.repo}", len(paths), "files") as advance:
        for path in paths:
            files.append(hub.fetch(source.repo, path, revision=source.commit))
            advance(1)
    return files
