"""Runs measures of trained networks and sets as units: one result file for each subject, in OUT.work/measures."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ddkit import __version__
from ddkit.core.console import watched_progress
from ddkit.core.files import write_bytes
from ddkit.core.serialization import canonical, fingerprint, to_plain
from ddkit.core.worker_state import STATE
from ddkit.engine import Engine
from ddkit.engine.jobs import unfinished
from ddkit.engine.units import UnitFile
from ddkit.errors import OptionError
from ddkit.evaluation.measures import find_measure, measure_config
from ddkit.evaluation.measures.interface import (
    Context,
    Figure,
    Found,
    Measure,
    MeasuredNetwork,
    Row,
    Subject,
)
from ddkit.format.manifest_file import read_manifest
from ddkit.networks.checkpoints import load_checkpoint
from ddkit.sources.classes import unique_names
from ddkit.sources.images import Source, SourceRef, reopen
from ddkit.sources.validation import ValidationRef
from ddkit.teachers.teacher import Teacher


@dataclass(frozen=True, kw_only=True)
class Environment:
    """What measures of a set may use, as plain data for worker processes.

    Attributes:
        directory: The evaluated set, whose classes and evaluation transform are used.
        val: The validation images.
        validation: Hash of the validation images and their labels.
        teacher: Checkpoint of the teacher; None: it is not at hand.
        teacher_hash: Hash of its weights.
        order: Output column of the teacher for each class of the set; None: the orders are the same.
        shown_hash: Hash of the set's classes and of its evaluation transform, which decide what networks are shown.
        source: The source without its holdout; None: it is not at hand.
        source_hash: Hash of the source and of the choice of its images.
        device: Name of the device.
    """

    directory: str
    val: ValidationRef
    validation: str
    teacher: str | None = None
    teacher_hash: str = ""
    order: tuple[int, ...] | None = None
    shown_hash: str = ""
    source: SourceRef | None = None
    source_hash: str = ""
    device: str = "cpu"

    def lacks(self, measure: Measure) -> list[str]:
        """Return what a measure needs and is not at hand, as the options that would give it.

        Args:
            measure: The measure.
        """
        given = {"teacher": self.teacher is not None, "source": self.source is not None}
        options = {"teacher": "--teacher", "source": "--data"}
        return [options[need] for need in ("teacher", "source") if need in measure.needs and not given[need]]

    def context(self, measure: Measure, config: Any, part: str) -> Context:
        """Return what a measure is called with.

        Args:
            measure: The measure.
            config: Its Config.
            part: One of its parts.
        """
        device, teacher, source = torch.device(self.device), self.teacher, self.source
        manifest = read_manifest(self.directory)
        key = (self.val, self.validation, manifest.eval.resize, manifest.eval.crop)

        def validation() -> tuple[Tensor, Tensor]:
            opened = lambda: self.val.open(manifest.classes, manifest.source).load(manifest.eval)  # noqa: E731
            return STATE.keep("measured images", key, opened)

        def load_teacher() -> Teacher:
            assert teacher is not None
            return Teacher.shared(teacher, device, self.order)

        def load_source() -> Source:
            assert source is not None
            return reopen(source)

        return Context(
            config=config, classes=tuple(unique_names(manifest.classes)), device=device, part=part,
            validation_key=key, load_validation=validation,
            load_teacher=load_teacher if "teacher" in measure.needs else None,
            load_source=load_source if "source" in measure.needs else None,
        )  # fmt: skip

    def key(self, measure: Measure) -> list[str]:
        """Return the hashes of what a measure uses."""
        used = [self.validation, self.shown_hash, self.device.partition(":")[0]]
        used += [self.teacher_hash] if "teacher" in measure.needs else []
        return used + ([self.source_hash] if "source" in measure.needs else [])


@dataclass(frozen=True, kw_only=True)
class Task:
    """One part of one measure of one subject.

    Attributes:
        measure: Name or file of the measure.
        settings: Settings of measures, by dotted key.
        part: The part.
        subject: The network or set.
        folder: Folder of the results.
        environment: What the measure may use.
        key: Hash of everything that determines the result.
    """

    measure: str
    settings: Mapping[str, Any]
    part: str
    subject: Subject
    folder: Path
    environment: Environment
    key: str

    @property
    def file(self) -> UnitFile:
        """The file of the result."""
        name = "-".join(filter(None, (Path(self.measure).stem, self.part, self.subject.of, self.key[:16])))
        return UnitFile(self.folder / f"{name}.json", self.key)

    def run(self) -> None:
        """Measure, and write figures and rows.

        Raises:
            OptionError: The measure yields a metric that it does not declare, or a value that is not a number.
        """
        measure = find_measure(self.measure)
        context = self.environment.context(measure, measure_config(measure, self.settings), self.part)
        rows, figures = [], []
        for found in checked(measure, measure.run(self.subject, context)):
            if isinstance(found, Row):
                rows.append(to_plain(found))
            else:
                figures.append(self._write(found))
        self.file.write_json({"rows": rows, "figures": figures})

    def _write(self, figure: Figure) -> dict[str, Any]:
        """Write a figure; return its name, caption, kind and file name, and whether it is private."""
        kind, content = "vega-lite", b""
        if isinstance(figure.content, np.ndarray):
            kind, buffer = "png", io.BytesIO()
            Image.fromarray(figure.content).save(buffer, format="PNG")
            content = buffer.getvalue()
        else:
            content = canonical(figure.content, indent=None).encode()
        name = f"{self.file.path.stem}-{figure.name}.{'png' if kind == 'png' else 'json'}"
        write_bytes(self.folder / name, content)
        return {
            "name": figure.name, "caption": figure.caption, "kind": kind, "file": name, "private": figure.private,
        }  # fmt: skip

    def copy(self, other: Task) -> None:
        """Write the result of a finished task that differs in its folder only.

        Args:
            other: The finished task.
        """
        found = other.file.read_json()
        for figure in found["figures"]:
            write_bytes(self.folder / figure["file"], (other.folder / figure["file"]).read_bytes())
        self.file.write_json(found)

    def result(self) -> Result:
        """Return the result of a finished task."""
        found = self.file.read_json()
        return Result(
            task=self, rows=tuple(Row(**row) for row in found["rows"]), figures=tuple(found["figures"]),
        )  # fmt: skip


@dataclass(frozen=True)
class Result:
    """What a measure found of one subject.

    Attributes:
        task: The task; of several parts, the first.
        rows: The rows.
        figures: For each figure its name, caption, kind ("png" or "vega-lite"), file in the task's folder, and whether
            it is private.
    """

    task: Task
    rows: tuple[Row, ...]
    figures: tuple[dict[str, Any], ...]


@dataclass(frozen=True, kw_only=True)
class MeasureJob:
    """Tasks that one process runs one after another, so that they share what is loaded and computed once.

    Attributes:
        tasks: The tasks.
        needs: Ids of the jobs that have to be done before.
    """

    tasks: tuple[Task, ...]
    needs: frozenset[str] = frozenset()
    gpu_share = 1.0

    @property
    def id(self) -> str:
        """The file of the first task."""
        return str(self.tasks[0].file.path)

    @property
    def files(self) -> tuple[UnitFile, ...]:
        """The files of the results."""
        return tuple(task.file for task in self.tasks)

    def run(self) -> None:
        """Run the tasks that have no result."""
        for task in self.tasks:
            if task.file.read_json() is None:
                task.run()


def checked(measure: Measure, found: Iterable[Found]) -> Iterator[Found]:
    """Yield what a measure yields, checked.

    Args:
        measure: The measure.
        found: What its module yields.

    Raises:
        OptionError: A row has a metric that the measure does not declare or a value that is not a finite number, or a
            figure has a name that is no file name.
    """
    declared = {metric.name for metric in measure.metrics}
    for one in found:
        if isinstance(one, Row):
            if one.metric not in declared:
                raise OptionError(
                    f"measure {measure.name} yields metric {one.metric!r}, which its METRICS lack; add it there"
                )
            value = float(one.value)
            if not np.isfinite(value):
                raise OptionError(
                    f"measure {measure.name}: {one.metric} {one.condition} is {value}; yield numbers only"
                )
            yield replace(one, value=value)
        elif isinstance(one, Figure):
            if not one.name.replace("-", "").isalnum():
                raise OptionError(f"measure {measure.name}: figure {one.name!r}; use letters, digits and dashes")
            yield one
        else:
            raise OptionError(f"measure {measure.name} yields {type(one).__name__}; valid: Row, Figure")


def make_task(
    name: str, measure: Measure, settings: Mapping[str, Any], part: str, subject: Subject, folder: Path,
    environment: Environment,
) -> Task:  # fmt: skip
    """Return the task of one part of a measure of a subject.

    Args:
        name: Name or file of the measure.
        measure: The measure.
        settings: Settings of measures, by dotted key.
        part: The part.
        subject: The network or set.
        folder: Folder of the results.
        environment: What the measure may use.
    """
    config = measure_config(measure, settings)
    decisive = [
        *(__version__, measure.name, measure.code, None if config is None else to_plain(config), part),
        *(_subject_key(subject, "student" in measure.needs), environment.key(measure)),
    ]
    return Task(
        measure=name, settings=settings, part=part, subject=subject, folder=folder, environment=environment,
        key=fingerprint(decisive),
    )  # fmt: skip


def _subject_key(subject: Subject, with_networks: bool) -> list[Any]:
    """Return what determines a subject, as JSON values."""
    if isinstance(subject, MeasuredNetwork):
        request = None if subject.request is None else to_plain(subject.request)
        return [_weights(subject), list(subject.order or ()), request, subject.seed]
    networks = [_subject_key(network, True) for network in subject.networks] if with_networks else []
    return [subject.manifest.content, subject.ipc, subject.total_bytes, networks]


def _weights(network: MeasuredNetwork) -> str:
    """Return the hash of a network's weights, its normalisation included."""

    def load() -> str:
        spec = load_checkpoint(network.checkpoint)[1]
        return fingerprint([spec.hash, list(spec.mean), list(spec.std)])

    stat = network.checkpoint.stat()
    return STATE.keep("weights", (str(network.checkpoint), stat.st_mtime_ns, stat.st_size), load, most=1000)


