"""The table of trust: trials are resumed, damage is damage, orders that lose bytes are seen, a goal runs for real."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

from trust.goals import Goal, Outcome, Totals
from trust.kills import points
from trust.power import Disk, calls
from trust.table import Kept, markdown, rows, run_goal

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "trust.py"


def goal(trial):
    return Goal(99, "title", "test", 5, trial, lambda found: f"{found['kills']} kills, {found['longest']} s")


BENCH = SimpleNamespace(clear=lambda: None, hub=SimpleNamespace(ask=lambda *_: None))


def test_a_table_that_is_stopped_goes_on_with_the_trial_that_was_not_finished(tmp_path):
    ran = []

    def trial(bench, number):
        ran.append(number)
        if ran == [0, 1, 2]:
            raise KeyboardInterrupt
        return Outcome(("late",) if number == 3 else (), {"kills": number}, {"longest": 10 - number})

    one, kept = goal(trial), Kept(tmp_path, 99)
    with pytest.raises(KeyboardInterrupt):
        run_goal(one, BENCH, kept, 1.0, 1e18)
    with open(kept.path, "a") as file:
        file.write('{"trial": 2, "wro')  # killed while it was written
    run_goal(one, BENCH, kept, 0.8, 1e18)
    run_goal(one, BENCH, kept, 1.0, 0.0)  # no time left
    assert ran == [0, 1, 2, 2, 3] and sorted(kept.read()) == [0, 1, 2, 3]
    (row,) = rows([one], tmp_path)
    assert (row["trials"], row["planned"], row["wrong"], row["figure"]) == (4, 5, 1, "6 kills, 10 s")
    assert "| 99 | title | test | 4 of 5 | 1 | 6 kills, 10 s |" in markdown([row])


def test_numbers_that_no_trial_has_are_zero():
    assert Totals.of([])["kills"] == 0 and Totals.of([]).every("at ") == {}


def test_every_fault_of_a_run_comes_once_and_each_point_early():
    found = points({"write": 3, "renamed": 2, "request": 1}, seed=0)
    assert sorted(found) == ["renamed:1", "renamed:2", "request:1", "write:1", "write:2", "write:3"]
    assert {fault.split(":")[0] for fault in found[:3]} == {"write", "renamed", "request"}


GOOD = """
1 openat(AT_FDCWD</w>, "/w/.a.vm.1.tmp", O_WRONLY|O_CREAT) = 3</w/.a.vm.1.tmp>
1 write(3</w/.a.vm.1.tmp>, ""..., 9) = 9
2 fsync(3</w/.a.vm.1.tmp> <unfinished ...>
2 <... fsync resumed>) = 0
1 rename("/w/.a.vm.1.tmp", "/w/a") = 0
1 fsync(4</w>) = 0
1 openat(AT_FDCWD</w>, "/elsewhere/x", O_WRONLY|O_CREAT) = 5</elsewhere/x>
"""


def test_an_order_that_loses_bytes_is_seen():
    lines = GOOD.strip().splitlines()

    def wrong(*left_out):
        return Disk("/w/").see(calls("\n".join(line for i, line in enumerate(lines) if i not in left_out))).wrong

    assert wrong() == []
    assert wrong(2, 3) == ["/w/a: renamed before its bytes were synced"]
    assert wrong(5) == ["/w/a: its folder was not synced"]
    lines[0] = lines[0].replace(".a.vm.1.tmp", "a")
    assert wrong() == ["/w/a: written under its final name"]
    lines[4:4] = ['1 rename("/w/.b.tmp", "/w/b") = 0', '1 rename("/w/.c.tmp", "/w/ddkit.json") = 0']
    assert "/w/b: its name was not synced before the manifest's" in wrong()


def test_a_goal_runs_in_a_fork_and_is_written_as_a_table(tmp_path):
    """The sets of earlier versions: one trial, for real."""
    argv = [sys.executable, str(SCRIPT), "--only", "15", "--scale", "0.5", "--work", "work", "--out", "t.json"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    (row,) = json.loads((tmp_path / "t.json").read_text())["rows"]
    assert (row["goal"], row["trials"], row["wrong"]) == (15, 1, 0) and row["counts"]["sets"] >= 1
    assert "| 15 | drift |" in done.stdout
