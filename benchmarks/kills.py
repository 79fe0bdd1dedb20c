"""kill -9 at random moments, the same command again: is the content that of an undisturbed run?

    python benchmarks/kills.py --trials 50 [--method cudd]

Runs `ddkit distill` on digits (random weights as teacher; RDED with prefixes 1,3, or CUDD with stages 1,2,4) in a
subprocess, kills it after a random time, and repeats until it ends by itself; then compares `content`. Workers
alternate between 1 and 2.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ddkit.testing import untrained_teacher

OPTIONS = {
    "rded": "--method rded --prefixes 1,3 --set pool=8 --set factor=2 --protocol rded --views 40",
    "cudd": "--method cudd --prefixes 1,2,4 --set steps=60 --set student.epochs=20 --protocol common --views 20",
}


def command(out: Path, method: str, teacher: Path, workers: int) -> list[str]:
    """The run that is killed."""
    return [
        *(sys.executable, "-m", "ddkit", "distill", str(out), "--data", "digits", "--quiet", *OPTIONS[method].split()),
        *("--teacher", str(teacher), "--workers", str(workers)),
    ]


def content(out: Path) -> str:
    return json.loads((out / "ddkit.json").read_text())["content"]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--method", choices=sorted(OPTIONS), default="rded")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        teacher = untrained_teacher(root / "teacher.safetensors")
        began = time.monotonic()
        subprocess.run(command(root / "whole", options.method, teacher, 1), check=True, stdout=subprocess.DEVNULL)
        length = time.monotonic() - began
        want = content(root / "whole")
        kills = wrong = 0
        for trial in range(options.trials):
            out = root / f"trial{trial}"
            workers = 1 + trial % 2
            for _ in range(3):  # three kills, then it may finish
                process = subprocess.Popen(command(out, options.method, teacher, workers), stdout=subprocess.DEVNULL)
                try:
                    process.wait(timeout=rng.uniform(0.3, 1.0) * length)
                except subprocess.TimeoutExpired:
                    process.send_signal(signal.SIGKILL)
                    kills += 1
                process.wait()
            done = subprocess.run(command(out, options.method, teacher, workers), stdout=subprocess.DEVNULL)
            left = [p for p in out.rglob("*") if p.name.endswith(".tmp")] if out.exists() else []
            if done.returncode or content(out) != want or left:
                wrong += 1
                sys.stderr.write(f"trial {trial}: exit {done.returncode}, left {left}\n")
        print(f"{options.trials} runs, {kills} kills: {wrong} with other content or leftovers")  # noqa: T201


if __name__ == "__main__":
    main()
