"""CIFAR-10 on one GPU: teacher, CUDD and random at IPC 10 (two sets) and 50, other methods, the speed of each part.

    ddkit export CIFAR10_FOLDER shards --as shards          # where `datasets` is installed
    python benchmarks/gpu.py --data shards [--minutes 9]    # on the GPU: torch, torchvision and timm are enough

Prints the plan with expected minutes first. Stops by itself after --minutes and continues where it stood when it is
called again (exit 3 while something is left). The result, benchmarks/results/gpu-DEVICE.json, holds hardware, versions
and command. --tiny runs the same path on any CPU in a minute, with values that mean nothing.
"""

from __future__ import annotations

import argparse
import functools
import json
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))  # a bare machine has the checkout, and nothing to install it with

import ddkit
from ddkit.core.device import hardware, pick_device, versions
from ddkit.core.files import write_bytes
from ddkit.core.serialization import to_plain
from ddkit.format.manifest_file import read_manifest
from ddkit.specs import TeacherSpec

# Table XI of CUDD (arXiv 2405.09150): minutes for CIFAR-10, IPC 10, ResNet-18, one RTX 3090
TABLE_XI = {"recover": 6.1, "relabel": 3.7, "select": 1.5, "student": 40.2}
PAPER = {"cudd-10": 56.2, "cudd-50": 84.5, "sre2l-10": "27.8 (CUDD) or 29.3 (RDED)", "rded-10": 37.1}
OF_CIFAR10 = ("cudd", "rded", "sre2l", "cda")  # methods with a recipe for CIFAR-10


@dataclass(frozen=True)
class Scale:
    """How much of everything. minutes: of each kind of step on one H200; at IPC 50 reckoned, not measured."""

    arch: str
    teacher_epochs: int
    ipcs: tuple[int, ...]
    others: tuple[str, ...]
    runs: int
    epochs: int | None
    views: int | None
    settings: dict[str, Any]
    minutes: dict[str, float]


FULL = Scale(
    arch="resnet18-small", teacher_epochs=30, ipcs=(10, 50), others=("rded", "sre2l", "cda", "herding"), runs=3,
    epochs=None, views=None, settings={}, minutes={"teacher": 2, "set-10": 1, "set-50": 4, "students-10": 0.5,
    "students-50": 2.5, "speed": 1},
)  # fmt: skip
TINY = Scale(
    arch="convnet3", teacher_epochs=1, ipcs=(1, 2), others=("rded",), runs=2, epochs=2, views=4,
    settings={"steps": 3, "student.epochs": 1}, minutes=dict.fromkeys(("teacher", "speed"), 0.1),
)  # fmt: skip


