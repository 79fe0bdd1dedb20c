"""Results of evaluated sets from their students: mean and standard deviation, paired differences to baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
    images: int,
    total_bytes: int,
    command: str,
    hardware: str,
) -> ResultEntry:
    """Build the result of students of one network, without a comparison to a baseline.

    Args:
        students: Results of the students, by set and seed.
        of: What they were trained on: "this", "random" or "equal-bytes".
        ipc: Images per class of the evaluated set, or of its prefix.
        arch: The network.
        protocol: Label of the protocol.
        labels: Kind of labels: "stored", "hard", "online" or "relabelled".
        val: What they were measured on.
        val_images: Number of those images.
        seeds: Seeds of the students.
        images: Number of images they were trained on, in the first set.
        total_bytes: Bytes that have to be shipped for such a training, of the first set.
        command: The command that was called.
        hardware: The hardware it ran on.
    """
    values = tuple(tuple(float(student.accuracy or 0.0) for student in mine) for mine in students)
    mean, std = mean_std([value for mine in values for value in mine])
    return ResultEntry(
        of=of, ipc=ipc, arch=arch, protocol=protocol, labels=labels, val=val, val_images=val_images, seeds=tuple(seeds),
        n_sets=len(students), n_students=sum(map(len, students)), values=values, mean=round(mean, 2),
        std=round(std, 2), difference=None, images=images, total_bytes=total_bytes,
        seconds=round(sum(student.seconds for mine in students for student in mine), 2), command=command,
        hardware=hardware,
    )  # fmt: skip


def compared(ours: ResultEntry, baselines: Mapping[str, ResultEntry]) -> ResultEntry:
    """Return a result with its paired differences to baselines.

    Args:
        ours: The result.
        baselines: Results of the baselines with the same network and seeds, by name.
    """
    if ours.values is None:
        return ours
    found = {
        name: difference
        for name, entry in baselines.items()
        if entry.values is not None
        if (difference := paired_difference(ours.values, entry.values, name)) is not None
    }
    first = found.pop("random", None)
    return ours.changed(difference=first, differences=tuple(found.values()))
