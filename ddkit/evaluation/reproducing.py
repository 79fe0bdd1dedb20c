"""Runs a paper's table and sets the results beside the paper's: `ddkit reproduce`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ddkit import __version__
from ddkit.core.console import duration, note
from ddkit.core.device import versions
from ddkit.core.files import write_bytes
from ddkit.core.serialization import canonical, fingerprint, read_dataclass, to_plain
from ddkit.errors import OptionError, TooCostly
from ddkit.evaluation.published import PaperRow, PaperTable, Scale, find_table, verdict
from ddkit.evaluation.subject import Subject
from ddkit.evaluation.tables import evaluate
from ddkit.evaluation.training_data import TrainingData
from ddkit.format.manifest import Manifest
from ddkit.format.results import Difference, ResultEntry
from ddkit.pipeline.costs import LIMIT_S
from ddkit.pipeline.distilling import distill
from ddkit.pipeline.planning import plan
from ddkit.pipeline.relabelling import relabel
from ddkit.specs import Recipe
from ddkit.teachers.resolving import TeacherChoice


@dataclass(frozen=True, kw_only=True)
class ReproducedRow:
    """One row with what was measured.

    Attributes:
        row: The row.
        result: Result of its students; None: it was not run.
        why: Why it was not run; "" if it was.
    """

    row: PaperRow
    result: ResultEntry | None
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the results say of a claim.

    Attributes:
        about, paper: As in the claim.
        better, worse: Names of the rows.
        verdict: "agree", "disagree" or "undecided".
        difference: The paired difference; None with fewer than two pairs.
    """

    about: str
    paper: str
    better: str
    worse: str
    verdict: str
    difference: Difference | None


@dataclass(frozen=True, kw_only=True)
class Reproduced:
    """A table with results.

    Attributes:
        table: The table.
        rows: Its rows.
        verdicts: Verdicts on the claims whose rows were measured.
        file: Where the results are kept.
    """

    table: PaperTable
    rows: tuple[ReproducedRow, ...]
    verdicts: tuple[Verdict, ...]
    file: Path


def reproduce(
    name: str,
    *,
    data: str,
    teacher: str,
    scale: str = "cpu",
    rows: Sequence[str] | None = None,
    work: str | Path = "reproduced",
    val: str | None = None,
    epochs: int | None = None,
    sets: int | None = None,
    runs: int | None = None,
    settings: dict[str, Any] | None = None,
    yes: bool = False,
    workers: int | None = None,
) -> Reproduced:
    """Make the sets of a paper's table, train students on them, and judge the paper's claims.

    Sets and students are kept in `work`, and results are written after every row, so a second call continues. A row
    that several tables share is made once.

    Args:
        name: The table: a name (`ddkit reproduce` lists them) or a TOML file.
        data: The source.
        teacher: The teacher, as for `distill`.
        scale: "cpu" or "paper".
        rows: Names of rows. Default: all.
        work: Folder of sets and results.
        val: Images to measure on. Default: `data`.
        epochs, sets, runs: Instead of the scale's.
        settings: Settings of the method that are changed in every row, by dotted key, to make a trial shorter.
        yes: Continue although the sets take more than an hour.
        workers: Number of processes. Default: the number of cores.

    Raises:
        TooCostly: The sets take more than an hour, without `yes`.
        OptionError: The table, a row or the scale is unknown.
        InputError, IntegrityError.
    """
    table = find_table(name)
    if scale not in table.scale:
        raise OptionError(f"--scale is {scale!r}; valid: {', '.join(table.scale)}")
    under, chosen, work = table.scale[scale], table.rows(rows), Path(work)
    count, students = sets or under.sets, runs or under.runs
    runner = _Runner(
        table, under, data, teacher, work, val or data, epochs or under.epochs, count, students, settings or {}, workers
    )
    file, keys = work / f"{Path(name).stem}-{scale}.json", {row.name: runner.key(row) for row in table.rows(None)}
    found = _kept(file, keys)
    problems = {row.name: why for row in chosen if row.name not in found if (why := runner.problem(row))}
    todo = [row for row in chosen if row.name not in found and row.name not in problems]
    runner.ask(todo, yes)
    for row in todo:
        found[row.name] = runner.run(row)
        conditions = {"scale": to_plain(under), "epochs": runner.epochs, "sets": count, "runs": students}
        _write(file, table, found, {name: keys[name] for name in found}, conditions)
    results = tuple(
        ReproducedRow(row=row, result=found.get(row.name), why=problems.get(row.name, "")) for row in chosen
    )
    return Reproduced(table=table, rows=results, verdicts=_verdicts(table, found), file=file)