def run_tasks(tasks: Sequence[Task], engine: Engine) -> None:
    """Run tasks that have no result: those of one subject in one job, those of one part of a measure in one job.

    What several sets have in common, such as their teacher, is measured once: tasks that differ in their folder only
    have the same result.

    Args:
        tasks: The tasks.
        engine: Where they run.
    """
    first: dict[str, Task] = {}
    for task in tasks:
        task.folder.mkdir(parents=True, exist_ok=True)
        kept = first.setdefault(task.file.path.name, task)
        if not kept.file.exists() and task.file.exists():
            first[task.file.path.name] = task
    groups: dict[str, list[Task]] = {}
    for task in first.values():
        together = f"part {task.measure} {task.part}" if task.part else json.dumps(_subject_key(task.subject, True))
        groups.setdefault(together, []).append(task)
    jobs = unfinished([MeasureJob(tasks=tuple(group)) for group in groups.values()])
    files = {file.path: file for job in jobs for file in job.files if not file.exists()}

    def done() -> int:
        return sum(file.exists() for file in files.values())

    with watched_progress("measuring", len(files), "results", done):
        for _ in engine.run(jobs):
            pass
    for task in tasks:
        if not task.file.exists():
            task.copy(first[task.file.path.name])


def results_of(tasks: Sequence[Task]) -> list[Result]:
    """Return the results of finished tasks, with the parts of a measure joined and its summary added.

    Args:
        tasks: The tasks.
    """
    joined: dict[tuple[str, str], list[Result]] = {}
    for task in tasks:
        place = (task.measure, json.dumps(_subject_key(task.subject, True)) + task.subject.of)
        joined.setdefault(place, []).append(task.result())
    found = []
    for (name, _), results in joined.items():
        measure = find_measure(name)
        rows = tuple(row for result in results for row in result.rows)
        if measure.summary is not None:
            summary = [row for row in checked(measure, measure.summary(rows)) if isinstance(row, Row)]
            rows = (*summary, *rows)
        found.append(Result(results[0].task, rows, tuple(f for result in results for f in result.figures)))
    return found
