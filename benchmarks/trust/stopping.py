"""Goal 13: signals and exit codes."""

from __future__ import annotations

import os
import random
import signal
import time

from trust.bench import Bench
from trust.goals import Goal, Outcome
from trust.kills import undisturbed
from trust.scenarios import SCENARIOS, leftovers

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR1: 0}
MOST_S = 10.0


def signal_trial(bench: Bench, trial: int) -> Outcome:
    """One signal to one command at a random time; then the command runs again."""
    scenario = SCENARIOS[trial % len(SCENARIOS)]
    number = list(CODES)[trial // len(SCENARIOS) % len(CODES)]
    whole, facts = undisturbed(bench, scenario)
    scenario.prepare(bench)
    out, rng = bench.scratch / "out", random.Random(trial)
    argv = scenario.argv(bench, out)
    running = bench.start(argv)
    if running.poll(rng.uniform(0.05, 0.9) * facts["seconds"]) is None:
        os.kill(running.process, number)
        sent = time.monotonic()
        done = running.wait()
        took, code, arrived = time.monotonic() - sent, done.code, True
    else:
        took, code, arrived, done = 0.0, CODES[number], False, running.wait()
    wrong = scenario.unlike(bench, out, whole)
    if code != CODES[number] and not (code == 0 and done.code == 0):  # it may have ended meanwhile
        wrong.append(f"exit {code}: {done.text[-300:]!r}")
    if took > MOST_S and number != signal.SIGUSR1:
        wrong.append(f"took {took:.1f} s")
    again = bench.ddkit(argv)
    if again.code != 0 or (state := scenario.state(bench, out)) != facts["state"]:
        state = scenario.state(bench, out)
        wrong.append(f"run again: exit {again.code}, {state} instead of {facts['state']}: {again.last_line}")
    wrong += [f"{path} is left" for path in leftovers(out)]
    name = signal.Signals(number).name
    counts = {"signals": arrived, f"{name}": arrived, "ended": arrived and code == CODES[number]}
    longest = {} if number == signal.SIGUSR1 else {"longest": round(took, 2)}
    return Outcome(tuple(f"{scenario.name}, {name}: {what}" for what in wrong), counts, longest)


GOALS = (
    Goal(
        13,
        "signals",
        "SIGINT, SIGTERM and SIGUSR1 to the eight commands at random times; then they run again",
        96,
        signal_trial,
        lambda found: (
            f"{found['signals']} signals ({found['SIGINT']} INT, {found['SIGTERM']} TERM, {found['SIGUSR1']} USR1): "
            f"exit 130, 143, or none for USR1, after at most {found['longest']} s; {found.wrong} of {found.trials} "
            "runs with another code or content"
        ),
    ),
)