class Bench:
    """The steps in their order, each kept in the result file once it is done."""

    def __init__(self, data: str, work: Path, out: Path, device: str, scale: Scale) -> None:
        self.data, self.work, self.out, self.device, self.scale = data, work, out, device, scale
        self.done: dict[str, Any] = json.loads(out.read_text())["rows"] if out.is_file() else {}

    @property
    def teacher(self) -> str:
        return str(self.work / "teacher.safetensors")

    def steps(self) -> list[tuple[str, Callable[[], dict[str, Any]], float]]:
        """(name, work, expected minutes)"""
        scale = self.scale
        low, high = scale.ipcs
        compared = ("cudd", "random")
        sets = [*((m, low, 0) for m in (*compared, *scale.others)), *((m, low, 1) for m in compared)]
        sets += [(m, high, 0) for m in compared]
        minutes = scale.minutes
        steps: list[tuple[str, Callable[[], dict[str, Any]], float]] = []
        for method, ipc, seed in sets:
            each = minutes.get(f"set-{ipc}", 0.2), minutes.get(f"students-{ipc}", 0.2)
            name = f"{method}-{ipc}" + (f"-seed{seed}" if seed else "")
            steps.append((name, functools.partial(self.measure, name, method, ipc, seed), sum(each)))
        steps.insert(-2, ("speed", self.speed, minutes["speed"]))
        return [("teacher", self.teach, minutes["teacher"]), *steps]

    def teach(self) -> dict[str, Any]:
        spec: TeacherSpec = ddkit.teach(
            self.teacher, data=self.data, arch=self.scale.arch, epochs=self.scale.teacher_epochs, device=self.device
        )
        return {"accuracy": spec.accuracy, "measured_on": spec.measured_on, "wanted": 94.0}

    def measure(self, name: str, method: str, ipc: int, seed: int) -> dict[str, Any]:
        """A set and its students; for cudd its cost beside Table XI's."""
        out = self.work / name
        settings = self.scale.settings if method in ("cudd", "sre2l", "cda") else {}
        settings = {k: v for k, v in settings.items() if method == "cudd" or not k.startswith("student.")}
        ddkit.distill(
            out, data=self.data, method=method, recipe=f"{method}-cifar10" if method in OF_CIFAR10 else None, ipc=ipc,
            teacher=self.teacher, protocol="cudd", settings=settings, views=self.scale.views, device=self.device,
            seed=seed, yes=True,
        )  # fmt: skip
        (result,) = ddkit.evaluate(
            [out], val=self.data, runs=self.scale.runs, epochs=self.scale.epochs, baseline=None, device=self.device,
            command="benchmarks/gpu.py",
        )  # fmt: skip
        cost = to_plain(read_manifest(out).cost)
        row = to_plain(result) | {"cost": cost, "paper": PAPER.get(name)}
        if name == "cudd-10":
            minutes = {part: cost[part] / 60 for part in TABLE_XI}
            whole = sum(TABLE_XI.values()) / max(sum(minutes.values()), 1e-9)
            row["table_xi"] = {"paper_minutes": TABLE_XI, "minutes": minutes, "times_faster": whole}
        return row

    def speed(self) -> dict[str, Any]:
        """Recover beside the authors-like loop (benchmarks/inversion.py), at 32 and at 224 px."""
        sys.path.insert(0, str(Path(__file__).parent))
        import inversion

        kinds = [("resnet18-small", 32, []), ("resnet18", 224, []), ("resnet18", 224, ["--compile"])]
        steps, batch = ("100", "100")
        if self.scale is TINY:
            kinds, steps, batch = [(self.scale.arch, 32, [])], "20", "10"
        return {
            f"{arch}-{size}{''.join(more)}": inversion.main(
                ["--arch", arch, "--size", str(size), "--steps", steps, "--batch", batch, "--device", self.device,
                 "--out", str(self.work), *more]
            )
            for arch, size, more in kinds
        }  # fmt: skip

    def keep(self, name: str, row: dict[str, Any], command: str) -> None:
        self.done[name] = row
        facts = {"hardware": hardware(pick_device(self.device)), "versions": versions(), "command": command}
        text = json.dumps({**facts, "rows": self.done}, indent=2, sort_keys=True) + "\n"
        write_bytes(self.out, text.encode())


def main(argv: list[str] | None = None) -> int:
    """0: all done; 3: the time is up, call again."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--work", default="scratch/gpu")
    parser.add_argument("--out", help="default benchmarks/results/gpu-DEVICE.json")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args(argv)
    device = pick_device(args.device)
    out = Path(args.out or f"benchmarks/results/gpu-{device.type}.json")
    bench = Bench(args.data, Path(args.work), out, str(device), TINY if args.tiny else FULL)
    steps = bench.steps()
    for name, _, minutes in steps:
        state = "done" if name in bench.done else f"about {minutes:g} min (on an H200)"
        sys.stderr.write(f"{name:12} {state}\n")
    until = time.monotonic() + 60 * args.minutes

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGALRM, stop)
    words = argv if argv is not None else sys.argv[1:]
    command = " ".join(["python benchmarks/gpu.py", *(Path(w).name if Path(w).is_absolute() else w for w in words)])
    for name, work, _ in steps:
        if name in bench.done:
            continue
        # again every second: Python drops an exception that is raised within a callback of a weak reference
        signal.setitimer(signal.ITIMER_REAL, max(until - time.monotonic(), 0.001), 1)
        try:
            row = work()
        except KeyboardInterrupt:
            sys.stderr.write(f"{name}: the time is up; the same command continues\n")
            return 3
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        bench.keep(name, row, command)
        shown = row.get("mean", row.get("accuracy"))
        sys.stderr.write(f"{name}: done{'' if shown is None else f', {shown:.2f} %'}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
