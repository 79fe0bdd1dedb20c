"""Engines: the same content from any of them, how little they waste, and how well they scale.

    python benchmarks/engines.py [--only content,efficiency,ranks,claims,waiting] [--work DIR]

content: one small CUDD run of digits, stage students included, by one process, by one with OMP_NUM_THREADS 1 and 2 and
beside busy processes, by 2 and 4 ranks, by a SLURM array of 4 tasks (where sbatch works) and by a Ray cluster of three
nodes of which one is killed, with and without a folder that they share. efficiency: the time of a run of SRe2L by 2
ranks of one thread against one. ranks: 64 processes share units that sleep; how much of the time do they work, and how
many units run twice, also when 8 of them are killed? claims: what a claim costs among 10,000 units. waiting: a step of
two threads with OpenMP's default and with the command line's GOMP_SPINCOUNT, alone and beside busy processes. Writes
benchmarks/results/engines.json.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ddkit.core.console import set_quiet
from ddkit.core.device import WAITING_VARIABLES, hardware, versions
from ddkit.core.files import write_bytes
from ddkit.engine.claims import Claims
from ddkit.engine.local import Local
from ddkit.engine.ranks import Place, Ranks
from ddkit.engine.units import UnitFile
from ddkit.testing import untrained_teacher

ROOT = Path(__file__).parent.parent
CUDD = "--method cudd --prefixes 1,2,4 --set steps=40 --set student.epochs=15 --protocol common --views 20"
SRE2L = "--engine ranks --method sre2l --ipc 8 --set steps=800 --set batch.ipc=1 --set threads=1"
SRE2L += " --protocol common --views 2"


# ------------------------------------------------------------------ runs of `ddkit distill`


@dataclass(frozen=True)
class Runner:
    """Runs `ddkit distill` on digits in subprocesses.

    Attributes:
        root: Folder of the sets.
        options: Options of the run.
    """

    root: Path
    options: str

    def command(self, name: str, *more: str) -> list[str]:
        teacher = untrained_teacher(self.root / "teacher.safetensors", arch="convnet3")
        return [
            *(sys.executable, "-m", "ddkit", "distill", str(self.root / name), "--data", "digits", "--quiet"),
            *("--teacher", str(teacher), *self.options.split(), *more),
        ]

    def start(self, name: str, environment: Mapping[str, str] | None = None, *more: str) -> subprocess.Popen[bytes]:
        env = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"} | {"PYTHONPATH": str(ROOT)}
        return subprocess.Popen(
            self.command(name, *more), env=env | dict(environment or {}), stdout=subprocess.DEVNULL, cwd=self.root
        )

    def ranks(self, name: str, world: int) -> None:
        ended(*(self.start(name, place(rank, world)) for rank in range(world)))

    def content(self, name: str) -> str:
        return json.loads((self.root / name / "ddkit.json").read_text())["content"]


def place(rank: int, world: int) -> dict[str, str]:
    return {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"}


def ended(*processes: subprocess.Popen[bytes]) -> None:
    for process in processes:
        if process.wait():
            raise SystemExit(f"{process.args} ended with {process.returncode}")


def content(root: Path) -> dict[str, Any]:
    """Return the content hash and seconds of the same run by each engine."""
    runner, found = Runner(root, CUDD), dict[str, Any]()

    def busy() -> None:
        others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(4)]
        try:
            ended(runner.start("busy"))
        finally:
            for other in others:
                other.kill()

    ways = {
        "one": lambda: ended(runner.start("one", None, "--workers", "1")),
        "workers2": lambda: ended(runner.start("workers2", None, "--workers", "2")),
        "omp1": lambda: ended(runner.start("omp1", {"OMP_NUM_THREADS": "1"})),
        "omp2": lambda: ended(runner.start("omp2", {"OMP_NUM_THREADS": "2"})),
        "busy": busy,
        "ranks2": lambda: runner.ranks("ranks2", 2),
        "ranks4": lambda: runner.ranks("ranks4", 4),
        "slurm4": lambda: slurm(runner, "slurm4", 4),
        "ray3": lambda: ray_nodes(runner, "ray3"),
        "ray3-hidden": lambda: ray_nodes(runner, "ray3-hidden", hidden=True),
    }
    for name, run in ways.items():
        if not available(name):
            continue
        began = time.monotonic()
        run()
        found[name] = {"content": runner.content(name), "seconds": round(time.monotonic() - began, 1)}
        print(name, found[name], flush=True)  # noqa: T201
    return {"same": len({one["content"] for one in found.values()}) == 1, "runs": found}


def available(name: str) -> bool:
    if name.startswith("slurm"):
        return shutil.which("sbatch") is not None and subprocess.run(["sinfo"], capture_output=True).returncode == 0
    if name.endswith("hidden") and subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        return False
    return not name.startswith("ray") or shutil.which("ray", path=str(Path(sys.executable).parent)) is not None


def slurm(runner: Runner, name: str, tasks: int) -> None:
    """Submit an array and wait for its end."""
    ended(runner.start(name, None, "--submit", f"slurm:{tasks}", "--yes"))
    while subprocess.run(["squeue", "-h"], capture_output=True, check=True).stdout.strip():
        time.sleep(2)


def ray_nodes(runner: Runner, name: str, hidden: bool = False) -> None:
    """Run on a Ray cluster of three nodes; one is killed once the first images are made.

    Args:
        runner: Starts the run.
        name: Name of the set.
        hidden: Whether the two nodes without the command see an empty folder in the place of the sets.
    """
    import ray
    from ray.cluster_utils import Cluster

    os.environ["PYTHONPATH"] = str(ROOT)
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    hide = ["unshare", "-rm", "bash", "-c", f'mount -t tmpfs none "{runner.root.absolute()}" && exec "$@"', "-"]
    start = f"{sys.executable} -m ray.scripts.scripts start --address {nodes.address} --num-cpus=1 --block".split()
    others = [
        subprocess.Popen([*(hide if hidden else []), *start], start_new_session=True, stdout=subprocess.DEVNULL)
        for _ in range(2)
    ]
    with ray.init(nodes.address, log_to_driver=False, logging_level="ERROR"):
        while sum(node["Alive"] for node in ray.nodes()) < 3:
            time.sleep(0.2)
    process = runner.start(name, {"RAY_ADDRESS": nodes.address}, "--engine", "ray")
    while process.poll() is None and not list((runner.root / f"{name}.work" / "units").glob("recover-1-*.unit")):
        time.sleep(0.1)
    os.killpg(others[0].pid, signal.SIGKILL)
    ended(process)
    os.killpg(others[1].pid, signal.SIGTERM)
    nodes.shutdown()


def efficiency(root: Path) -> dict[str, Any]:
    """Return the seconds of the same run by one rank and by two, in turn."""
    runner, seconds = Runner(root, SRE2L), {1: list[float](), 2: list[float]()}
    for turn in range(2):
        for world in (1, 2):
            began = time.monotonic()
            runner.ranks(f"efficiency-{world}-{turn}", world)
            seconds[world].append(round(time.monotonic() - began, 1))
    ratios = [round(two / one, 3) for one, two in zip(seconds[1], seconds[2])]
    return {"seconds": seconds, "ratios": ratios, "ratio": sorted(ratios)[len(ratios) // 2]}


# ------------------------------------------------------------------ units that sleep


@dataclass(frozen=True)
class Sleep:
    """A unit that sleeps, and notes that it ran."""

    folder: str
    number: int
    seconds: float
    needs = frozenset[str]()
    gpu_share = 0.0

    @property
    def id(self) -> str:
        return f"sleep-{self.number}"

    @property
    def files(self) -> tuple[UnitFile, ...]:
        return (UnitFile(Path(self.folder) / f"{self.id}.unit", "key"),)

    def run(self) -> None:
        time.sleep(self.seconds)
        with open(Path(self.folder) / "runs.txt", "a") as log:
            log.write(f"{self.id}\n")
        self.files[0].write_json(None)


def share(jobs: list[Sleep], rank: int, world: int) -> None:
    for _ in Ranks(Place(rank, world, rank, "torchrun"), Path(jobs[0].folder) / "claims", Local()).run(jobs):
        pass


def ranks(root: Path, world: int = 64, each: int = 20, seconds: float = 2.0, killed: int = 0) -> dict[str, Any]:
    """Return how much of the time `world` processes work on units that sleep, and how many units run twice."""
    folder = root / f"ranks-{killed}"
    folder.mkdir()
    jobs = [Sleep(str(folder), number, seconds) for number in range(world * each)]
    fork, began = multiprocessing.get_context("fork"), time.monotonic()
    processes = [fork.Process(target=share, args=(jobs, rank, world)) for rank in range(world)]
    for process in processes:
        process.start()
    draw = random.Random(0)
    for process in draw.sample(processes, killed):
        time.sleep(draw.uniform(0, each * seconds / max(killed, 1)))
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()  # a process that nobody waits for still counts as running
    for process in processes:
        process.join()
    wall = time.monotonic() - began
    runs = Counter((folder / "runs.txt").read_text().split())
    assert len(runs) == len(jobs)
    return {
        "ranks": world, "units": len(jobs), "killed": killed, "seconds": round(wall, 1),
        "busy": round(sum(runs.values()) * seconds / (world * wall), 4),
        "twice": sum(runs.values()) - len(jobs), "wasted": round(1 - len(jobs) / sum(runs.values()), 4),
    }  # fmt: skip


def claims(root: Path, units: int = 10_000) -> dict[str, Any]:
    """Return the milliseconds that taking and releasing a claim cost beside 10,000 results and as many claims."""
    folder = root / "claims"
    jobs = [Sleep(str(folder / "units"), number, 0.0) for number in range(2 * units)]
    for job in jobs[units:]:
        job.files[0].path.parent.mkdir(parents=True, exist_ok=True)
        job.files[0].path.write_bytes(b"another key\n")
    with Claims(folder / "claims") as mine:
        began = time.monotonic()
        assert all(mine.take(job) for job in jobs[:units])
        taken = time.monotonic()
        with Claims(folder / "claims") as other:
            assert not any(other.take(job) for job in jobs[:units])
        refused = time.monotonic()
        for job in jobs[:units]:
            mine.release(job)
        released = time.monotonic()
    each = {"take": taken - began, "refused": refused - taken, "release": released - refused}
    return {"units": units} | {name: round(1000 * seconds / units, 4) for name, seconds in each.items()}


STEP = """
import sys, time, torch
from ddkit.networks.registry import build_network
torch.set_num_threads(2)
network, x = build_network("convnet3", 10, 16), torch.randn(10, 3, 16, 16)
def step():
    network(x).square().mean().backward()
