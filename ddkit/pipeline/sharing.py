"""Who may write a set: one process, or several that share a run and take turns where only one may write."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ddkit.core.locks import differs, locked
from ddkit.engine import Engine
from ddkit.engine.heartbeats import Heartbeat
from ddkit.errors import OtherRun
from ddkit.format.manifest import Manifest
from ddkit.pipeline.describing import existing_manifest, finish
from ddkit.pipeline.record import work_dir
from ddkit.publishing.rendering import stale_renderings

RANKS = "ranks"  # folder of the heartbeats of processes that share a run, in OUT.work


@contextlib.contextmanager
def writing(out: Path, what: str, run: Mapping[str, Any], engine: Engine) -> Iterator[None]:
    """Keep processes of other runs from OUT while the block runs.

    A process alone holds the lock on OUT. Processes that share a run have heartbeats in OUT.work instead.

    Args:
        out: The directory OUT.
        what: What this process does, for messages of the processes that wait, as in "distilling".
        run: What determines the set; a process of another run is refused.
        engine: Where the units of the run are run.

    Raises:
        OtherRun: A process of another run is writing OUT.
    """
    run = {"what": what} | dict(run)
    present = Heartbeat(work_dir(out) / RANKS, json.dumps(run, default=str))
    with contextlib.ExitStack() as stack:
        if engine.shared:
            with locked(out, what, run):
                stack.enter_context(present)
                _refuse_others(out, run, present)
        else:
            stack.enter_context(locked(out, what, run))
            if present.folder.is_dir():
                with present:
                    _refuse_others(out, run, present)
        yield


def _refuse_others(out: Path, run: Mapping[str, Any], present: Heartbeat) -> None:
    """Raise OtherRun if a living process shares another run in OUT."""
    for owner, text in present.others():
        try:
            theirs = json.loads(text)
        except ValueError:  # it is being written
            continue
        if differs(theirs, run):
            host, _, process = owner.rpartition(".")
            raise OtherRun(
                f"{out} is being written by process {process} on {host} for another run; wait until it ends (one that "
                "was killed counts as ended after a minute), or choose another name"
            )


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


def finish_in_turn(out: Path, manifest: Manifest, engine: Engine, ours: Callable[[], bool]) -> Manifest:
    """Finish the set (`finish`), or return its manifest if a process that shares the run has finished it.

    Args:
        out: The directory OUT.
        manifest: The manifest of all packed shards.
        engine: Where the units of the run are run.
        ours: Returns whether OUT still belongs to this run.

    Raises:
        OtherRun: Another run has taken OUT, while this process stood still for longer than its heartbeat counts.
        IntegrityError: A file differs from what was written.
    """
    with in_turn(out, "finishing", {}, engine):
        if engine.shared:
            if not ours():
                raise OtherRun(f"{out} belongs to another run by now; it was left as it is")
            kept = existing_manifest(out)
            same = kept is not None and (kept.content, kept.prefixes) == (manifest.content, manifest.prefixes)
            if kept is not None and same and not stale_renderings(kept):
                return kept  # card and preview are made after all files are verified
        return finish(out, manifest)
