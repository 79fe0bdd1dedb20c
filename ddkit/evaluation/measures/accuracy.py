"""Top-1 accuracy of students: mean and spread over sets and seeds, and the paired difference to a baseline."""

from __future__ import annotations

from collections.abc import Sequence

from ddkit.evaluation.statistics import mean_std, paired_difference
from ddkit.format.results import ResultEntry
from ddkit.students.training import StudentResult


def accuracy_entry(
    students: Sequence[Sequence[StudentResult]],
    *,
    of: str,
    ipc: int,
    arch: str,
    protocol: str,
    labels: str,
    val: str,
    val_images: int,
    seeds: Sequence[int],
    total_bytes: int,
    command: str,
    hardware: str,
) -> ResultEntry:
    """What students of one network reached, not compared with a baseline yet.

    students: by set and seed; the other parameters are the fields of ResultEntry.
    """
    values = tuple(tuple(float(student.accuracy or 0.0) for student in mine) for mine in students)
    mean, std = mean_std([value for mine in values for value in mine])
    return ResultEntry(
        of=of, ipc=ipc, arch=arch, protocol=protocol, labels=labels, val=val, val_images=val_images, seeds=tuple(seeds),
        n_sets=len(students), n_students=sum(map(len, students)), values=values, mean=round(mean, 2),
        std=round(std, 2), difference=None, total_bytes=total_bytes,
        seconds=round(sum(student.seconds for mine in students for student in mine), 2), command=command,
        hardware=hardware,
    )  # fmt: skip


def compared(ours: ResultEntry, baseline: ResultEntry | None) -> ResultEntry:
    """A result with its paired difference to a baseline; as it is where there is none."""
    if baseline is None or ours.values is None or baseline.values is None:
        return ours
    return ours.changed(difference=paired_difference(ours.values, baseline.values))
