"""Sends learning curves and results to an experiment tracker: `--track tensorboard|trackio|wandb`."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from ddkit.errors import OptionError, unknown
from ddkit.students.training import StudentResult

TRACKERS = ("tensorboard", "trackio", "wandb")
PROJECT = "ddkit"
RUNS = "runs"  # folder of event files, as tensorboard expects it


class Tracker(Protocol):
    """Takes numbers of one run."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log values by name at a step, the number of the epoch."""
        ...

    def finish(self) -> None:
        """End the run; everything is sent or written."""
        ...


class TensorBoard:
    """Writes event files. `tensorboard --logdir FOLDER` shows them.

    Args:
        folder: Folder of the event files.
        config: What the run is; written as text.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder))
        self._writer.add_text("config", "\n".join(f"    {key}: {value}" for key, value in config.items()))

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log values by name at a step."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def finish(self) -> None:
        """Write everything."""
        self._writer.close()


class Online:
    """A run of trackio or wandb, which have the same functions. Keys are read by them, from their login or variables.

    Args:
        library: "trackio" or "wandb".
        name: Name of the run.
        config: What the run is.
    """

    def __init__(self, library: str, name: str, config: Mapping[str, Any]) -> None:
        self._run = importlib.import_module(library).init(project=PROJECT, name=name, config=dict(config))

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log values by name at a step."""
        self._run.log(dict(values), step=step)

    def finish(self) -> None:
        """End the run."""
        self._run.finish()


def check_tracker(name: str | None) -> None:
    """Check that a tracker is known and installed.

    Args:
        name: One of TRACKERS, or None.

    Raises:
        OptionError: It is unknown, or its package is missing.
    """
    if name is None:
        return
    if name not in TRACKERS:
        raise unknown("--track", name, TRACKERS)
    try:
        importlib.import_module("torch.utils.tensorboard" if name == "tensorboard" else name)
    except ImportError as error:
        raise OptionError(f"--track {name} needs a package that is not installed: pip install {name}") from error


def open_tracker(name: str, run: str, folder: Path, config: Mapping[str, Any]) -> Tracker:
    """Open a run of a tracker.

    Args:
        name: One of TRACKERS.
        run: Name of the run.
        folder: Folder of event files, for "tensorboard".
        config: What the run is.

    Raises:
        OptionError: As `check_tracker`.
    """
    check_tracker(name)
    return TensorBoard(folder / run, config) if name == "tensorboard" else Online(name, run, config)


def track_student(name: str, run: str, folder: Path, config: Mapping[str, Any], result: StudentResult) -> None:
    """Log the learning curve of a trained student and its accuracy.

    Args:
        name: One of TRACKERS.
        run: Name of the run.
        folder: Folder of event files, for "tensorboard".
        config: What the run is.
        result: The student's result.

    Raises:
        OptionError: As `check_tracker`.
    """
    tracker = open_tracker(name, run, folder, config)
    for entry in result.history:
        values = {key: float(value) for key, value in entry.items() if key != "epoch"}
        tracker.log(values, int(entry["epoch"]))
    if result.accuracy is not None:
        tracker.log({"final_accuracy": result.accuracy}, result.epochs)
    tracker.finish()
