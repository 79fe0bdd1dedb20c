"""Progress and checkpoints of a long unit, so that an interrupted one resumes and the user sees how far it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ddkit.core.files import write_bytes
from ddkit.engine.units import UnitFile

if TYPE_CHECKING:
    from torch import Tensor


class UnitProgress:
    """Progress, checkpoint and losses of one unit.

    Args:
        file: Result file of the unit. Checkpoint and progress are written beside it; None: nothing is written.

    Attributes:
        file: As given.
        losses: Name -> float per step. `preview --losses` plots them.
    """

    SAVE_EVERY_S, REPORT_EVERY_S = 20.0, 1.0

    def __init__(self, file: UnitFile | None = None) -> None:
        self.file, self.losses = file, dict[str, np.ndarray]()
        self._began = self._saved = self._reported = time.monotonic()
        self._steps = 0
        self._before = self.reported(file.path)[1] if file else 0.0

    @property
    def key(self) -> str:
        """Hash of everything that determines the result of the unit."""
        return "-" if self.file is None else self.file.key or "-"

    @property
    def state(self) -> Path | None:
        """File of the checkpoint, which a training also uses for its state; None if nothing is written."""
        return None if self.file is None else self.file.path.with_suffix(".state")

    def load(self) -> dict[str, Tensor]:
        """Return the tensors of the last checkpoint; empty if it is missing, damaged or another run's."""
        import torch

        if self.state is None:
            return {}
        saved = UnitFile(self.state, self.key)
        return {k: torch.from_numpy(v) for k, v in saved.tensors().items()} if saved.is_good() else {}

    def save(self, tensors: Callable[[], dict[str, Tensor]]) -> None:
        """Write a checkpoint if the last one is at least 20 seconds old.

        Args:
            tensors: Returns the tensors; called only if a checkpoint is written.

        Raises:
            DiskError: The file cannot be written.
        """
        if self.state is not None and time.monotonic() - self._saved >= self.SAVE_EVERY_S:
            arrays = {k: v.detach().cpu().contiguous().numpy() for k, v in tensors().items()}
            UnitFile(self.state, self.key).write(arrays, {})
            self._saved = time.monotonic()

    def advance(self, steps: int = 1) -> None:
        """Report that `steps` more steps of the unit are done."""
        self._steps += steps
        self.report(self._steps)

    def report(self, steps: int) -> None:
        """Report that `steps` steps of the unit are done. The progress file is written at most once per second."""
        now = time.monotonic()
        if self.file is not None and now - self._reported >= self.REPORT_EVERY_S:
            self._reported = now
            write_bytes(self.file.path.with_suffix(".progress"), f"{steps} {self.seconds:.3f}".encode())

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Exclude the time inside the context, when other units run on the device, from this unit's time."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._began += time.monotonic() - began

    @property
    def seconds(self) -> float:
        """Seconds spent on this unit so far, including interrupted runs (to about a second)."""
        return self._before + time.monotonic() - self._began

    @staticmethod
    def reported(path: Path) -> tuple[int, float]:
        """Return (steps, seconds) that a unit reported last; zeros if there is no progress file or it is damaged.

        Args:
            path: Result file of the unit.
        """
        try:
            steps, seconds = path.with_suffix(".progress").read_text(encoding="utf-8").split()
            return int(steps), max(float(seconds), 0.0)
        except (OSError, ValueError):
            return 0, 0.0

    def clear(self) -> None:
        """Remove checkpoint and progress, once the result is written."""
        if self.file is not None:
            for suffix in (".state", ".progress"):
                self.file.path.with_suffix(suffix).unlink(missing_ok=True)
