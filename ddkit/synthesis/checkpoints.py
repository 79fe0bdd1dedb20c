"""What a long unit keeps while it runs, so that a killed one goes on where it stood and people see how far it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ddkit.core.files import read_sealed, write_sealed

if TYPE_CHECKING:
    from torch import Tensor


class Keep:
    """State, progress and losses of one unit.

    path: where it may keep files beside its result; key: stands for all that decides it, so that another run's state
    is never continued; losses: name -> float per step, drawn by `preview --losses`.
    """

    SAVE_EVERY_S, TELL_EVERY_S = 20.0, 1.0

    def __init__(self, path: Path | None = None, key: str = "-") -> None:
        self.path, self.key, self.losses = path, key, dict[str, np.ndarray]()
        self._began = self._saved = self._told = time.monotonic()
        self._steps = 0
        self._before = self.told(path)[1] if path else 0.0

    @property
    def state(self) -> Path | None:
        """The file that `save` writes; a training keeps its own there."""
        return None if self.path is None else self.path.with_suffix(".state")

    def load(self) -> dict[str, Tensor]:
        """What was saved last; nothing where there is none, or a damaged one, or another run's."""
        from safetensors.torch import load

        saved = None if self.state is None else read_sealed(self.state, self.key)
        return {} if saved is None else load(saved)

    def save(self, tensors: Callable[[], dict[str, Tensor]]) -> None:
        """Write the state where the last one is old enough."""
        if self.state is not None and time.monotonic() - self._saved >= self.SAVE_EVERY_S:
            from safetensors.torch import save

            saved = {k: v.detach().cpu().contiguous() for k, v in tensors().items()}
            write_sealed(self.state, save(saved), self.key)
            self._saved = time.monotonic()

    def advance(self, steps: int = 1) -> None:
        """Say that some more of the unit's steps are done."""
        self._steps += steps
        self.tell(self._steps)

    def tell(self, steps: int) -> None:
        """Say how many of the unit's steps are done."""
        now = time.monotonic()
        if self.path is not None and now - self._told >= self.TELL_EVERY_S:
            self._told = now
            self.path.parent.mkdir(parents=True, exist_ok=True)
            temporary = self.path.with_suffix(".told.tmp")
            temporary.write_text(f"{steps} {self.seconds:.3f}")
            temporary.replace(self.path.with_suffix(".told"))

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """While open, it is others' turn: their time is not this unit's."""
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
    def told(path: Path) -> tuple[int, float]:
        """(steps, seconds) a unit told last."""
        file = path.with_suffix(".told")
        try:
            steps, seconds = file.read_text(encoding="utf-8").split()
            return int(steps), max(float(seconds), 0.0)
        except (OSError, ValueError):  # none, or damaged: only progress is lost
            return 0, 0.0

    def clear(self) -> None:
        """Remove what is kept: the result is written."""
        if self.path is not None:
            for suffix in (".state", ".told", ".told.tmp"):
                self.path.with_suffix(suffix).unlink(missing_ok=True)
