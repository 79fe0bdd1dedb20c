"""Claims of units: processes that share a folder tell each other which units they run.

A claim is a file named after the unit. It holds the name of its owner, whose heartbeat lies in the same folder. Claims
only save work: two processes that run the same unit write the same bytes.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from types import TracebackType
from typing import Protocol

from ddkit.core.files import disk_errors
from ddkit.engine.heartbeats import DEAD_S, Heartbeat
from ddkit.engine.units import UnitFile


class Claimed(Protocol):
    """What is claimed: something whose result is files."""

    @property
    def files(self) -> tuple[UnitFile, ...]: ...


class Claims:
    """The claims of this process in a folder, with its heartbeat while the `with` block runs.

    Args:
        folder: The folder, shared by all processes.
        dead: Age of a heartbeat, in seconds, after which its process counts as dead.
    """

    def __init__(self, folder: Path, dead: float = DEAD_S) -> None:
        self.folder = folder
        self.taken = 0  # claims so far
        self._heartbeat = Heartbeat(folder, dead=dead)
        self._mine: set[Path] = set()

    def __enter__(self) -> Claims:
        self._heartbeat.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):  # a claim that stays is that of a dead process
            for path in self._mine:
                path.unlink(missing_ok=True)
            self._mine.clear()
        self._heartbeat.__exit__(kind, error, trace)

    def take(self, job: Claimed) -> bool:
        """Claim a job and return True; False if a living process has it, or it is done.

        Args:
            job: The job.

        Raises:
            DiskError: The claim cannot be written.
        """
        path = self._claim(job)
        with disk_errors(path):
            if not (self._create(path) or (self._is_stale(path) and self._create(path))):
                return False
        self._mine.add(path)
        if all(file.exists() for file in job.files):  # finished by the process that had the claim before
            self.release(job)
            return False
        self.taken += 1
        return True

    def release(self, job: Claimed) -> None:
        """Give up the claim of a job that is done or failed.

        Args:
            job: The job.
        """
        path = self._claim(job)
        self._mine.discard(path)
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)

    def _claim(self, job: Claimed) -> Path:
        return self.folder / f"{job.files[0].path.name}.claim"

    def _create(self, path: Path) -> bool:
        """Create a claim; False if it exists."""
        try:
            file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            return False
        try:
            os.write(file, self._heartbeat.owner.encode())
        finally:
            os.close(file)
        return True

    def _is_stale(self, path: Path) -> bool:
        """Remove a claim whose owner is dead, and return whether this process was the one that removed it."""
        try:
            owner = path.read_bytes()[:400].decode("ascii", "replace")
            if self._lives(owner, path):
                return False
            os.rename(path, removed := path.with_name(f".{path.name}.{self._heartbeat.owner}.tmp"))
            removed.unlink()
        except FileNotFoundError:  # released or removed by another process
            return False
        return True

    def _lives(self, owner: str, claim: Path) -> bool:
        """Whether the owner of a claim lives; a claim without a name was just created."""
        if owner.rpartition(".")[0] and "/" not in owner:
            return self._heartbeat.lives(owner)
        return self._heartbeat.is_recent(claim)