@dataclass(frozen=True)
class _Runner:
    """How rows are run."""

    table: PaperTable
    scale: Scale
    data: str
    teacher: str
    work: Path
    val: str
    epochs: int | None
    sets: int
    runs: int
    settings: dict[str, Any]
    workers: int | None

    def options(self, row: PaperRow, seed: int) -> dict[str, Any]:
        """Return the options of `distill` for one set."""
        recipe = f"{row.method}-{self.scale.dataset}"
        return {
            "data": self.data, "teacher": self.teacher, "method": row.method,
            "recipe": recipe if recipe in {shipped.name for shipped in Recipe.shipped()} else None,
            "settings": {**row.settings, **self.settings}, "prefixes": row.prefixes, "ipc": self.scale.ipc,
            "seed": seed, "protocol": self.scale.protocol,
        }  # fmt: skip

    def key(self, row: PaperRow) -> str:
        """Return the hash of everything that decides the result of a row."""
        made = [self.options(row, seed) for seed in range(self.sets)]
        measures = [self.table.measures, self.table.settings] if self.table.measures else []
        decisive = [to_plain(made), row.mix_within, self.epochs, self.runs, to_plain(measures), self.val, __version__]
        return fingerprint([*decisive, self._teacher_hash])

    @cached_property
    def _teacher_hash(self) -> str:
        """Hash of the teacher's file; "" of a teacher that is trained or of a library, which its name determines."""
        file = Path(self.teacher)
        return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""

    def folder(self, row: PaperRow, seed: int) -> Path:
        """Return the directory of a set, the same for every table that has it."""
        key = fingerprint(to_plain(self.options(row, seed)))[:10]
        return self.work / "sets" / f"{row.name}-s{seed}-{key}"

    def problem(self, row: PaperRow) -> str:
        """Return why a row cannot be run, or ""."""
        from ddkit.distillers import distiller_names

        return "" if row.method in distiller_names() else f"ddkit has no method {row.method}"

    def ask(self, rows: Sequence[PaperRow], yes: bool) -> None:
        """Print what is to be done. Raises TooCostly above an hour of making sets, without `yes`."""
        missing = [
            (row, s) for row in rows for s in range(self.sets) if not (self.folder(row, s) / "ddkit.json").exists()
        ]
        if not rows:
            return
        seconds = 0.0
        for row, seed in missing:
            options = {k: v for k, v in self.options(row, seed).items() if k != "seed"}
            seconds += plan(**options).one_device_seconds
        note(
            f"{len(rows)} rows: {len(missing)} sets to make, about {duration(seconds)} of one process, and "
            f"{len(rows) * self.sets * self.runs} students for each network of {self.epochs or 'the protocol'} epochs"
        )
        if seconds > LIMIT_S and not yes:
            raise TooCostly(
                f"making the sets takes about {duration(seconds)}; give fewer --rows, or --yes to continue anyway"
            )

    def run(self, row: PaperRow) -> ResultEntry:
        """Make the sets of a row and measure their students."""
        first = self._set(row, 0, self.teacher)
        teacher = self._teacher_of(first)
        made = [first, *(self._set(row, seed, teacher) for seed in range(1, self.sets))]
        made = [self._grouped(row, manifest, teacher) for manifest in made]
        report = evaluate(
            [manifest.root for manifest in made], val=self.val, data=self.data, teacher=self.teacher,
            epochs=self.epochs, runs=self.runs, baseline=None, measure=list(self.table.measures) or None,
            settings=dict(self.table.settings), workers=self.workers, command=f"ddkit reproduce ({self.table.paper})",
        )  # fmt: skip
        (result,) = (entry for entry in report if entry.of == "this")
        note(f"{row.name}: {result.mean:.2f} ± {result.std:.2f} % ({result.n_sets} sets, {result.n_students} students)")
        return result

    def _set(self, row: PaperRow, seed: int, teacher: str) -> Manifest:
        options = self.options(row, seed) | {"teacher": teacher}
        return distill(self.folder(row, seed), **options, yes=True, workers=self.workers)

    def _teacher_of(self, first: Manifest) -> str:
        """Return the teacher of the first set, which all sets of a row share, also where it was trained for it."""
        if not TeacherChoice(self.teacher, first.views.size).needs_training(first.classes):
            return self.teacher
        data = TrainingData(of="this", labels="stored", manifest=first, ipc=None)
        found = Subject(given=first, data=data, source=self.data, teacher=self.teacher).found_teacher()
        assert found is not None  # it has just labelled the set
        return str(found.path)

    def _grouped(self, row: PaperRow, made: Manifest, teacher: str) -> Manifest:
        """Return the set with views mixed within groups, where the row says so."""
        if row.mix_within is None:
            return made
        out = made.root.with_name(f"{made.root.name}-grouped")
        return relabel(made.root, out, teacher=teacher, mix_within=row.mix_within, workers=self.workers)


def _kept(file: Path, keys: dict[str, str]) -> dict[str, ResultEntry]:
    """Return the results of an earlier call for rows that are still the same."""
    if not file.is_file():
        return {}
    kept = json.loads(file.read_text(encoding="utf-8"))
    return {
        name: read_dataclass(ResultEntry, kept["rows"][name])
        for name, key in keys.items()
        if kept["keys"].get(name) == key
    }


def _write(
    file: Path, table: PaperTable, found: dict[str, ResultEntry], keys: dict[str, str], conditions: dict[str, Any]
) -> None:
    content = {
        "table": table.title, "paper": table.paper, "conditions": conditions | {"versions": versions()},
        "rows": {name: to_plain(result) for name, result in found.items()}, "keys": keys,
        "verdicts": to_plain(_verdicts(table, found)),
    }  # fmt: skip
    write_bytes(file, (canonical(content) + "\n").encode())


def _verdicts(table: PaperTable, found: dict[str, ResultEntry]) -> tuple[Verdict, ...]:
    """Return the verdicts on the claims of rows that were measured."""
    verdicts = []
    for claim in table.claim:
        better, worse = found.get(claim.better), found.get(claim.worse)
        if better is None or worse is None or better.values is None or worse.values is None:
            continue
        said, difference = verdict(better.values, worse.values)
        verdicts.append(
            Verdict(
                about=claim.about,
                paper=claim.paper,
                better=claim.better,
                worse=claim.worse,
                verdict=said,
                difference=difference,
            )  # fmt: skip
        )
    return tuple(verdicts)
