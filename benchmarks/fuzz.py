"""Fuzzing of every reader of untrusted bytes, guided by coverage of ddkit's code.

    pip install atheris
    python benchmarks/fuzz.py --seconds 3600 --work fuzz.work --out benchmarks/results/fuzz.json

The targets and their mutations are those of `tests/fuzz/`. Each runs in a process of its own, for a share of the time,
by Atheris (libFuzzer). What it finds lies in `WORK/TARGET/findings`, one smallest input per kind of error; the corpora
stay in WORK, and a later call goes on from there. The summary counts all calls with the same WORK.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import resource
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any, NoReturn

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "tests")]
MOST_RUNS = 200_000  # of one process: Atheris does not free the inputs that a custom mutation returns
AGAIN, OURS = 0.4, 0.75  # shares of mutations that begin with a valid input, and that keep what surrounds them valid
LONGEST, TIMEOUT_S, MOST_MB = 131_072, 120, 2048  # bytes of an input; seconds and memory at which libFuzzer gives up


class Watch:
    """Counts what a target does, and keeps the inputs that it fails on.

    Args:
        name: The target.
        read: Reads an input; returns whether it was accepted.
        folder: Where counts and findings are kept.
    """

    def __init__(self, name: str, read: Any, folder: Path) -> None:
        self.name, self._read, self._folder = name, read, folder
        self._file = folder / "counts.json"
        blank = {"runs": 0, "accepted": 0, "seconds": 0.0, "slowest_s": 0.0, "peak_mb": 0, "grown_mb": 0}
        self.counts = json.loads(self._file.read_text()) if self._file.exists() else blank
        self._began, self._told = time.monotonic(), time.monotonic()
        self._spent, self._start_mb = self.counts["seconds"], memory_mb()

    def __call__(self, data: bytes) -> None:
        began = time.process_time()
        try:
            self.counts["accepted"] += self._read(data)
        except Exception as error:
            self._keep(data, error)
        took = time.process_time() - began
        self.counts["runs"] += 1
        if took > self.counts["slowest_s"]:
            self.counts["slowest_s"] = round(took, 3)
            (self._folder / "slowest").write_bytes(data)
        if time.monotonic() - self._told > 0.2:
            self.tell()

    def tell(self) -> None:
        """Write the counts; libFuzzer ends the process without a word."""
        self._told = time.monotonic()
        self.counts["seconds"] = round(self._spent + self._told - self._began, 1)
        self.counts["peak_mb"] = max(self.counts["peak_mb"], memory_mb())
        self.counts["grown_mb"] = max(self.counts["grown_mb"], memory_mb() - self._start_mb)
        beside = self._file.with_suffix(".new")
        beside.write_text(json.dumps(self.counts))
        beside.replace(self._file)

    def _keep(self, data: bytes, error: Exception) -> None:
        """Keep the smallest input for each kind of error, made smaller when it is new."""
        path = self._folder / "findings" / kind_of(error)
        if path.exists() and path.stat().st_size <= len(data):
            return
        path.parent.mkdir(exist_ok=True)
        smallest = data if path.exists() else self._smaller(data, kind_of(error))
        path.write_bytes(smallest)
        path.with_suffix(".txt").write_text("".join(traceback.format_exception(error)))

    def _smaller(self, data: bytes, kind: str, tries: int = 300) -> bytes:
        """Leave parts out as long as the error stays the same."""
        step = len(data) // 2
        while step and tries:
            at = 0
            while at < len(data) and tries:
                tries -= 1
                part = data[:at] + data[at + step :]
                try:
                    self._read(part)
                    at += step
                except Exception as error:
                    data, at = (part, at) if kind_of(error) == kind else (data, at + step)
            step //= 2
        return data


def kind_of(error: BaseException) -> str:
    """The type of an error and the line of ddkit, or else of the target, that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if f"{os.sep}ddkit{os.sep}" in f.filename] or frames
    return f"{type(error).__name__}-{Path(ours[-1].filename).stem}-{ours[-1].name}-{ours[-1].lineno}"


