"""Goals 7 and 8: hostile files, and no pickle."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trust.bench import Bench
from trust.goals import Goal, Outcome, Totals
from trust.scenarios import SCENARIOS

ROOT = Path(__file__).parent.parent.parent
FUZZ = ROOT / "benchmarks" / "results" / "fuzz.json"


def hostile_trial(bench: Bench, trial: int) -> Outcome:
    """The crafted cases of the test suite; and the fuzzing that was run last, if any."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/hostile"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    passed = re.search(r"(\d+) passed", done.stdout)
    wrong = [] if done.returncode == 0 else [done.stdout.strip().splitlines()[-1]]
    fuzz = json.loads(FUZZ.read_text()) if FUZZ.is_file() else {}
    numbers = {f"fuzz {name}": value for name, value in fuzz.items() if type(value) in (int, float)}
    return Outcome(tuple(wrong), {"passed": int(passed[1]) if passed else 0}, numbers)


def _hostile(found: Totals) -> str:
    fuzz = ", ".join(f"{name.removeprefix('fuzz ')} {found[name]}" for name in sorted(found.most))
    return f"{found['passed']} cases refused in one line; fuzzing: {fuzz or 'not run'}"


def _replay(bench: Bench) -> None:
    from ddkit import ReplayLoader

    for root in bench.sets():
        for store in ("memory", "mapped"):
            list(ReplayLoader(root, batch_size=4, device="cpu", store=store))


def _cli(*argv: str) -> Callable[[Bench], None]:
    def run(bench: Bench) -> None:
        from ddkit.cli import app

        sys.argv = ["ddkit", *(str(bench.sets()[0]) if word == "SET" else word for word in argv)]
        code = app.run()
        assert code == 0, f"exit {code}"

    return run


USES: tuple[tuple[str, Callable[[Bench], None]], ...] = (
    ("replay", _replay),
    ("verify", _cli("verify", "SET", "--quiet")),
    ("inspect", _cli("inspect", "SET", "--quiet")),
    ("preview", _cli("preview", "SET", "--quiet")),
    ("list", _cli("list")),
)
COMMANDS = len(SCENARIOS)


def pickle_trial(bench: Bench, trial: int) -> Outcome:
    """One use of a set, or one of the commands, in a fork whose audit hook records each class that pickle looks up."""
    uses = dict(USES)
    for scenario in SCENARIOS:
        uses[scenario.name] = lambda bench, scenario=scenario: _cli(*scenario.argv(bench, bench.scratch / "out"))(bench)
    name = list(uses)[trial]
    if trial >= len(USES):
        SCENARIOS[trial - len(USES)].prepare(bench)
    bench.sets()

    def audited() -> list[str]:
        seen = list[str]()

        def hook(event: str, arguments: Any) -> None:
            if event == "pickle.find_class":
                seen.append(".".join(map(str, arguments)))

        sys.addaudithook(hook)
        uses[name](bench)
        return seen

    seen = bench.forked(audited)
    return Outcome(tuple(f"{name}: pickle looks up {what}" for what in seen[:3]), {"uses": 1, "lookups": len(seen)})


def _no_pickle(found: Totals) -> str:
    import test_architecture

    test_architecture.test_no_pickle_no_extraction_no_bare_except()
    return (
        f"{found['lookups']} classes looked up by pickle in {found['uses']} uses (audit hook); no file of the package "
        "imports it (AST)"
    )


GOALS = (
    Goal(
        7,
        "hostile input",
        "crafted sets, sources, checkpoints and servers of `tests/hostile`; fuzzing by `benchmarks/fuzz.py`",
        1,
        hostile_trial,
        _hostile,
    ),
    Goal(
        8,
        "no pickle",
        f"an audit hook on `pickle.find_class` while sets are replayed, verified and shown, and in {COMMANDS} commands",
        len(USES) + COMMANDS,
        pickle_trial,
        _no_pickle,
    ),
)
