"""Progress and checkpoints of a long unit, so that a killed one goes on where it stood and people see how far it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ddkit.engine.units import UnitFile

if TYPE_CHECKING:
    from torch import Tensor


class UnitProgress:
    """Steps done, checkpoints and losses of one unit.

    file: the unit's result, beside which its checkpoint and progress are kept; None keeps nothing. losses: name ->
    float per step, drawn by `preview --losses`.
    """

    SAVE_EVERY_S, REPORT_EVERY_S = 20.0, 1.0

    def __init__(self, file: UnitFile | None = None) -> None:
        self.file, self.losses = file, dict[str, np.ndarray]()
        self._began = self._saved = self._reported = time.monotonic()
        self._steps = 0
        self._before = self.reported(file.path)[1] if file else 0.0

    @property
    def key(self) -> str:
        """Stands for all that decides the unit."""
        return "-" if self.file is None else self.file.key or "-"

    @property
    def state(self) -> Path | None:
        """The file of the checkpoint; a training keeps its own there."""
        return None if self.file is None else self.file.path.with_suffix(".state")

    def load(self) -> dict[str, Tensor]:
        """The tensors of the last checkpoint; empty where there is none, or a damaged one, or another run's."""
        import torch

        if self.state is None:
            return {}
        saved = UnitFile(self.state, self.key)
        return {k: torch.from_numpy(v) for k, v in saved.tensors().items()} if saved.is_good() else {}

    def save(self, tensors: Callable[[], dict[str, Tensor]]) -> None:
        """Write a checkpoint where the last one is old enough. tensors: called only then."""
        if self.state is not None and time.monotonic() - self._saved >= self.SAVE_EVERY_S:
            arrays = {k: v.detach().cpu().contiguous().numpy() for k, v in tensors().items()}
            UnitFile(self.state, self.key).write(arrays, {})
            self._saved = time.monotonic()

    def advance(self, steps: int = 1) -> None:
        """Say that some more of the unit's steps are done."""
        self._steps += steps
        self.report(self._steps)

    def report(self, steps: int) -> None:
        """Say how many of the unit's steps are done."""
        now = time.monotonic()
        if self.file is not None and now - self._reported >= self.REPORT_EVERY_S:
            self._reported = now
            path = self.file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_suffix(".progress.tmp")
            temporary.write_text(f"{steps} {self.seconds:.3f}")
            temporary.replace(path.with_suffix(".progress"))

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """While open, other units run on the device: their time is not this unit's."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._began += time.monotonic() - began

    @property
    def seconds(self) -> float:
        """Spent on this unit so far, killed runs included (to a second)."""
        return self._before + time.monotonic() - self._began

    @staticmethod
    def reported(path: Path) -> tuple[int, float]:
        """(steps, seconds) that the unit whose result is `path` reported last; zeros where that is damaged."""
        try:
            steps, seconds = path.with_suffix(".progress").read_text(encoding="utf-8").split()
            return int(steps), max(float(seconds), 0.0)
        except (OSError, ValueError):
            return 0, 0.0

    def clear(self) -> None:
        """Remove the checkpoint: the result is written."""
        if self.file is not None:
            for suffix in (".state", ".progress", ".progress.tmp"):
                self.file.path.with_suffix(suffix).unlink(missing_ok=True)
