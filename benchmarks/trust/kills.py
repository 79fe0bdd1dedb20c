"""Goals 1 and 11: kill -9, of one process and of eight that make the same set."""

from __future__ import annotations

import os
import random
import shutil
import signal
from pathlib import Path
from typing import Any

from trust.bench import Bench, Finished
from trust.goals import Goal, Outcome, Totals
from trust.scenarios import IN_TWO_PROCESSES, SCENARIOS, Scenario, leftovers, set_state

MOST_KILLS = 3  # of one trial, before the command may finish
PROCESSES = 8


def undisturbed(bench: Bench, scenario: Scenario) -> tuple[Path, dict[str, Any]]:
    """The output of an undisturbed run, kept, and how long it took and how often it reached each fault point."""
    folder = bench.folder(f"whole {scenario.name}".replace(" ", "-").replace(",", ""))
    told = folder / "told.json"
    if not told.is_file():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        bench.clear()
        scenario.prepare(bench)
        out = bench.scratch / "out"
        done = bench.ddkit(scenario.argv(bench, out), fault="write:1000000000")
        assert done.code == 0, done.text
        state = scenario.state(bench, out)
        shutil.copytree(out, folder / "out")
        keep(told, {"seconds": done.seconds, "reached": done.reached, "state": state})
        bench.clear()
        bench.hub.ask("reset")
    return folder / "out", read(told)


def keep(path: Path, value: Any) -> None:
    """Write a JSON file at once."""
    from ddkit.core.files import write_bytes
    from ddkit.core.serialization import canonical

    write_bytes(path, canonical(value).encode())


def read(path: Path) -> Any:
    """Read a JSON file."""
    from ddkit.core.serialization import strict_json

    return strict_json(path.read_text())


def points(reached: dict[str, int], seed: int) -> list[str]:
    """Every (point, number) of a run in a seeded order that takes each point in turn, as in DDKIT_FAULT."""
    rng = random.Random(seed)
    lists = []
    for point, count in sorted(reached.items()):
        numbers = list(range(1, count + 1))
        rng.shuffle(numbers)
        lists.append([f"{point}:{number}" for number in numbers])
    most = max(len(numbers) for numbers in lists)
    return [numbers[i] for i in range(most) for numbers in lists if i < len(numbers)]


def kill_trial(bench: Bench, trial: int) -> Outcome:
    """Kill one command up to three times at random times, or once or twice at a fault point; then let it finish."""
    scenario, turn = SCENARIOS[trial % len(SCENARIOS)], trial // len(SCENARIOS)
    if scenario.name == "distill rded" and turn % 5 == 4:
        scenario = IN_TWO_PROCESSES
    whole, facts = undisturbed(bench, scenario)
    rng = random.Random(trial)
    scenario.prepare(bench)
    out = bench.scratch / "out"
    wrong, kills, by_point = [], 0, list[str]()
    if turn % 2 == 0:
        runs = [(None, rng.uniform(0.02, 1.0) * facts["seconds"]) for _ in range(MOST_KILLS)]
    else:
        order = points(facts["reached"], seed=len(scenario.name))
        runs = [(order[(turn // 2 + i * len(order) // 2) % len(order)], None) for i in range(2)]
    for fault, after in runs:
        done = bench.ddkit(scenario.argv(bench, out), fault, after)
        if done.code == -signal.SIGKILL or _worker_died(done):
            kills += 1
            by_point += [fault.split(":")[0]] if fault else []
        elif done.code != 0:
            wrong.append(f"{scenario.name}, {fault or after}: exit {done.code}: {done.last_line}")
        wrong += [f"{scenario.name}, {fault or after}: {what}" for what in scenario.unlike(bench, out, whole)]
    done = bench.ddkit(scenario.argv(bench, out))
    if done.code != 0:
        wrong.append(f"{scenario.name}: the last run ends with {done.code}: {done.last_line}")
    if (state := scenario.state(bench, out)) != facts["state"]:
        wrong.append(f"{scenario.name}: {state} instead of {facts['state']}")
    wrong += [f"{scenario.name}: {path} is left" for path in leftovers(out)]
    wrong += bench.hub.ask("violations")
    counts = {"kills": kills, f"kills of {scenario.name}": kills, "at random times": kills if turn % 2 == 0 else 0}
    return Outcome(tuple(wrong), counts | {f"at {point}": by_point.count(point) for point in by_point})


def _worker_died(done: Finished) -> bool:
    return done.code == 1 and "a worker process died" in done.text


def _kills(found: Totals) -> str:
    commands = ", ".join(f"{name} {n}" for name, n in found.every("kills of ").items())
    at = ", ".join(f"{name} {n}" for name, n in found.every("at ").items() if name != "random times")
    return (
        f"{found['kills']} kills ({commands}), {found['at random times']} at random times and at the points {at}; "
        f"{found.trials - found.wrong} of {found.trials} runs ended with the same content and nothing unreadable"
    )


def crowd_trial(bench: Bench, trial: int) -> Outcome:
    """Eight processes begin the same set at once and some are killed; then one finishes it. Another one is refused."""
    scenario = SCENARIOS[1]
    whole, facts = undisturbed(bench, scenario)
    rng, out = random.Random(trial), bench.scratch / "out"
    argv = scenario.argv(bench, out)
    running = [bench.start(argv, name=f"process{i}") for i in range(PROCESSES)]
    wrong, kills = [], 0
    for one in rng.sample(running, rng.randint(1, PROCESSES - 1)):
        if one.poll(rng.uniform(0.0, 0.5) * facts["seconds"]) is None:
            os.kill(one.process, signal.SIGKILL)
            kills += 1
    for one in running:
        done = one.wait()
        if done.code not in (0, -signal.SIGKILL):
            wrong.append(f"exit {done.code}: {done.last_line}")
        wrong += scenario.unlike(bench, out, whole)
    done = bench.ddkit(argv)
    if done.code != 0 or set_state(bench, out) != facts["state"]:
        wrong.append(f"exit {done.code}, {set_state(bench, out)}: {done.last_line}")
    other = bench.ddkit([*argv, "--seed", "1"])
    if other.code != 3 or set_state(bench, out) != facts["state"]:
        wrong.append(f"another seed in this folder: exit {other.code}: {other.last_line}")
    wrong += [f"{path} is left" for path in leftovers(out)]
    return Outcome(tuple(wrong), {"kills": kills, "processes": PROCESSES, "refused": other.code == 3})


GOALS = (
    Goal(
        1,
        "kill -9",
        "teach, distill (RDED, CUDD), relabel, import, train, push and pull, killed at random times and at every fault "
        "point, then run again",
        400,
        kill_trial,
        _kills,
    ),
    Goal(
        11,
        "concurrent writers",
        "eight processes make one set, some are killed; then another seed in its folder",
        100,
        crowd_trial,
        lambda found: (
            f"{found['processes']} processes, {found['kills']} killed: the same content {found.trials - found.wrong} "
            f"of {found.trials} times; another seed refused {found['refused']} times"
        ),
    ),
)
