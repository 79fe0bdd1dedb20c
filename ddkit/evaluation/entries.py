"""Results of evaluated sets from their students: mean and standard deviation, paired differences to baselines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ddkit.evaluation.measures.interface import Measure, MeasuredNetwork, Row
from ddkit.evaluation.measuring import Result
from ddkit.evaluation.statistics import mean_std, paired_difference
from ddkit.format.measurements import Measurement
from ddkit.format.results import BASELINE_NAMES, ResultEntry
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


def accuracy_of_network(
    result: Result, *, of: str, ipc: int, arch: str, protocol: str, val: str, val_images: int, total_bytes: int,
    command: str, hardware: str,
) -> ResultEntry:  # fmt: skip
    """Build the result of one network that is no student of a set: the teacher, or one trained on the whole source.

    Args:
        result: Result of the measure "accuracy".
        of: "teacher" or "full".
        ipc: Images per class of the evaluated set, or of its prefix.
        arch: The network.
        protocol: Label of the protocol.
        val: What it was measured on.
        val_images: Number of those images.
        total_bytes: Bytes of its weights in half precision.
        command: The command that was called.
        hardware: The hardware it ran on.
    """
    (accuracy,) = (row.value for row in result.rows if row.metric == "top-1")
    return ResultEntry(
        of=of, ipc=ipc, arch=arch, protocol=protocol, labels="hard", val=val, val_images=val_images, seeds=(0,),
        n_sets=1, n_students=1, values=((accuracy,),), mean=round(accuracy, 2), std=0.0, difference=None,
        total_bytes=total_bytes, command=command, hardware=hardware,
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


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What a row of the table stands for, as results name it.

    Attributes:
        of, ipc, arch, protocol, labels, val: As in Measurement.
    """

    of: str
    ipc: int
    arch: str | None
    protocol: str | None
    labels: str | None
    val: str | None


def measurements_of(
    measure: Measure, origin: Origin, results: Sequence[Sequence[Result]], *, command: str, hardware: str
) -> list[Measurement]:
    """Build the measurements of one row of the table.

    Args:
        measure: The measure.
        origin: The row.
        results: Results of the measure, by set: one for each student, or one of the set.
        command: The command that was called.
        hardware: The hardware it ran on.

    Returns:
        One Measurement for each metric and condition, in the order of METRICS; those without a condition first.
    """
    found: dict[tuple[str, str], list[dict[int | None, Row]]] = {}
    seen: list[set[int | None]] = [set() for _ in results]
    for i, mine in enumerate(results):
        for result in mine:
            subject = result.task.subject
            student = subject.seed if isinstance(subject, MeasuredNetwork) else None
            seen[i].add(student)
            for row in result.rows:
                seed = row.seed if student is None else student
                by_set = found.setdefault((row.metric, row.condition), [{} for _ in results])
                by_set[i][seed] = row
                seen[i].add(seed)
    order = {metric.name: i for i, metric in enumerate(measure.metrics)}
    entries = []
    for (name, condition), by_set in sorted(found.items(), key=lambda item: (item[0][1] != "", order[item[0][0]])):
        metric = measure.metric(name)
        expected = [set(rows) for rows in by_set]
        if metric.absent is not None:  # a row of the set, or one of each of its students
            of_set = any(None in rows for rows in by_set)
            expected = [{None} if of_set else mine - {None} for mine in seen]
        measured = [sorted(mine, key=_first_none) for mine in expected]
        values = tuple(
            tuple(rows[seed].value if seed in rows else metric.absent or 0.0 for seed in mine)
            for rows, mine in zip(by_set, measured)
        )
        seeds = tuple(sorted({seed for mine in measured for seed in mine if seed is not None}))
        counts = [row.n for rows in by_set for row in rows.values() if row.n]
        mean, std = mean_std([value for mine in values for value in mine])
        entries.append(
            Measurement(
                measure=measure.name,
                metric=name,
                title=metric.title,
                unit=metric.unit,
                better=metric.better,
                condition=condition,
                of=origin.of,
                ipc=origin.ipc,
                arch=origin.arch,
                protocol=origin.protocol,
                labels=origin.labels,
                val=origin.val if "validation" in measure.needs else None,
                n=min(counts, default=None),
                seeds=seeds,
                values=values,
                mean=mean,
                std=std,
                command=command,
                hardware=hardware,
            )  # fmt: skip
        )
    return _largest(entries, measure)


def _first_none(seed: int | None) -> int:
    return -1 if seed is None else seed


def _largest(entries: Sequence[Measurement], measure: Measure) -> list[Measurement]:
    """Return the entries without the conditions beyond the `largest` of their metric."""
    counts, dropped = Counter[tuple[str, str]](), set()
    for entry in sorted(entries, key=lambda entry: -entry.mean):
        most, group = measure.metric(entry.metric).largest, (entry.metric, entry.condition.partition(" > ")[0])
        counts[group] += 1
        if most is not None and entry.condition and counts[group] > most:
            dropped.add((entry.metric, entry.condition))
    return [entry for entry in entries if (entry.metric, entry.condition) not in dropped]


def with_differences(entries: Sequence[Measurement]) -> list[Measurement]:
    """Return measurements with the paired differences of the set's own to the baselines measured with them.

    Args:
        entries: Measurements of one table.
    """
    alike = ("measure", "metric", "condition", "ipc", "arch", "protocol", "val", "seeds")
    index = {(one.of, one.labels, *(getattr(one, name) for name in alike)): one for one in entries}

    def compared_to_baselines(ours: Measurement) -> Measurement:
        key, shape = tuple(getattr(ours, name) for name in alike), [len(values) for values in ours.values]
        differences = []
        for name, (of, labels) in BASELINE_NAMES.items():
            theirs = next(
                (index[of, kind, *key] for kind in labels or (ours.labels,) if (of, kind, *key) in index), None
            )
            if theirs is None or theirs is ours or [len(values) for values in theirs.values] != shape:
                continue
            if set(shape) != {max(len(ours.seeds), 1)}:  # some network has no value: which ones pair is not known
                continue
            if difference := paired_difference(ours.values, theirs.values, name, digits=None):
                differences.append(difference)
        return ours.changed(differences=tuple(differences))

    return [compared_to_baselines(one) if one.of == "this" else one for one in entries]
