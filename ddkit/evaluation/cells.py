"""The rows and cells of an evaluation: what students of which network are trained on, and their jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from ddkit.core.console import note
from ddkit.core.serialization import fingerprint, to_plain
from ddkit.distillers import recorded_settings
from ddkit.errors import OptionError, SetError
from ddkit.evaluation.baselines import BASELINES
from ddkit.evaluation.measures import measure_config
from ddkit.evaluation.measures.interface import Asked, Measure, MeasuredNetwork, MeasuredSet, StudentRequest
from ddkit.evaluation.students import StudentOptions, plan_students
from ddkit.evaluation.subject import Subject
from ddkit.evaluation.training_data import TrainingData
from ddkit.format.manifest import Manifest
from ddkit.pipeline.record import work_dir
from ddkit.pipeline.relabelling import policy_problem, relabel
from ddkit.sources.validation import Validation
from ddkit.specs import protocol_label
from ddkit.students.training import StudentJob
from ddkit.teachers.resolving import resolve_teacher

FullKey = tuple[str, int | None]  # a network on the whole source: (architecture, epochs; None: those of the recipe)

CURVE_POINTS = 20  # accuracies of a learning curve


@dataclass(frozen=True)
class TableRow:
    """One row of the table: an evaluated set, several that differ only in seed, or their baseline.

    Attributes:
        data: What students are trained on, for each of the sets.
        subjects: The evaluated sets.
        ipc: Images per class of the evaluated sets, or of their prefix.
        options: How students are trained.
        validation: What they are measured on.
    """

    data: tuple[TrainingData, ...]
    subjects: tuple[Subject, ...]
    ipc: int
    options: StudentOptions
    validation: Validation

    @property
    def about(self) -> tuple[Path, ...]:
        """Directories of the evaluated sets."""
        return tuple(subject.given.root for subject in self.subjects)

    @property
    def baseline(self) -> str | None:
        """Name of the baseline; None for the sets themselves."""
        return self.data[0].baseline

    @property
    def title(self) -> str:
        """What students are trained on, for notes."""
        return self.baseline or f"this ({self.data[0].labels} labels)"

    @property
    def place(self) -> tuple[Any, ...]:
        """What a row is in the table; two rows with the same place are one."""
        return self.about, self.baseline, self.data[0].labels, self.protocol

    @property
    def protocol(self) -> str:
        """Label of the protocol."""
        return protocol_label(self.data[0].manifest.protocol(self.options.protocol).name, self.options.epochs)


@dataclass(frozen=True)
class Cell:
    """One row of the table for one network.

    Attributes:
        row: The row.
        arch: The network.
        jobs: Its students, by set and seed.
        requested: Students that measures of sets request, by measure and set.
        full: Networks on the whole source that measures request, by measure.
    """

    row: TableRow
    arch: str
    jobs: tuple[tuple[StudentJob, ...], ...]
    requested: Mapping[str, tuple[tuple[tuple[StudentRequest, StudentJob], ...], ...]] = field(default_factory=dict)
    full: Mapping[str, tuple[StudentRequest, ...]] = field(default_factory=dict)

    def full_key(self, request: StudentRequest) -> FullKey:
        """Return the architecture and the epochs of the network on the whole source that `request` is for.

        Args:
            request: A request with `full`.
        """
        return request.arch or self.arch, request.epochs

    def all_jobs(self) -> list[StudentJob]:
        """Return the jobs of all its students."""
        asked = [job for sets in self.requested.values() for mine in sets for _, job in mine]
        return [job for seeds in self.jobs for job in seeds] + asked

    def networks(self, i: int, trained: Mapping[str, StudentJob]) -> tuple[MeasuredNetwork, ...]:
        """Return the students of the table that were trained on one of its sets.

        Args:
            i: Number of the set.
            trained: The job that was run for each result key.
        """
        data = self.row.data[i]
        return tuple(_network(data, None, trained[job.result_key], job) for job in self.jobs[i])

    def measured_set(
        self, i: int, measure: str, trained: Mapping[str, StudentJob], full: Mapping[FullKey, MeasuredNetwork]
    ) -> MeasuredSet:
        """Return one of its sets with the students of a measure.

        Args:
            i: Number of the set.
            measure: Name of the measure.
            trained: The job that was run for each result key.
            full: Networks trained on the whole source, by architecture and epochs.
        """
        data = self.row.data[i]
        networks = self.networks(i, trained)
        if measure in self.requested:
            mine = [
                _network(data, request, trained[job.result_key], job) for request, job in self.requested[measure][i]
            ]
            whole = [replace(full[self.full_key(request)], request=request) for request in self.full[measure]]
            networks = (*mine, *whole)
        return MeasuredSet(
            of=data.of, manifest=data.manifest, ipc=data.ipc, networks=networks, total_bytes=data.total_bytes
        )


def _network(
    data: TrainingData, request: StudentRequest | None, trained: StudentJob, job: StudentJob
) -> MeasuredNetwork:
    return MeasuredNetwork(
        of=data.of, arch=job.arch, seed=job.seed, checkpoint=trained.checkpoint, labels=data.labels, request=request
    )


def make_cell(
    row: TableRow, arch: str, seeds: Sequence[int], measures: Mapping[str, Measure], settings: Mapping[str, object],
    curve: bool, skip_unfit: bool = False,
) -> Cell:  # fmt: skip
    """Return a cell with the jobs of its students.

    Args:
        row: The row.
        arch: The network.
        seeds: Seeds of the students of each set.
        measures: The measures, by name or file.
        settings: Settings of the measures, by dotted key.
        curve: Whether accuracies are measured during the training.
        skip_unfit: Leave out measures that the sets are not fit for, with a note.

    Raises:
        OptionError, SetError, TeacherError, SourceError, ClassesError.
    """
    options = replace(row.options, arch=arch)
    jobs = tuple(tuple(_students(data, options, seeds, curve)) for data in row.data)
    requested: dict[str, tuple[tuple[tuple[StudentRequest, StudentJob], ...], ...]] = {}
    full: dict[str, tuple[StudentRequest, ...]] = {}
    for name, measure in measures.items():
        if measure.students is None:
            continue
        config = measure_config(measure, settings)
        try:
            asked = [measure.students(Asked(config=config, manifest=data.manifest, arch=arch)) for data in row.data]
        except (SetError, OptionError) as error:
            if not skip_unfit:
                raise
            note(f"no measure {measure.name} of {row.title}: {error}")
            continue
        full[name] = tuple(request for request in asked[0] if request.full)
        by_set = []
        for data, requests in zip(row.data, asked):
            mine = []
            for request in requests:
                if not request.full:
                    epochs = options.epochs if request.epochs is None else request.epochs
                    other = replace(options, arch=request.arch or arch, classes=request.classes, epochs=epochs)
                    mine += [(request, job) for job in _students(data, other, seeds, False)]
            by_set.append(tuple(mine))
        requested[name] = tuple(by_set)
    return Cell(row, arch, jobs, requested, full)


def _students(
    data: TrainingData, options: StudentOptions, seeds: Sequence[int], curve: bool = False
) -> list[StudentJob]:
    """Return the jobs of some students; files in OUT.work/students, named by the hash of their inputs."""
    jobs = []
    mine = replace(options, labels=data.mode, ipc=data.ipc, teacher=data.teacher)
    for job in plan_students(data.manifest, mine, seeds, Path(".")):
        if curve:
            epochs = job.spec.epochs_for(job.images(data.manifest))
            job = replace(job, measure_every=max(epochs // CURVE_POINTS, 1))
        arch = job.arch.replace(":", "-").replace("/", "-")
        name = f"{job.labels}-{arch}-{job.seed}-{job.result_key[:16]}"
        jobs.append(replace(job, out=str(work_dir(data.manifest.root) / "students" / name)))
    return jobs


def table_rows(
    sets: Sequence[Manifest], options: StudentOptions, baselines: Sequence[str], data: str | None, workers: int | None
) -> list[TableRow]:
    """Return the rows of the table: the given sets grouped by `group_sets`, each group followed by its baselines.

    A group has a baseline only if every set of it has.

    Args:
        sets: The evaluated sets.
        options: How students are trained, and the images they are measured on.
        baselines: Names of baselines that are made of training data.
        data: The source, as given.
        workers: Number of processes.
    """
    rows: list[TableRow] = []
    subject_of = partial(
        Subject, source=data, teacher=options.teacher, device=options.device, workers=workers, random_sets={}
    )
    for group in group_sets(sets):
        assert options.val is not None
        validation = options.val.open(group[0].classes, group[0].source)
        ipc, own = options.ipc or group[0].ipc, _labelled_for(group, options)
        subjects = tuple(subject_of(given=m, data=mine) for m, mine in zip(group, own))
        rows.append(TableRow(own, subjects, ipc, options, validation))
        for name in baselines:
            made = [BASELINES[name](subject) for subject in subjects]
            kinds = [one.baseline for one in max(made, key=len)]
            for kind in kinds:
                theirs = tuple(one for ones in made for one in ones if one.baseline == kind)
                if len(theirs) == len(group):
                    rows.append(TableRow(theirs, subjects, ipc, options, validation))
    return rows


def group_sets(sets: Sequence[Manifest]) -> list[list[Manifest]]:
    """Group sets that differ only in seed (and in the ddkit version that made them).

    Args:
        sets: The sets.
    """
    groups: dict[str, list[Manifest]] = {}
    for m in sets:
        recipe = to_plain(m.recipe) | {"config": recorded_settings(m.method, m.recipe.config)}
        key = fingerprint(
            [m.method, recipe, to_plain(m.views.policy), m.labels.codec, list(m.prefixes), to_plain(m.image),
             m.source.fingerprint, m.source.holdout, to_plain(m.classes), [t.hash for t in m.teachers]]
        )  # fmt: skip
        groups.setdefault(key, []).append(m)
    return list(groups.values())


def _labelled_for(group: Sequence[Manifest], options: StudentOptions) -> tuple[TrainingData, ...]:
    """Return the training data of some sets, relabelled in OUT.work if their views do not match the protocol."""
    labels, teacher, protocol = options.labels, options.teacher, options.protocol
    if labels == "online" and teacher is not None:
        m = group[0]
        teacher = str(resolve_teacher(teacher, m.classes, str(m.root), size=m.views.size).path)
    problems = [
        problem
        for m in group
        if labels == "stored" and protocol and (problem := policy_problem(m, m.protocol(protocol)))
    ]
    if not problems:
        used = teacher if labels == "online" else None
        return tuple(TrainingData(of="this", labels=labels, manifest=m, ipc=options.ipc, teacher=used) for m in group)
    if teacher is None:
        root = group[0].root
        raise SetError(
            f"{root}: {problems[0]}; give --teacher T to relabel it here, or run "
            f"`ddkit relabel {root} OUT --protocol {protocol} --teacher T`"
        )
    relabelled = []
    for m in group:
        asked, spec = m.protocol(protocol), resolve_teacher(teacher, m.classes, str(m.root)).spec
        key = fingerprint([m.content, to_plain(asked), spec.hash, list(spec.mean), list(spec.std)])[:12]
        out = work_dir(m.root) / f"relabelled-{asked.name}-{key}"
        relabelled.append(relabel(m.root, out, teacher=teacher, protocol=protocol))
    return tuple(TrainingData(of="this", labels="relabelled", manifest=m, ipc=options.ipc) for m in relabelled)
