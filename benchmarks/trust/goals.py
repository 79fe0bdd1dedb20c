"""A goal of the table: its trials, what each found, and the sentence that their sum prints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trust.bench import Bench


@dataclass(frozen=True)
class Outcome:
    """What one trial found.

    Attributes:
        wrong: What was not as promised, one line each.
        counts: Numbers that are added over all trials.
        most: Numbers of which the largest over all trials is kept.
    """

    wrong: tuple[str, ...] = ()
    counts: Mapping[str, float] = field(default_factory=dict)
    most: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Totals:
    """The sum of the outcomes of a goal; a number that no trial has is 0."""

    trials: int
    wrong: int
    counts: Mapping[str, float]
    most: Mapping[str, float]

    @classmethod
    def of(cls, outcomes: Iterable[Mapping[str, Any]]) -> Totals:
        """Add up outcomes as they are kept."""
        trials = wrong = 0
        counts, most = Counter[str](), dict[str, float]()
        for outcome in outcomes:
            trials += 1
            wrong += bool(outcome["wrong"])
            counts.update(outcome["counts"])
            for name, value in outcome["most"].items():
                most[name] = max(value, most.get(name, value))
        return cls(trials, wrong, counts, most)

    def __getitem__(self, name: str) -> int | float:
        value = self.counts.get(name, self.most.get(name, 0))
        return int(value) if value == int(value) else value

    def every(self, begin: str) -> dict[str, int]:
        """The counts whose names begin so, by the rest of their names."""
        return {name.removeprefix(begin): self[name] for name in sorted(self.counts) if name.startswith(begin)}


@dataclass(frozen=True)
class Goal:
    """One row of the table.

    Attributes:
        number: Its number.
        title: What is promised.
        test: What is run.
        trials: Number of trials of a full run.
        trial: Runs trial i and says what it found; it is a function of i and of what is kept in the bench's folder.
        figure: The sentence for what all trials found.
    """

    number: int
    title: str
    test: str
    trials: int
    trial: Callable[[Bench, int], Outcome]
    figure: Callable[[Totals], str]
