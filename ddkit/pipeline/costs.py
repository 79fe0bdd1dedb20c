"""The cost question: what a run will take, from measured steps, asked before an hour or 20 GB are spent."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from ddkit.core.console import duration, note, size_words
from ddkit.core.device import threads
from ddkit.errors import TooCostly
from ddkit.teachers.teacher import Teacher

LIMIT_S = 3600.0
LIMIT_BYTES = 20e9
STEPS = 20


def measure_cost(teacher: Teacher, size: int) -> float:
    """Seconds a teacher pass over one image takes on one worker, from 20 steps."""
    inputs = torch.zeros(8, 3, size, size)
    with threads(1):
        teacher.logits(inputs)
        began = time.perf_counter()
        for _ in range(STEPS):
            teacher.logits(inputs)
    return (time.perf_counter() - began) / (STEPS * len(inputs))


def ask_cost(seconds: dict[str, float], label_bytes: float, *, yes: bool) -> None:
    """Print what is ahead and stop where it is much.

    seconds: by part. Raises TooCostly above an hour or 20 GB in all, unless `yes`.
    """
    total = sum(seconds.values())
    each = ", ".join(f"{name} {duration(value)}" for name, value in seconds.items() if value >= 0.5)
    note(f"ahead: {each or 'seconds'}; labels {size_words(label_bytes)} (from up to {STEPS} measured steps)")
    if yes or (total <= LIMIT_S and label_bytes <= LIMIT_BYTES):
        return
    longest = max(seconds, key=lambda name: seconds[name])
    advice = "fewer --views" if longest == "relabel" or label_bytes > LIMIT_BYTES else "--method rded"
    raise TooCostly(
        f"this takes about {duration(total)} and {size_words(label_bytes)} of labels; {advice} is shorter; "
        "--yes goes ahead"
    )


def time_limit(what: str, yes: bool) -> Callable[[float], None]:
    """For trainings that tell their expected seconds after 20 steps: tells it, and raises TooCostly above an hour."""

    def told(seconds: float) -> None:
        note(f"{what}: about {duration(seconds)} left, measured on {STEPS} steps")
        if seconds > LIMIT_S and not yes:
            raise TooCostly(f"{what} takes about {duration(seconds)}; give a trained one, or --yes goes ahead")

    return told