for _ in range(3):
    step()
began = time.perf_counter()
for _ in range(150):
    step()
print(1000 * (time.perf_counter() - began) / 150)
"""


def waiting(root: Path) -> dict[str, Any]:
    """Return milliseconds of a step of ConvNet-3 (16 px, batch 10, two threads), three runs each, in turns."""
    usual = {k: v for k, v in os.environ.items() if k not in WAITING_VARIABLES} | {"PYTHONPATH": str(ROOT)}
    ways = {"default": usual, "GOMP_SPINCOUNT=1000": usual | {"GOMP_SPINCOUNT": "1000"}}
    found: dict[str, Any] = {}
    for busy in (0, 1, 4):
        others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
        found[f"beside {busy}"] = times = {name: list[float]() for name in ways}
        try:
            for name in [*ways] * 3:
                done = subprocess.run([sys.executable, "-c", STEP], env=ways[name], capture_output=True, check=True)
                times[name].append(round(float(done.stdout), 1))
        finally:
            for other in others:
                other.kill()
    return found


PARTS = {
    "content": content,
    "efficiency": efficiency,
    "ranks": lambda root: [ranks(root), ranks(root, killed=8)],
    "claims": claims,
    "waiting": waiting,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--work", help="folder of the sets, shared by all nodes; default: a temporary one")
    parser.add_argument("--out", default=str(ROOT / "benchmarks" / "results" / "engines.json"))
    args = parser.parse_args()
    set_quiet(True)
    path = Path(args.out)
    known = json.loads(path.read_text()) if path.is_file() else {}
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        for name in args.only.split(","):
            known[name] = PARTS[name](Path(folder))
            known |= {"hardware": hardware(torch.device("cpu")), "versions": versions()}
            print(name, json.dumps(known[name], indent=1))  # noqa: T201
            write_bytes(path, (json.dumps(known, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
