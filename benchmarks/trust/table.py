"""Runs the goals, keeps what their trials find, and writes the table."""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trust.bench import CANARY, Bench, HubProcess
from trust.goals import Goal, Totals

RESULTS = Path(__file__).parent.parent / "results" / "trust.json"


def goals() -> list[Goal]:
    """All goals, by number."""
    from trust import damage, disk, drift, flatness, hostile, hubs, kills, power, replaying, stopping, tokens

    modules = (kills, power, damage, replaying, hostile, disk, hubs, tokens, stopping, flatness, drift)
    return sorted((goal for module in modules for goal in module.GOALS), key=lambda goal: goal.number)


class Kept:
    """Outcomes of trials, one JSON line each in a file of the goal; a line that was cut off is not counted."""

    def __init__(self, folder: Path, number: int) -> None:
        self.path = folder / f"goal-{number:02}.jsonl"

    def read(self) -> dict[int, dict[str, Any]]:
        """Outcome by number of the trial."""
        lines = self.path.read_text().split("\n")[:-1] if self.path.is_file() else []
        return {kept.pop("trial"): kept for kept in map(json.loads, lines)}

    def add(self, trial: int, outcome: dict[str, Any]) -> None:
        """Keep one more."""
        if self.path.is_file() and not self.path.read_bytes().endswith(b"\n"):
            whole = self.path.read_bytes()
            self.path.write_bytes(whole[: whole.rfind(b"\n") + 1])
        with open(self.path, "a") as file:
            file.write(json.dumps({"trial": trial} | outcome) + "\n")


def planned(goal: Goal, scale: float) -> int:
    """Number of trials at a scale."""
    return max(1, round(goal.trials * scale))


def run_goal(goal: Goal, bench: Bench, kept: Kept, scale: float, deadline: float) -> None:
    """Run the trials of a goal that are not kept yet, until a time."""
    done = kept.read()
    for trial in range(planned(goal, scale)):
        if trial in done:
            continue
        if time.monotonic() > deadline:
            return
        bench.clear()
        bench.hub.ask("reset")
        outcome = asdict(goal.trial(bench, trial))
        kept.add(trial, outcome)
        for line in outcome["wrong"]:
            sys.stderr.write(f"goal {goal.number}, trial {trial}: {line}\n")


def rows(wanted: Sequence[Goal], work: Path) -> Iterator[dict[str, Any]]:
    """The rows of the table, for goals with at least one trial."""
    for goal in wanted:
        outcomes = Kept(work, goal.number).read()
        if outcomes:
            totals = Totals.of(outcomes.values())
            yield {
                "goal": goal.number, "title": goal.title, "test": goal.test, "trials": totals.trials,
                "planned": goal.trials, "wrong": totals.wrong, "figure": goal.figure(totals),
                "counts": totals.counts, "most": totals.most,
            }  # fmt: skip


def markdown(table: Sequence[dict[str, Any]]) -> str:
    """The table as the README shows it."""
    lines = ["| # | goal | test | trials | wrong | figure |", "|---|---|---|---|---|---|"]
    for row in table:
        trials = row["trials"] if row["trials"] >= row["planned"] else f"{row['trials']} of {row['planned']}"
        cells = (row["goal"], row["title"], row["test"], trials, row["wrong"], row["figure"])
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def prepare(work: Path, hub: HubProcess) -> None:
    """Import all that commands use, for a Hub on loopback, without starting a thread or computing anything."""
    os.environ |= {
        "HF_ENDPOINT": hub.url, "HF_HOME": str(work / "hf"), "HF_TOKEN": CANARY, "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1", "DDKIT_CACHE": str(work / "cache"), "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(RESULTS.parents[2]),
    }  # fmt: skip
    from hostile import runner

    sleep = time.sleep
    runner.prepare()  # leaves out waits before retries, by a time.sleep that does nothing
    time.sleep = sleep
    import pydantic.fields  # noqa: F401
    import sklearn.datasets  # noqa: F401
    import typer._adapters  # noqa: F401
    import webdataset  # noqa: F401

    import ddkit.networks.training
    import ddkit.publishing.pictures  # noqa: F401
    import ddkit.synthesis.unit_progress
    from ddkit import distillers
    from ddkit.core.console import set_quiet

    for name in ("cudd", "rded", "random"):
        distillers.find_distiller(name)
    ddkit.networks.training.SAVE_EVERY_S = 0.0  # a state after every epoch and step: more to be resumed from
    ddkit.synthesis.unit_progress.UnitProgress.SAVE_EVERY_S = 0.0
    set_quiet(True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the table; returns 1 if a trial was not as promised, else 0."""
    import trust

    parser = argparse.ArgumentParser(description=trust.__doc__)
    parser.add_argument("--only", help="numbers of goals, as in 1,3,9")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the trials")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after so many minutes")
    parser.add_argument("--work", type=Path, default=Path("trust-work"), help="folder of what is kept")
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON file of the table")
    args = parser.parse_args(argv)
    work = args.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + 60 * args.minutes
    hub = HubProcess()
    prepare(work, hub)
    every = goals()
    only = {int(number) for number in args.only.split(",")} if args.only else {goal.number for goal in every}
    bench = Bench(work, hub)
    broken = []
    for goal in (goal for goal in every if goal.number in only):
        sys.stderr.write(f"goal {goal.number}: {goal.title}\n")
        kept = Kept(work, goal.number)
        try:  # in a fork of its own: what a goal imports, computes and patches stays there
            bench.forked(lambda goal=goal, kept=kept: run_goal(goal, bench, kept, args.scale, deadline))
        except RuntimeError as error:
            broken.append(goal.number)
            sys.stderr.write(f"goal {goal.number} broke off: {error}\n")
    bench.clear()
    hub.stop()
    gc.unfreeze()  # what `prepare` froze for the forks
    table = list(rows(every, work))
    write(table, args)
    return int(bool(broken) or any(row["wrong"] for row in table if row["goal"] in only))


def write(table: Sequence[dict[str, Any]], args: argparse.Namespace) -> None:
    """Print the table and write it with its conditions."""
    from ddkit.core.device import hardware, pick_device, versions

    sys.stdout.write(markdown(table))
    told = {"command": "python benchmarks/trust.py", "rows": table, "hardware": hardware(pick_device("cpu"))}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(told | {"versions": versions()}, indent=1) + "\n")
