"""Who may write a set: one process, or several that share a run and take turns where only one may write."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ddkit.core.locks import locked
from ddkit.engine import Engine
from ddkit.format.manifest import Manifest
from ddkit.pipeline.describing import existing_manifest, finish


@contextlib.contextmanager
def writing(out: Path, what: str, run: Mapping[str, Any], engine: Engine) -> Iterator[None]:
    """Hold the lock on OUT while the block runs, unless other processes share the run.

    Args:
        out: The directory OUT.
        what: What this process does, for messages of the processes that wait, as in "distilling".
        run: What determines the set; a process of another run is refused.
        engine: Where the units of the run are run.

    Raises:
        OtherRun: A process of another run holds the lock.
    """
    with contextlib.nullcontext() if engine.shared else locked(out, what, run):
        yield


@contextlib.contextmanager
def in_turn(out: Path, what: str, run: Mapping[str, Any], engine: Engine) -> Iterator[None]:
    """Hold the lock on OUT while the block runs, if other processes share the run; else `writing` holds it already.

    Args:
        out: As for `writing`.
        what: As for `writing`.
        run: As for `writing`.
        engine: As for `writing`.

    Raises:
        OtherRun: A process of another run holds the lock.
    """
    with locked(out, what, run) if engine.shared else contextlib.nullcontext():
        yield


def finish_in_turn(out: Path, manifest: Manifest, engine: Engine) -> Manifest:
    """Finish the set (`finish`), or return its manifest if a process that shares the run has finished it.

    Args:
        out: The directory OUT.
        manifest: The manifest of all packed shards.
        engine: Where the units of the run are run.

    Raises:
        IntegrityError: A file differs from what was written.
    """
    with in_turn(out, "finishing", {}, engine):
        kept = existing_manifest(out) if engine.shared else None
        if kept is not None and kept.content == manifest.content and kept.prefixes == manifest.prefixes:
            return kept
        return finish(out, manifest)
