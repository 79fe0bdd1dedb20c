"""What a run costs: asked before an hour or 20 GB are spent, and what it took, kept in OUT.work over all resumes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ddkit.core.console import duration, note, size_words
from ddkit.core.device import threads
from ddkit.core.files import read_sealed_json, write_sealed
from ddkit.core.serialization import Mismatch, canonical, read_dataclass, to_plain
from ddkit.errors import TooCostly
from ddkit.format.manifest import Cost
from ddkit.labelling.packing import PackRecord
from ddkit.teachers.teacher import Teacher

LIMIT_S = 3600.0
LIMIT_BYTES = 20e9
STEPS = 20
COST_FILE = "cost.json"
PARTS = {"prepare": "select", "select": "select", "student": "student", "recover": "recover"}  # kind of unit -> part
IN_WORDS = {
    "teach": "training the teacher", "select": "choosing real images", "recover": "making the images",
    "student": "stage students", "relabel": "labelling the views",
}  # fmt: skip


# ------------------------------------------------------------------ before


def measure_cost(teacher: Teacher, size: int) -> float:
    """Seconds a teacher pass over one image of `size` pixels takes on one worker, from 20 steps."""
    inputs = torch.zeros(8, 3, size, size)
    with threads(1):
        teacher.logits(inputs)
        began = time.perf_counter()
        for _ in range(STEPS):
            teacher.logits(inputs)
    return (time.perf_counter() - began) / (STEPS * len(inputs))


def ask_cost(seconds: Mapping[str, float], label_bytes: float, *, yes: bool) -> None:
    """Say what is ahead, and stop where it is much.

    seconds: expected, by part of the manifest's cost; label_bytes: of all soft labels; yes: go ahead whatever it
    takes. Raises TooCostly above an hour or 20 GB in all.
    """
    total = sum(seconds.values())
    each = ", ".join(f"{IN_WORDS.get(name, name)} {duration(s)}" for name, s in seconds.items() if s >= 0.5)
    whole = f"in all about {duration(total)}" if total >= 1 else "a few seconds in all"
    note(
        f"{whole} on this machine{f': {each}' if each else ''}; labels take "
        f"{size_words(label_bytes)} (from up to {STEPS} measured steps)"
    )
    if yes or (total <= LIMIT_S and label_bytes <= LIMIT_BYTES):
        return
    longest = max(seconds, key=lambda name: seconds[name])
    advice = "fewer --views" if longest == "relabel" or label_bytes > LIMIT_BYTES else "--method rded"
    raise TooCostly(
        f"this takes about {duration(total)} and {size_words(label_bytes)} of labels; {advice} is shorter; "
        "--yes goes ahead"
    )


def time_limit(what: str, yes: bool) -> Callable[[float], None]:
    """What a training calls with its expected seconds after 20 steps: says them, and raises TooCostly above an hour.

    what: is trained, for messages; yes: go ahead whatever it takes.
    """

    def check(seconds: float) -> None:
        note(f"{what}: about {duration(seconds)} left, measured on {STEPS} steps")
        if seconds > LIMIT_S and not yes:
            raise TooCostly(f"{what} takes about {duration(seconds)}; give a trained one, or --yes goes ahead")

    return check


# ------------------------------------------------------------------ after


@dataclass(frozen=True, kw_only=True)
class CostLog:
    """Seconds spent so far, by part, and the most memory that units took which ran together.

    by_prefix: part -> seconds, and `peak_bytes`, of the synthesis of each prefix; the other fields: what is not of one
    prefix.
    """

    teach: float = 0.0
    select: float = 0.0
    recover: float = 0.0
    student: float = 0.0
    peak_memory_bytes: float = 0.0
    by_prefix: dict[str, dict[str, float]] = field(default_factory=dict)

    def total(self, part: str) -> float:
        """Seconds of a part."""
        return float(getattr(self, part)) + sum(mine.get(part, 0.0) for mine in self.by_prefix.values())

    @property
    def peak(self) -> int:
        """The most memory, bytes."""
        return int(max([self.peak_memory_bytes, *(mine.get("peak_bytes", 0) for mine in self.by_prefix.values())]))


def read_cost(work: Path) -> CostLog:
    """The log in OUT.work; where it is damaged it begins anew, since only times are in it."""
    try:
        found = read_sealed_json(work / COST_FILE)
        if found is not None:
            return read_dataclass(CostLog, found)
    except Mismatch:
        found = None
    if (work / COST_FILE).exists():
        note(f"{work / COST_FILE} is damaged, or of ddkit 0.4: the times of earlier runs are not counted")
        (work / COST_FILE).unlink()
    return CostLog()


def add_teaching_cost(work: Path, seconds: float) -> None:
    """Add the seconds of a teacher's training."""
    log = read_cost(work)
    _write(work, replace(log, teach=round(log.teach + seconds, 3)))


def add_synthesis_cost(work: Path, prefix: int, units: Mapping[str, tuple[str, Mapping[str, Any]]]) -> None:
    """Set what the synthesis of a prefix took. units: id -> (kind, metadata) of all its units, over all resumes."""
    spent: dict[str, float] = {}
    for kind, metadata in units.values():
        spent[PARTS[kind]] = round(spent.get(PARTS[kind], 0.0) + metadata["seconds"], 4)
        spent["peak_bytes"] = max(spent.get("peak_bytes", 0), metadata["peak_bytes"])
    log = read_cost(work)
    _write(work, replace(log, by_prefix=log.by_prefix | {str(prefix): spent}))


def _write(work: Path, log: CostLog) -> None:
    write_sealed(work / COST_FILE, canonical(to_plain(log)).encode())


def cost_of(work: Path, records: Sequence[PackRecord], device: str) -> Cost:
    """The manifest's cost. records: of all packed shards; device: class of the device."""
    log, rows = read_cost(work), sum(record.entry.rows for record in records)
    made = sum(log.total(part) for part in ("recover", "select", "student"))
    return Cost(
        teach=round(log.total("teach"), 3), select=round(log.total("select"), 3),
        recover=round(log.total("recover"), 3), student=round(log.total("student"), 3),
        relabel=round(sum(record.seconds for record in records), 3), peak_memory_bytes=log.peak,
        ms_per_image=round(1000 * made / max(rows, 1), 3), device=device,
    )  # fmt: skip
