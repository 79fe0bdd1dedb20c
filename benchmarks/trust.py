"""The table of trust: what ddkit promises about kills, damage, full disks, networks and memory, each counted.

    python benchmarks/trust.py [--only 1,3,9] [--scale 0.1] [--minutes 30] [--work FOLDER] [--out FILE.json]

Fifteen goals, one file or family of them in `trust/`. A goal is a number of trials; the result of each trial is kept in
--work as soon as it is there, so the same command goes on where a run was stopped, also with a larger --scale. Commands
run as forks of one process that has everything imported, and are ended by real signals. Linux only; the full disk of
goal 9 is a small tmpfs if this user may mount one, and goal 2 needs `strace`.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tests"), str(ROOT)]

from trust.table import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
