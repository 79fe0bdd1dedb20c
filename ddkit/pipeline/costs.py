"""The cost of a run: estimated before it starts, and measured in OUT.work/cost.json over all resumed runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ddkit.core.console import duration, note, size_words
from ddkit.core.files import read_sealed_json, write_sealed
from ddkit.core.serialization import Mismatch, canonical, read_dataclass, to_plain
from ddkit.errors import TooCostly
from ddkit.format.manifest import Cost
from ddkit.labelling.packing import PackRecord
from ddkit.synthesis.passes import STEPS

LIMIT_S = 3600.0
LIMIT_BYTES = 20e9
COST_FILE = "cost.json"
# kind of unit -> part of the cost
PARTS = {"prepare": "select", "select": "select", "student": "student", "recover": "recover"}
IN_WORDS = {
    "teach": "training the teacher", "select": "choosing real images", "recover": "making the images",
    "student": "stage students", "relabel": "labelling the views",
}  # fmt: skip


# ------------------------------------------------------------------ estimates before a run


def ask_cost(seconds: Mapping[str, float], label_bytes: float, *, yes: bool) -> None:
    """Print the expected cost, and stop if it exceeds an hour or 20 GB of labels and `yes` is not set.

    Args:
        seconds: Expected seconds by part of the manifest's `cost` ("recover", "relabel", ...).
        label_bytes: Size of all soft labels, bytes.
        yes: Continue whatever the cost.

    Raises:
        TooCostly: More than an hour or 20 GB in all, without `yes`.
    """
    total = sum(seconds.values())
    each = ", ".join(f"{IN_WORDS.get(name, name)} {duration(s)}" for name, s in seconds.items() if s >= 0.5)
    whole = f"in all about {duration(total)}" if total >= 1 else "a few seconds in all"
    note(
        f"{whole} on this machine{f': {each}' if each else ''}; labels take "
        f"{size_words(label_bytes)} (estimated from up to {STEPS} measured steps)"
    )
    if yes or (total <= LIMIT_S and label_bytes <= LIMIT_BYTES):
        return
    longest = max(seconds, key=lambda name: seconds[name])
    advice = "fewer --views" if longest == "relabel" or label_bytes > LIMIT_BYTES else "--method rded"
    raise TooCostly(
        f"this takes about {duration(total)} and {size_words(label_bytes)} of labels; {advice} is shorter; "
        "--yes continues anyway"
    )


def time_limit(what: str, yes: bool) -> Callable[[float], None]:
    """Return a callback that prints the expected time of a training and raises TooCostly above an hour.

    The training calls it with its expected remaining seconds, measured on the first 20 steps.

    Args:
        what: What is trained, for messages.
        yes: Never raise.
    """

    def check(seconds: float) -> None:
        note(f"{what}: about {duration(seconds)} left, measured on {STEPS} steps")
        if seconds > LIMIT_S and not yes:
            raise TooCostly(f"{what} takes about {duration(seconds)}; give a trained one, or continue with --yes")

    return check


# ------------------------------------------------------------------ measured costs


@dataclass(frozen=True, kw_only=True)
class CostLog:
    """Seconds spent so far by part of the run, and the largest memory.

    Attributes:
        teach: Seconds of the teacher's training.
        select: Seconds of selecting real images, outside `by_prefix`.
        recover: Seconds of synthesising images, outside `by_prefix`.
        student: Seconds of training stage students, outside `by_prefix`.
        peak_memory_bytes: Largest memory, bytes, outside `by_prefix`.
        by_prefix: For each prefix, the seconds of its synthesis by part, and `peak_bytes`: the largest memory of the
            device (a GPU) or process that ran its units.
        devices: Classes of the devices that ran units of synthesis.
    """

    teach: float = 0.0
    select: float = 0.0
    recover: float = 0.0
    student: float = 0.0
    peak_memory_bytes: float = 0.0
    by_prefix: dict[str, dict[str, float]] = field(default_factory=dict)
    devices: tuple[str, ...] = ()

    def total(self, part: str) -> float:
        """Return the seconds of a part, over all prefixes.

        Args:
            part: "teach", "select", "recover" or "student".
        """
        return float(getattr(self, part)) + sum(mine.get(part, 0.0) for mine in self.by_prefix.values())

    @property
    def peak(self) -> int:
        """The largest memory over all prefixes, bytes."""
        return int(max([self.peak_memory_bytes, *(mine.get("peak_bytes", 0) for mine in self.by_prefix.values())]))


def read_cost(work: Path) -> CostLog:
    """Read the cost log in OUT.work; a damaged one is deleted and an empty log returned, since it holds only times.

    Args:
        work: The directory OUT.work.
    """
    try:
        found = read_sealed_json(work / COST_FILE)
        if found is not None:
            return read_dataclass(CostLog, found)
    except Mismatch:
        found = None
    if (work / COST_FILE).exists():
        note(f"{work / COST_FILE} is damaged or was written by ddkit 0.4; the times of earlier runs are not counted")
        (work / COST_FILE).unlink()
    return CostLog()


def add_teaching_cost(work: Path, seconds: float) -> None:
    """Add the seconds of a teacher's training to the cost log.

    Args:
        work: The directory OUT.work.
        seconds: Duration of the training.
    """
    log = read_cost(work)
    _write(work, replace(log, teach=round(log.teach + seconds, 3)))


def add_synthesis_cost(work: Path, prefix: int, units: Mapping[str, tuple[str, Mapping[str, Any]]]) -> None:
    """Record the synthesis cost of a prefix, replacing its earlier entry.

    Args:
        work: The directory OUT.work.
        prefix: IPC of the prefix.
        units: Unit id -> (kind, metadata) of all its units, over all resumed runs.
    """
    spent: dict[str, float] = {}
    for kind, metadata in units.values():
        spent[PARTS[kind]] = round(spent.get(PARTS[kind], 0.0) + metadata["seconds"], 4)
        spent["peak_bytes"] = max(spent.get("peak_bytes", 0), metadata["peak_bytes"])
    log = read_cost(work)
    devices = {metadata["device"] for _, metadata in units.values() if "device" in metadata}.union(log.devices)
    _write(work, replace(log, by_prefix=log.by_prefix | {str(prefix): spent}, devices=tuple(sorted(devices))))


def _write(work: Path, log: CostLog) -> None:
    write_sealed(work / COST_FILE, canonical(to_plain(log)).encode())


def cost_of(log: CostLog, records: Sequence[PackRecord], device: str) -> Cost:
    """Build the manifest's `cost` from the cost log.

    Args:
        log: The cost log of the run.
        records: Records of all packed shards.
        device: Class of the device, as in "cpu".
    """
    rows = sum(record.entry.rows for record in records)
    made = sum(log.total(part) for part in ("recover", "select", "student"))
    return Cost(
        teach=round(log.total("teach"), 3), select=round(log.total("select"), 3),
        recover=round(log.total("recover"), 3), student=round(log.total("student"), 3),
        relabel=round(sum(record.seconds for record in records), 3), peak_memory_bytes=log.peak,
        ms_per_image=round(1000 * made / max(rows, 1), 3), device=device,
    )  # fmt: skip
