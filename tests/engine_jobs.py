"""A job whose result is one file, for tests of engines."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

from ddkit.core.files import below
from ddkit.engine.units import UnitFile


@dataclass(frozen=True)
class Record:
    """Writes the values of some variables, files and the process to its unit."""

    folder: str
    id: str
    needs: frozenset[str] = frozenset()
    reads: str | None = None
    variable: str = "PATH"
    seconds: float = 0.0
    gpu_share = 0.0

    @property
    def file(self) -> UnitFile:
        return UnitFile(Path(self.folder) / f"{self.id}.unit", "key")

    @property
    def files(self) -> tuple[UnitFile, ...]:
        return (self.file,)

    @property
    def inputs(self) -> tuple[Path, ...]:
        reads = [Path(self.reads)] if self.reads else []
        return (*reads, *(self._unit(need).path for need in sorted(self.needs)))

    @property
    def outputs(self) -> tuple[Path, ...]:
        return (self.file.path,)

    def below(self, root: Path) -> Record:
        reads = str(below(root, self.reads)) if self.reads else None
        return replace(self, folder=str(below(root, self.folder)), reads=reads)

    def run(self) -> None:
        found = {"text": Path(self.reads).read_text() if self.reads else None, "variable": os.getenv(self.variable)}
        found |= {"process": os.getpid(), "before": sorted(n for n in self.needs if self._unit(n).exists())}
        time.sleep(self.seconds)
        Path(self.folder).mkdir(parents=True, exist_ok=True)
        with open(Path(self.folder) / "runs.txt", "a") as log:  # one write of a line appends it whole
            log.write(f"{self.id} {os.getpid()}\n")
        self.file.write_json(found)

    def _unit(self, name: str) -> UnitFile:
        return UnitFile(Path(self.folder) / f"{name}.unit", "key")


def runs(folder: Path) -> list[str]:
    """The ids of all runs of jobs in a folder, in order."""
    return [line.split()[0] for line in (folder / "runs.txt").read_text().splitlines()]
