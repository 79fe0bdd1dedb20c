"""Heartbeats: files that living processes touch, in a folder that all of them see.

Times are those that the file system gives to files, so the clocks of machines need not agree.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from ddkit.core.files import disk_errors, host, process_runs

BEAT_S = 5.0  # seconds between heartbeats
DEAD_S = 60.0  # age of a heartbeat, in seconds, after which its process counts as dead
ATTEMPTS = 100  # to write into a folder that the last process to leave removes
LONGEST = 65_536  # bytes of a heartbeat file that are read
SUFFIX = ".alive"


class Heartbeat:
    """The heartbeat of this process in a folder while the `with` block runs.

    Args:
        folder: The folder, shared by all processes. The last process to leave removes it.
        text: What the others can read in it.
        dead: Age of a heartbeat, in seconds, after which its process counts as dead.
    """

    def __init__(self, folder: Path, text: str = "", dead: float = DEAD_S) -> None:
        self.folder, self._text, self._dead = folder, text, dead
        self._host = host()
        self.owner = f"{self._host}.{os.getpid()}"
        self._file = self._of(self.owner)
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Heartbeat:
        with disk_errors(self.folder):
            for left in reversed(range(ATTEMPTS)):
                try:
                    self.folder.mkdir(parents=True, exist_ok=True)
                    self._file.write_text(self._text, encoding="utf-8")
                    break
                except (FileNotFoundError, FileExistsError):  # another process left and removed the folder
                    if not left:
                        raise
        self._over.clear()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        with contextlib.suppress(OSError):
            self._file.unlink(missing_ok=True)
            self.folder.rmdir()  # fails while other processes have files there

    def lives(self, owner: str) -> bool:
        """Return whether a process lives; the heartbeat file of a dead one is removed.

        Args:
            owner: `Heartbeat.owner` of the process.
        """
        name, _, process = owner.rpartition(".")
        beat = self._of(owner)
        on_this_machine = name == self._host and process.isdigit()
        if self.is_recent(beat) and not (on_this_machine and not process_runs(int(process))):
            return True
        with contextlib.suppress(OSError):
            beat.unlink(missing_ok=True)
        return False

    def is_recent(self, path: Path) -> bool:
        """Return whether a file exists and was written within the time after which a process counts as dead.

        Args:
            path: A file on the disk of the folder.
        """
        try:
            return path.stat().st_mtime > self._file.stat().st_mtime - self._dead
        except FileNotFoundError:
            return False

    def others(self) -> Iterator[tuple[str, str]]:
        """Yield owner and text of the other living processes."""
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            owner = path.name.removesuffix(SUFFIX)
            if owner != self.owner and self.lives(owner):
                with contextlib.suppress(FileNotFoundError):  # it has left
                    yield owner, path.read_bytes()[:LONGEST].decode("utf-8", "replace")

    def _of(self, owner: str) -> Path:
        return self.folder / f"{owner}{SUFFIX}"

    def _beat(self) -> None:
        while not self._over.wait(min(BEAT_S, self._dead / 4)):
            with contextlib.suppress(OSError):  # a full disk must not end the thread
                self._file.write_text(self._text, encoding="utf-8")  # again: a file that looked dead was removed
