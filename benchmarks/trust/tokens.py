"""Goal 12: the Hub's token appears in no output."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trust.bench import CANARY, Bench
from trust.goals import Goal, Outcome
from trust.scenarios import REPO, SCENARIOS, Scenario


@dataclass(frozen=True)
class Case:
    """A command run with the canary as its token.

    Attributes:
        scenario: The command.
        more: More arguments.
        faults: Seed of the Hub's faults, if any.
        debug: Run it with HF_DEBUG=1, in a process of its own.
    """

    scenario: Scenario
    more: tuple[str, ...] = ()
    faults: int | None = None
    debug: bool = False


_PUSH, _PULL = SCENARIOS[6], SCENARIOS[7]
CASES = (
    *(Case(scenario) for scenario in SCENARIOS),
    Case(_PUSH, debug=True),
    Case(_PULL, debug=True),
    Case(_PUSH, ("--debug",), faults=3, debug=True),
    Case(_PULL, ("--debug",), faults=4, debug=True),
    *(Case(_PUSH, ("--debug", "--json"), faults=seed) for seed in range(10, 16)),
    Case(_PUSH, ("--revision", CANARY)),
    Case(_PUSH, ("--gated", CANARY, "--debug")),
    Case(_PULL, ("--revision", CANARY, "--debug")),
    Case(SCENARIOS[1], ("--set", f"{CANARY}=1", "--debug")),
)


def _files(*folders: Path) -> Iterator[Path]:
    for folder in folders:
        yield from (path for path in folder.rglob("*") if path.is_file())


def token_trial(bench: Bench, trial: int) -> Outcome:
    """One command; then its output, its folder, both caches and all repositories are searched for the token."""
    case = CASES[trial]
    shutil.rmtree(bench.work / "hf" / "hub", ignore_errors=True)
    bench.sets()
    case.scenario.prepare(bench)
    out = bench.scratch / "out"
    argv = [*case.scenario.argv(bench, out), *case.more]
    bench.hub.ask("plan", case.faults)
    if case.debug:
        environment = os.environ | {"HF_DEBUG": "1"}
        command = [sys.executable, "-m", "ddkit", *argv]
        done = subprocess.run(command, cwd=bench.scratch, env=environment, capture_output=True)
        text = done.stdout + done.stderr
    else:
        text = bench.ddkit(argv).text.encode()
    bench.hub.ask("plan", None)
    token = CANARY.encode()
    files = list(_files(bench.scratch, bench.work / "hf", bench.work / "cache"))
    found = [str(path) for path in files if token in path.read_bytes() or CANARY in path.name]
    found += ["the terminal"] if token in text else []
    if not (case.scenario is _PUSH and CANARY in case.more[:2]):  # there the user gives it as a name
        found += bench.hub.ask("holds", token)
    searched = len(text) + sum(path.stat().st_size for path in files)
    name = f"{case.scenario.name} {' '.join(case.more)}".replace(CANARY, "TOKEN")
    counts = {"commands": 1, "bytes": searched, "terminal": len(text), "with HF_DEBUG": case.debug}
    return Outcome(tuple(f"{name}: the token is in {place}" for place in found), counts)


GOALS = (
    Goal(
        12,
        "secrets",
        "a canary as HF_TOKEN, also given as the value of an option, with --debug, HF_DEBUG=1 and failures of the Hub: "
        f"terminal, outputs, caches and what {REPO} holds are searched",
        len(CASES),
        token_trial,
        lambda found: (
            f"{found.wrong} of {found['commands']} commands ({found['with HF_DEBUG']} with HF_DEBUG=1) leave it in one "
            f"of {found['bytes'] / 1e6:.0f} MB"
        ),
    ),
)
