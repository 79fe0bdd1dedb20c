"""Students of one set, trained by 1, 2 and 4 ranks with the same seeds: accuracies, paired differences, first losses.

    python benchmarks/distributed.py [--ranks 1,2,4] [--students 5] [--ipc 5] [--epochs 60] [--arch convnet3]

Random digits with labels of a teacher that is trained first; protocol `demo`. Ranks are processes on this machine with
one CPU thread each, started by torchrun, and talk through Gloo. The accuracies are of the test split. One
rank is `ddkit train` without torchrun. Writes benchmarks/results/distributed.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

import ddkit
from ddkit.core.device import hardware, versions
from ddkit.core.distributed import leads
from ddkit.evaluation.statistics import mean_std, paired_difference
from ddkit.networks import training
from ddkit.networks.steps import StepExecutor


class Recorded(StepExecutor):
    """A step that keeps the loss of the first step of every training."""

    losses: list[float] = []  # noqa: RUF012 (of this process)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._first = True

    def __call__(self, inputs: torch.Tensor, target: torch.Tensor, factor: float) -> None:
        super().__call__(inputs, target, factor)
        if self._first:
            self.losses.append(float(self.total))
        self._first = False


def students(work: Path, arch: str, args: argparse.Namespace) -> None:
    """Train the students in this rank; rank 0 writes what they reached."""
    training.StepExecutor = Recorded  # type: ignore[misc]
    torch.set_num_threads(1)
    found = []
    for seed in range(args.students):
        out = work / f"{arch}-{os.environ.get('WORLD_SIZE', '1')}-{seed}.safetensors"
        _, result = ddkit.train(
            work / "set", val="digits", arch=arch, epochs=args.epochs, seed=seed, out=out, device="cpu"
        )
        found.append({"accuracy": result.accuracy, "first_loss": Recorded.losses[-1], "seconds": result.seconds})
    if leads():
        (work / "found.json").write_text(json.dumps(found))


def summarise(row: dict[str, Any], first: dict[str, Any]) -> str:
    """Add mean, deviation and the differences from the first number of ranks to a row; return them as text."""
    row["mean"], row["std"] = mean_std(row["accuracy"])
    row["first_loss_gap"] = max(abs(a - b) for a, b in zip(row["first_loss"], first["first_loss"]))
    difference = paired_difference([row["accuracy"]], [first["accuracy"]])
    if difference is not None:
        row["difference"] = [difference.mean, difference.low, difference.high]
    return (
        f"{row['mean']:.2f} ± {row['std']:.2f} %, minus the first row {row.get('difference')} (mean, 95 % interval); "
        f"first losses differ from its by up to {row['first_loss_gap']:.1e}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", default="1,2,4")
    parser.add_argument("--students", type=int, default=5)
    parser.add_argument("--ipc", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--arch", default="convnet3", help="several by commas")
    parser.add_argument("--out", default="benchmarks/results/distributed.json")
    parser.add_argument("--work", help=argparse.SUPPRESS)  # of a rank
    args = parser.parse_args()
    if args.work:
        students(Path(args.work), args.arch, args)
        return
    report: dict[str, Any] = {"hardware": hardware(torch.device("cpu")), "versions": versions(), "networks": {}}
    report |= {"ipc": args.ipc, "epochs": args.epochs, "students": args.students}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        ddkit.distill(
            work / "set", data="digits", method="random", ipc=args.ipc, protocol="demo", teacher="train", workers=1
        )
        for arch in args.arch.split(","):
            rows: dict[str, Any] = {}
            for ranks in map(int, args.ranks.split(",")):
                run = [] if ranks == 1 else ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
                given = [f"--{name}={getattr(args, name)}" for name in ("students", "epochs")]
                subprocess.run(
                    [sys.executable, *run, __file__, f"--work={work}", f"--arch={arch}", *given],
                    check=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
                )  # fmt: skip
                found = json.loads((work / "found.json").read_text())
                rows[str(ranks)] = row = {name: [one[name] for one in found] for name in found[0]}
                sys.stdout.write(f"{arch}, {ranks} ranks: {summarise(row, rows[args.ranks.split(',')[0]])}\n")
            report["networks"][arch] = rows
    Path(args.out).write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
