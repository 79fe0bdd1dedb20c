"""Goal 9: the disk is full."""

from __future__ import annotations

import ctypes
import random
import subprocess
from pathlib import Path

from trust.bench import Bench, Finished
from trust.goals import Goal, Outcome
from trust.kills import points, undisturbed
from trust.scenarios import SCENARIOS, leftovers

CLONE_NEWNS = 0x20000
LARGE = "100m"  # of the small disk, once room was made


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _mount(place: Path, options: str) -> bool:
    """Mount a tmpfs that only this process and those it starts see, so that it ends with them; whether that worked."""
    place.mkdir(exist_ok=True)
    if ctypes.CDLL(None).unshare(CLONE_NEWNS) != 0:
        return False
    commands = (["mount", "--make-rprivate", "/"], ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)])
    return all(subprocess.run(command, capture_output=True).returncode == 0 for command in commands)


def _told(done: Finished) -> list[str]:
    """Why the end of a command on a full disk is not one clear line with exit code 1."""
    errors = [line for line in done.text.splitlines() if line.startswith(("error:", "Traceback"))]
    if done.code == 1 and len(errors) == 1 and "cannot write" in errors[0]:
        return []
    return [f"exit {done.code}: {done.text[-300:]!r}"]


def full_trial(bench: Bench, trial: int) -> Outcome:
    """A command on a tmpfs that is too small, or with ENOSPC at one fault point; then room is made and it goes on."""
    scenario, turn = SCENARIOS[trial % len(SCENARIOS)], trial // len(SCENARIOS)
    whole, facts = undisturbed(bench, scenario)
    scenario.prepare(bench)
    rng, disk = random.Random(trial), bench.scratch / "disk"
    small = max(8192, int(rng.uniform(0.05, 1.2) * _size(whole)))
    on_disk = turn % 2 == 0 and scenario.name != "push" and _mount(disk, f"size={small}")
    out = disk / "out" if on_disk else bench.scratch / "out"
    argv = scenario.argv(bench, out)
    order = points({name: n for name, n in facts["reached"].items() if name != "answer"}, seed=1)
    fault = None if on_disk else order[turn // 2 % len(order)] + ":full"
    done = bench.ddkit(argv, fault)
    full = done.code != 0
    wrong = [*(_told(done) if full else []), *scenario.unlike(bench, out, whole)]
    if on_disk:
        subprocess.run(["mount", "-o", f"remount,size={LARGE}", disk], check=True)
    done = bench.ddkit(argv)
    if done.code != 0 or (state := scenario.state(bench, out)) != facts["state"]:
        state = scenario.state(bench, out)
        wrong.append(f"resumed: exit {done.code}, {state} instead of {facts['state']}: {done.last_line}")
    wrong += [f"{path} is left" for path in leftovers(out)]
    where = f"tmpfs of {small} bytes" if on_disk else fault
    counts = {"full": full, "tmpfs": full and on_disk, "injected": full and not on_disk}
    return Outcome(tuple(f"{scenario.name}, {where}: {what}" for what in wrong), counts)


GOALS = (
    Goal(
        9,
        "disk full",
        "the eight commands on a tmpfs of a drawn size, or with ENOSPC at a fault point; then room is made",
        160,
        full_trial,
        lambda found: (
            f"full at {found['full']} points ({found['tmpfs']} on a tmpfs, {found['injected']} injected): exit 1 with "
            f"one line, nothing half published, and after resuming the same content in {found.trials - found.wrong} of "
            f"{found.trials} trials"
        ),
    ),
)
