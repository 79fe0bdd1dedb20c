"""Files of a set for Ray nodes that do not see its folder: copied there before a job, and its results copied back.

An actor on the machine with the folder reads and writes them; they travel through Ray's object store. A node keeps its
copies in a directory for temporary files, under the paths that they have here, until the engine has finished.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddkit.core.files import below, stamp, write_bytes
from ddkit.engine.jobs import PortableJob


class FileServer:
    """Reads and writes files of the set, on the machine that has it. Run as a Ray actor."""

    def sizes(self, paths: list[str]) -> list[int | None]:
        """Return the size of each file in bytes; None: there is none.

        Args:
            paths: Absolute paths.
        """
        return [Path(path).stat().st_size if Path(path).is_file() else None for path in paths]

    def read(self, path: str) -> bytes:
        """Return the content of a file.

        Args:
            path: Absolute path.
        """
        return Path(path).read_bytes()

    def write(self, path: str, data: bytes) -> None:
        """Write a file atomically.

        Args:
            path: Absolute path.
            data: Its content.

        Raises:
            DiskError: The file cannot be written.
        """
        write_bytes(Path(path), data)


COPIES = "ddkit-"  # and a token: name of the directory of a node's copies
ABANDONED_S = 7 * 86400.0  # copies of a command that was killed are removed after this time


@dataclass(frozen=True)
class SharedFolder:
    """How a process of the cluster reaches the files of a set.

    Attributes:
        probe: A file in the folder of the set.
        token: Its content, which differs from run to run.
        server: Handle of the actor of `FileServer`.
    """

    probe: str
    token: str
    server: Any

    @property
    def copies(self) -> Path:
        """The directory of a node's copies."""
        return Path(tempfile.gettempdir()) / f"{COPIES}{self.token}"

    def is_seen(self) -> bool:
        """Return whether this process sees the folder itself."""
        try:
            return Path(self.probe).read_text() == self.token
        except OSError:
            return False

    def are_seen(self, inputs: tuple[Path, ...]) -> bool:
        """Return whether this process sees the folder, and the files that a job reads from elsewhere.

        Args:
            inputs: The files that it may read; absolute paths.
        """
        folder = Path(self.probe).parent  # OUT.work, which lies beside OUT
        made = (folder, folder.with_suffix(""))
        elsewhere = (path for path in inputs if not any(path.is_relative_to(one) for one in made))
        return self.is_seen() and all(path.is_file() for path in elsewhere)

    def run_on_copies(self, run: Callable[[PortableJob], Any], job: PortableJob, inputs: tuple[Path, ...]) -> None:
        """Run a job where the folder is not seen.

        Args:
            run: Runs the job.
            job: The job, its paths absolute.
            inputs: The files that it may read; absolute paths.

        Raises:
            DiskError: A file cannot be written, here or in the folder.
            Exception: As raised by the job.
        """
        there = job.below(self.copies)
        self._fetch(inputs)
        before = {path: stamp(path) for path in there.outputs if path.is_file()}
        try:
            run(there)
        finally:  # of several units those that are done are kept
            self._publish([path for path in there.outputs if path.is_file()], before)

    def _fetch(self, inputs: tuple[Path, ...]) -> None:
        """Copy the files to this node, except those that are here."""
        import ray

        _remove_abandoned(self.copies)
        self.copies.mkdir(mode=0o700, exist_ok=True)
        os.utime(self.copies)
        for path, size in zip(inputs, self._sizes(inputs)):
            copy = below(self.copies, path)
            if size is not None and not (copy.is_file() and copy.stat().st_size == size):
                write_bytes(copy, ray.get(self.server.read.remote(str(path))))

    def _publish(self, outputs: list[Path], before: Mapping[Path, tuple[str, ...]]) -> None:
        """Copy what the job wrote back, one after the other: a shard is there before the record that says so."""
        import ray

        paths = ["/" / copy.relative_to(self.copies) for copy in outputs]
        for copy, path, size in zip(outputs, paths, self._sizes(paths)):
            if before.get(copy) != stamp(copy) or size != copy.stat().st_size:
                ray.get(self.server.write.remote(str(path), copy.read_bytes()))

    def _sizes(self, paths: Sequence[Path]) -> list[int | None]:
        import ray

        found: list[int | None] = ray.get(self.server.sizes.remote([str(path) for path in paths]))
        return found

    def remove_copies(self) -> None:
        """Delete what this node has copied."""
        with contextlib.suppress(OSError):
            shutil.rmtree(self.copies)


def _remove_abandoned(copies: Path) -> None:
    """Delete copies of commands that were killed long ago, when this node makes its first ones for another command."""
    if copies.exists():
        return
    for other in copies.parent.glob(f"{COPIES}{'?' * 16}"):
        with contextlib.suppress(OSError):
            if other.stat().st_uid == os.getuid() and time.time() - other.stat().st_mtime > ABANDONED_S:
                shutil.rmtree(other)
