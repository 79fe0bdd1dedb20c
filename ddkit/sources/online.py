"""Datasets on the Hub as sources: the files of each split, and fetching of one split.

`datasets` interprets the repository (`configs` of its card, or file names). Only the files of the requested split are
fetched, to the client's cache, and opened like local files.
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

KINDS = ("parquet", "webdataset", "imagefolder", "arrow")  # other builders may execute pickles, or contain no images


@dataclass(frozen=True)
class Online:
    """A dataset on the Hub at one commit.

    Attributes:
        repo: Id of the dataset.
        commit: The commit.
        kind: The builder of `datasets` that reads its files.
        splits: Paths of the files by split.
        features: Features that its card declares, or None.
    """

    repo: str
    commit: str
    kind: str
    splits: Mapping[str, list[str]]
    features: Any


class _Unopenable(Exception):
    """`datasets` finds no files that it can read."""


def is_online(data: str) -> bool:
    """Return whether the source `data` is looked up on the Hub."""
    return data != "digits" and hub.parse_id(data) is not None


def look_up(data: str) -> Online:
    """Return the metadata of a dataset on the Hub, without fetching its files.

    Args:
        data: `ORG/NAME[@REVISION]`.

    Raises:
        SourceError, HubAccess, HubError.
    """
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
        raise SourceError(f"{data} on the Hub cannot be opened: {reason[:300]}; --data also takes a folder") from error
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
        raise _Unopenable(str(chain[-1])) from error  # the underlying error, not that of the cache


def fetch_split(source: Online, split: str) -> list[Path]:
    """Fetch the files of one split to the client's cache; returns their paths.

    Args:
        source: The dataset.
        split: The split, as the dataset names it.
    """
    paths = source.splits[split]
    if len(paths) > 1:
        note(f"{source.repo}: split {split}, {len(paths)} files")
    files = []
    with progress(f"fetching {source.repo}", len(paths), "files") as advance:
        for path in paths:
            files.append(hub.fetch(source.repo, path, revision=source.commit))
            advance(1)
    return files
