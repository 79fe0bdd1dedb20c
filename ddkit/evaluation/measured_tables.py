"""Measures of all networks and sets of a table: what is measured, and where the results are written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from ddkit.core.console import note
from ddkit.core.serialization import fingerprint, to_plain
from ddkit.engine import Engine
from ddkit.evaluation.cells import Cell, FullKey
from ddkit.evaluation.entries import Origin, accuracy_of_network, measurements_of, with_differences
from ddkit.evaluation.measures import find_measure
from ddkit.evaluation.measures.interface import Measure, MeasuredNetwork
from ddkit.evaluation.measuring import Environment, Result, Task, make_task, results_of, run_tasks
from ddkit.evaluation.subject import Subject
from ddkit.evaluation.training_data import half_precision_bytes
from ddkit.format.manifest import Manifest
from ddkit.format.measurements import (
    FIGURE_KEY,
    Measurement,
    Measurements,
    StoredCurve,
    StoredFigure,
    merged_measurements,
    read_measurements,
    write_measurements,
)
from ddkit.format.results import ResultEntry, merged
from ddkit.pipeline.record import work_dir
from ddkit.sources.validation import ValidationRef
from ddkit.students.training import StudentJob, StudentResult
from ddkit.teachers.resolving import ResolvedTeacher

FOLDER = "measures"  # of the result files, in OUT.work
NO_PROTOCOL = "-"  # of networks that were not trained by a protocol of students


@dataclass(frozen=True)
class Trained:
    """The students of a table, each trained once: those with the same result key are the same network.

    Attributes:
        by_key: The job that is run for each result key.
    """

    by_key: Mapping[str, StudentJob]

    @property
    def jobs(self) -> list[StudentJob]:
        """The jobs to run."""
        return list(self.by_key.values())

    @classmethod
    def of(cls, cells: Sequence[Cell]) -> Trained:
        """Choose a job for each result key, one that is finished where there is one.

        Args:
            cells: The cells.
        """
        chosen: dict[str, StudentJob] = {}
        for job in (job for cell in cells for job in cell.all_jobs()):
            kept = chosen.setdefault(job.result_key, job)
            if not kept.result.exists() and job.result.exists():
                chosen[job.result_key] = job
        return cls(chosen)


@dataclass(frozen=True, kw_only=True)
class MeasuredTable:
    """The measures of a table.

    Attributes:
        cells: The cells.
        trained: Their students.
        measures: The measures, by name or file.
        settings: Settings of the measures, by dotted key.
        val: The validation images.
        references: Which of the networks that are no students have a row: "teacher", "full".
        device: The device.
        engine: Where measures run.
        command: The command that was called.
        hardware: The hardware it runs on.
    """

    cells: Sequence[Cell]
    trained: Trained
    measures: Mapping[str, Measure]
    settings: Mapping[str, Any]
    val: ValidationRef
    references: tuple[str, ...]
    device: torch.device
    engine: Engine
    command: str
    hardware: str
    measured: dict[tuple[Path, ...], list[tuple[Measurement, list[StoredFigure]]]] = field(default_factory=dict)

    # -------------------------------------------------------------- what is at hand

    @cached_property
    def _groups(self) -> dict[tuple[Path, ...], list[Cell]]:
        """The cells by the evaluated sets that they are about."""
        groups: dict[tuple[Path, ...], list[Cell]] = {}
        for cell in self.cells:
            groups.setdefault(cell.row.about, []).append(cell)
        return groups

    def _teacher(self, subject: Subject) -> ResolvedTeacher | None:
        """Return the teacher of a set; None, with a note, if it is not at hand."""
        found = subject.found_teacher()
        if found is None:
            note(f"{subject.given.root}: no row of the teacher, for want of --teacher")
        elif found.spec.hash != subject.set.teacher.hash:
            note(f"{subject.given.root}: no row of the teacher, the available one is not the one the set was made with")
            return None
        return found

    @cached_property
    def _environments(self) -> dict[tuple[Path, ...], Environment]:
        needed = {need for measure in self.measures.values() for need in measure.needs}
        found = {}
        for about, cells in self._groups.items():
            subject = cells[0].row.subjects[0]
            wants_teacher = "teacher" in needed or "teacher" in self.references
            teacher = self._teacher(subject) if wants_teacher else None
            source = subject.found_source() if "source" in needed or "full" in self.references else None
            found[about] = Environment(
                directory=str(about[0]), val=self.val, validation=cells[0].row.validation.fingerprint,
                teacher=None if teacher is None else str(teacher.path),
                teacher_hash="" if teacher is None else teacher.spec.hash,
                order=None if teacher is None else teacher.order,
                shown_hash=fingerprint([to_plain(subject.set.classes), to_plain(subject.set.eval)]),
                source=None if source is None else source.ref,
                source_hash="" if source is None else fingerprint([source.fingerprint, to_plain(source.ref)]),
                device=str(self.device),
            )  # fmt: skip
        return found

    @cached_property
    def _references(self) -> dict[tuple[Path, ...], list[MeasuredNetwork]]:
        """The teacher, and the networks trained on the whole source, by the sets they are references of."""
        found: dict[tuple[Path, ...], list[MeasuredNetwork]] = {}
        for about, cells in self._groups.items():
            environment, mine = self._environments[about], []
            if "teacher" in self.references and environment.teacher is not None:
                arch = cells[0].row.subjects[0].set.teacher.arch
                checkpoint = Path(environment.teacher)
                mine.append(
                    MeasuredNetwork(of="teacher", arch=arch, seed=0, checkpoint=checkpoint, order=environment.order)
                )
            wanted: list[FullKey] = [(cell.arch, None) for cell in cells] if "full" in self.references else []
            mine += self._full(about, wanted).values()
            found[about] = mine
        return found

    def _full(self, about: tuple[Path, ...], wanted: Sequence[FullKey]) -> dict[FullKey, MeasuredNetwork]:
        """Return networks trained on the whole source; none, with a note, if it is not at hand."""
        subject = self._groups[about][0].row.subjects[0]
        source = subject.found_source() if wanted else None
        if source is None:
            if wanted:
                note(
                    f"{subject.given.root}: no networks trained on the whole source, {subject.problem() or 'not there'}"
                )
            return {}
        found = {}
        for arch, epochs in dict.fromkeys(wanted):
            trained = subject.trained_on_source(arch, source, epochs)
            found[arch, epochs] = MeasuredNetwork(
                of="full",
                arch=arch,
                seed=0,
                checkpoint=trained.path,
                order=trained.order,
                labels="hard",
                epochs=trained.epochs,
            )
        return found

    # -------------------------------------------------------------- references

    def reference_abouts(self) -> list[tuple[Path, ...]]:
        """Return the evaluated sets of each of `reference_entries`."""
        return [about for about, networks in self._references.items() for _ in networks]

    def reference_entries(self) -> list[ResultEntry]:
        """Measure the networks that are no students; return their results."""
        tasks: list[tuple[Task, tuple[Path, ...]]] = []
        for about, networks in self._references.items():
            folder = work_dir(about[0]) / FOLDER
            measure = find_measure("accuracy")
            for network in networks:
                task = make_task("accuracy", measure, {}, "", network, folder, self._environments[about])
                tasks.append((task, about))
        run_tasks([task for task, _ in tasks], self.engine)
        return [self._reference_entry(task, about) for task, about in tasks]

    def _reference_entry(self, task: Task, about: tuple[Path, ...]) -> ResultEntry:
        network, row = task.subject, self._groups[about][0].row
        assert isinstance(network, MeasuredNetwork)
        return accuracy_of_network(
            task.result(), of=network.of, ipc=row.ipc, arch=network.arch, protocol=NO_PROTOCOL,
            val=row.validation.name, val_images=row.validation.used,
            total_bytes=half_precision_bytes(network.checkpoint), command=self.command, hardware=self.hardware,
        )  # fmt: skip

    # -------------------------------------------------------------- measures

    def measure(self) -> None:
        """Run the measures; what is finished is not measured again."""
        planned = {about: list(self._planned(about, cells)) for about, cells in self._groups.items()}
        run_tasks([task for of_set in planned.values() for _, _, sets in of_set for mine in sets for task in mine],
                  self.engine)  # fmt: skip
        for about, of_set in planned.items():
            found = []
            soft = {name for name, origin, _ in of_set if origin.of == "this" and origin.labels != "hard"}
            for name, origin, sets in of_set:
                measure, results = find_measure(name), [results_of(mine) for mine in sets]
                entries = measurements_of(measure, origin, results, command=self.command, hardware=self.hardware)
                again = origin.of == "this" and origin.labels == "hard" and name in soft  # the same images
                figures = [] if again else list(_figures(measure.name, origin, results))
                found += [(entry, figures if i == 0 else []) for i, entry in enumerate(entries)]
            entries = with_differences([entry for entry, _ in found])
            self.measured[about] = [(entry, figures) for entry, (_, figures) in zip(entries, found)]

    def _usable(self, about: tuple[Path, ...]) -> dict[str, Measure]:
        """Return the measures that have what they need; the others are left out with a note."""
        usable = {}
        for name, measure in self.measures.items():
            if lacking := self._environments[about].lacks(measure):
                note(f"{about[0]}: no measure {measure.name}, for want of {' and '.join(lacking)}")
            else:
                usable[name] = measure
        return usable

    def _planned(
        self, about: tuple[Path, ...], cells: Sequence[Cell]
    ) -> Iterator[tuple[str, Origin, list[list[Task]]]]:
        """Yield (measure, row of the table, tasks by set) of everything that is measured."""
        folder, environment, measures = work_dir(about[0]) / FOLDER, self._environments[about], self._usable(about)

        def tasks(name: str, measure: Measure, subject: Any) -> list[Task]:
            return [
                make_task(name, measure, self.settings, part, subject, folder, environment) for part in measure.parts
            ]

        full = self._full(about, [c.full_key(r) for c in cells for name in measures for r in c.full.get(name, ())])
        for name, measure in measures.items():
            seen = set()
            for cell in cells:
                data, own = cell.row.data, "student" in measure.needs
                if measure.students is not None and name not in cell.requested:
                    continue
                two_kinds = data[0].of == "equal-bytes"  # other images with hard labels than with stored ones
                origin = Origin(
                    of=data[0].of, ipc=cell.row.ipc, arch=cell.arch if own else None,
                    protocol=cell.row.protocol if own else None, labels=data[0].labels if own or two_kinds else None,
                    val=cell.row.validation.name,
                )  # fmt: skip
                if origin in seen:  # of a measure of the images alone
                    continue
                seen.add(origin)
                if measure.subject == "network":
                    networks = [cell.networks(i, self.trained.by_key) for i in range(len(data))]
                    yield name, origin, [[t for one in mine for t in tasks(name, measure, one)] for mine in networks]
                elif all(cell.full_key(request) in full for request in cell.full.get(name, ())):
                    sets = [cell.measured_set(i, name, self.trained.by_key, full) for i in range(len(data))]
                    yield name, origin, [tasks(name, measure, one) for one in sets]
        of_networks = {name: measure for name, measure in measures.items() if measure.subject == "network"}
        for name, measure in ({"accuracy": find_measure("accuracy")} | of_networks).items():
            for network in self._references[about]:
                if name not in of_networks and network.of != "full":  # the teacher has a result in the manifest
                    continue
                origin = Origin(
                    of=network.of, ipc=cells[0].row.ipc, arch=network.arch, protocol=None, labels=network.labels,
                    val=cells[0].row.validation.name,
                )  # fmt: skip
                yield name, origin, [tasks(name, measure, network)]

    # -------------------------------------------------------------- writing

    def write(self, manifest: Manifest, found: Mapping[str, StudentResult]) -> tuple[Measurement, ...]:
        """Write what was measured of a set to OUT.work; return the summaries, which its manifest holds.

        Args:
            manifest: The set.
            found: Results of the students, by result key.
        """
        mine = [(about, measured) for about, measured in self.measured.items() if manifest.root in about]
        entries = tuple(entry for _, measured in mine for entry, _ in measured)
        figures = tuple(figure for about, measured in mine for _, some in measured for figure in some)
        cells = [cell for cell in self.cells if manifest.root in cell.row.about]
        curves = tuple(_curve(cell, found) for cell in cells)
        work = work_dir(manifest.root)
        if mine and mine[0][0][0] != manifest.root:  # figures lie beside the first set of the row
            figures = ()
        earlier = read_measurements(work)
        if earlier is None or earlier.content != manifest.content:
            earlier = Measurements(content=manifest.content)
        write_measurements(
            work,
            Measurements(
                content=manifest.content, measurements=merged_measurements(entries, earlier.measurements),
                figures=merged(figures, earlier.figures, FIGURE_KEY),
                curves=merged(curves, earlier.curves, ("of", "ipc", "arch", "protocol", "labels", "val")),
            ),
        )  # fmt: skip
        return tuple(entry for entry in entries if not entry.condition and entry.of != "full")


def _figures(measure: str, origin: Origin, results: Sequence[Sequence[Result]]) -> Iterator[StoredFigure]:
    """Yield the figures of the first subject."""
    for result in results[0][:1]:
        for figure in result.figures:
            yield StoredFigure(
                measure=measure, name=figure["name"], caption=figure["caption"], of=origin.of, ipc=origin.ipc,
                arch=origin.arch, protocol=origin.protocol, labels=origin.labels, kind=figure["kind"],
                file=f"{FOLDER}/{figure['file']}", private=figure["private"],
            )  # fmt: skip


def _curve(cell: Cell, found: Mapping[str, StudentResult]) -> StoredCurve:
    """Return the learning curves of a cell's students."""
    histories = [found[job.result_key].history for seeds in cell.jobs for job in seeds]
    measured = [[entry.get("accuracy") for entry in history] for history in histories]
    best = [max((a for a in mine if a is not None), default=None) for mine in measured]
    first = cell.row.data[0]
    return StoredCurve(
        of=first.of, ipc=cell.row.ipc, arch=cell.arch, protocol=cell.row.protocol, labels=first.labels,
        val=cell.row.validation.name if any(best) else None,
        epochs=tuple(int(entry["epoch"]) for entry in histories[0]),
        losses=tuple(tuple(float(entry["loss"]) for entry in history) for history in histories),
        accuracies=tuple(map(tuple, measured)), best=tuple(best),
    )  # fmt: skip
