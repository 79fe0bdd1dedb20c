"""The papers' tables and figures as files: rows, the papers' numbers, and what they claim (`paper_tables/*.toml`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ddkit.core.serialization import PACKAGE, from_plain, load_toml
from ddkit.errors import OptionError, unknown
from ddkit.evaluation.statistics import paired_difference
from ddkit.format.results import Difference

FOLDER = "evaluation/paper_tables"
SCALES = ("cpu", "paper")
SET_SPREAD = 4.2  # points by which two sets of one method differed (benchmarks/README.md): less decides nothing
FEW_SETS = 3  # below, the interval knows the spread of students alone


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Under which conditions a table is run.

    Attributes:
        dataset: The dataset; with the method it names the recipe, if there is one.
        ipc: Images per class.
        protocol: Protocol of views and students.
        sets: Sets of each row, with seeds from 0.
        runs: Students of each set.
        teacher: The teacher, in words.
        epochs: Epochs of the students; None: the protocol's.
    """

    dataset: str
    ipc: int
    protocol: str
    sets: int
    runs: int
    teacher: str
    epochs: int | None = None


@dataclass(frozen=True, kw_only=True)
class PaperRow:
    """One row of a table.

    Attributes:
        name: Its name; the same in every table where it is the same set.
        method: The method.
        about: What differs.
        settings: Settings of the method beside the recipe's, by dotted key.
        prefixes: Prefixes; None: the method's own.
        mix_within: Mixing groups of the views, as `relabel --mix-within` takes them.
        paper: The paper's numbers, by what they were measured on.
    """

    name: str
    method: str
    about: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    prefixes: tuple[int, ...] | None = None
    mix_within: str | None = None
    paper: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """That one row is better than another.

    Attributes:
        about: Where it is claimed.
        better, worse: Names of the rows.
        paper: The paper's difference, in words.
    """

    about: str
    better: str
    worse: str
    paper: str


@dataclass(frozen=True, kw_only=True)
class PaperTable:
    """A table or figure of a paper.

    Attributes:
        title: What it compares.
        paper: The paper and its number there.
        note: What has to be known.
        measures: Measures beside the accuracy.
        settings: Settings of the measures.
        scale: Conditions, by SCALES.
        row: The rows.
        claim: The claims.
    """

    title: str
    paper: str
    note: str = ""
    measures: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    scale: dict[str, Scale]
    row: tuple[PaperRow, ...]
    claim: tuple[Claim, ...] = ()

    def rows(self, names: Sequence[str] | None = None) -> list[PaperRow]:
        """Return rows by name, in the order of the table.

        Args:
            names: The names; None: all.

        Raises:
            OptionError: There is no such row.
        """
        known = {row.name: row for row in self.row}
        for name in names or ():
            if name not in known:
                raise unknown("row", name, known)
        return [row for row in self.row if names is None or row.name in names]


def table_names() -> list[str]:
    """Return the sorted names of the tables."""
    return sorted(path.stem for path in (PACKAGE / FOLDER).glob("*.toml"))


def find_table(name: str) -> PaperTable:
    """Read a table.

    Args:
        name: Its name, or a TOML file.

    Raises:
        OptionError: It is unknown or not valid, or a claim is of a row that it lacks.
    """
    stem, content = load_toml(name, FOLDER, "table")
    table = from_plain(PaperTable, content, f"table {stem}")
    names = {row.name for row in table.row}
    for claim in table.claim:
        if missing := {claim.better, claim.worse} - names:
            raise OptionError(f"table {stem}: claim {claim.about!r} is of row {missing.pop()!r}, which it lacks")
    if missing_scales := set(SCALES) - table.scale.keys():
        raise OptionError(f"table {stem} lacks [scale.{missing_scales.pop()}]")
    return table


def verdict(better: Sequence[Sequence[float]], worse: Sequence[Sequence[float]]) -> tuple[str, Difference | None]:
    """Return what measured accuracies say of a claimed order, with the paired difference.

    "agree" or "disagree" where the 95 % interval excludes 0; else "undecided". With fewer than three sets a difference
    below SET_SPREAD decides nothing, since sets of one method differ by as much.

    Args:
        better: Accuracies of the row that is claimed to be better, one list per set.
        worse: Accuracies of the other row, with the same seeds.
    """
    difference = paired_difference(better, worse)
    if difference is None or (len(better) < FEW_SETS and abs(difference.mean) < SET_SPREAD):
        return "undecided", difference
    return ("agree" if difference.low > 0 else "disagree" if difference.high < 0 else "undecided"), difference