def memory_mb() -> int:
    """The largest memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


# ------------------------------------------------------------------ one target


def prepare() -> Any:
    """Import everything once, with the places in ddkit that coverage counts; returns the targets."""
    import atheris

    with atheris.instrument_imports(include=["ddkit"]):
        from fuzz import targets

        from ddkit.core.console import set_quiet
    import torch

    torch.set_num_threads(1)
    set_quiet(True)
    return targets.TARGETS


def fuzz(name: str, target: Any, seconds: int, folder: Path) -> NoReturn:
    """Run a target in this process, a fork."""
    import atheris
    from fuzz import seeds

    warnings.simplefilter("ignore")
    (folder / "corpus").mkdir(exist_ok=True)
    valid = target.inputs()
    for i, data in enumerate([*valid, *seeds.of(name)]):
        (folder / "corpus" / f"seed-{i:03d}").write_bytes(data)
        with contextlib.suppress(Exception):  # imports what the reader imports late
            target.check(data)
    watch = Watch(name, target.check, folder)

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if rng.random() < AGAIN:
            data = rng.choice(valid)
        if rng.random() < OURS:
            new = target.mutate(data, rng)
            if len(new) <= most:
                return new
        return bytes(atheris.Mutate(data, most))

    options = [f"-max_total_time={seconds}", f"-max_len={LONGEST}", f"-timeout={TIMEOUT_S}", f"-rss_limit_mb={MOST_MB}",
               f"-runs={MOST_RUNS}",
               "-reload=0", f"-artifact_prefix={folder}/"]  # fmt: skip
    atheris.Setup([sys.argv[0], *options, str(folder / "corpus")], watch, custom_mutator=mutate)
    atheris.Fuzz()
    os._exit(0)


def forked(name: str, target: Any, seconds: float, work: Path) -> int:
    """Run a target in a fork; returns its process. It begins again if an input ends the process."""
    process = os.fork()
    if process:
        return process
    folder = work / name
    folder.mkdir(parents=True, exist_ok=True)
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    end = time.monotonic() + seconds
    while (left := int(end - time.monotonic())) > 1:
        child = os.fork()
        if child == 0:
            fuzz(name, target, left, folder)
        os.waitpid(child, 0)
    os._exit(0)


# ------------------------------------------------------------------ all of them


def summary(names: list[str], work: Path) -> dict[str, Any]:
    """What all calls with this WORK did."""
    found = {}
    for name in names:
        folder = work / name
        if not (folder / "counts.json").exists():
            continue
        covered = re.findall(r"cov: (\d+)", (folder / "log").read_text(errors="replace"))
        findings = [path.name for path in sorted(folder.glob("findings/*")) if path.suffix != ".txt"]
        findings += [path.name for kind in ("timeout", "oom", "crash") for path in sorted(folder.glob(f"{kind}-*"))]
        counts = json.loads((folder / "counts.json").read_text())
        found[name] = counts | {"edges": int(covered[-1]) if covered else None, "findings": findings}
    total = {key: sum(of[key] for of in found.values()) for key in ("runs", "accepted", "seconds")}
    total["seconds"] = round(total["seconds"])
    total |= {key: max((of[key] for of in found.values()), default=0) for key in ("slowest_s", "peak_mb", "grown_mb")}
    return total | {"findings": sum(len(of["findings"]) for of in found.values()), "targets": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=3600, help="of all targets together")
    parser.add_argument("--jobs", type=int, default=1, help="targets at a time")
    parser.add_argument("--work", type=Path, default=Path("fuzz.work"))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", nargs="*", help="names of targets")
    options = parser.parse_args()
    targets = prepare()
    names = [name for name in targets if not options.only or name in options.only]
    each = options.seconds * options.jobs / sum(targets[name].weight for name in names)
    running = set[int]()
    for name in names:
        running.add(forked(name, targets[name], each * targets[name].weight, options.work))
        if len(running) >= options.jobs:
            running.discard(os.wait()[0])
    while running:
        running.discard(os.wait()[0])
    found = summary(names, options.work)
    for name, of in found["targets"].items():
        print(f"{name:26}{of['runs']:9} runs {of['seconds']:7.0f} s {of['edges'] or 0:6} edges {of['findings'] or ''}")  # noqa: T201
    print({key: value for key, value in found.items() if key != "targets"})  # noqa: T201
    if options.out:
        options.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
