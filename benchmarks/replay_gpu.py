"""Views per second that ReplayLoader replays on a CUDA GPU, after comparing an epoch with the CPU's bit for bit.

    python benchmarks/replay_gpu.py SET [SET ...] [--batches 64,256] [--rounds 3] [--seconds 1]

A round counts whole epochs until --seconds have passed and waits for the GPU. Prints and writes
benchmarks/results/replay-gpu.json: by set, store and batch size the median of the rounds with its spread.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))  # a bare machine has the checkout, and nothing to install it with

import torch

from ddkit.core.device import hardware, pick_device, versions
from ddkit.core.files import write_bytes
from ddkit.replay.loader import ReplayLoader


def equal_to_cpu(path: str, batch: int, device: torch.device) -> dict[str, bool]:
    """Whether the first epoch has the CPU's inputs and logits, bit for bit."""
    same = {"inputs": True, "logits": True}
    cpu = ReplayLoader(path, batch_size=batch, device="cpu")
    for there, here in zip(ReplayLoader(path, batch_size=batch, device=device), cpu, strict=True):
        for name, mine, theirs in zip(same, there, here):
            same[name] &= torch.equal(mine.cpu(), theirs)
    return same


def rate(loader: ReplayLoader, seconds: float) -> float:
    """Views per second over whole epochs."""
    views, began = 0, time.perf_counter()
    while True:
        deque(loader, maxlen=0)
        views += loader.rows
        torch.cuda.synchronize()
        if (elapsed := time.perf_counter() - began) >= seconds:
            return views / elapsed


def measured(path: str, store: str, batch: int, device: torch.device, args: argparse.Namespace) -> dict[str, float]:
    """Median, lowest and highest rate of the rounds, after one that is left out."""
    loader = ReplayLoader(path, batch_size=batch, device=device, store=store)
    rate(loader, args.seconds / 2)
    rates = [rate(loader, args.seconds) for _ in range(args.rounds)]
    return {"median": statistics.median(rates), "low": min(rates), "high": max(rates)}


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """The report, also written to --out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sets", nargs="+")
    parser.add_argument("--batches", default="64,256")
    parser.add_argument("--stores", default="memory")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", default="benchmarks/results/replay-gpu.json")
    args = parser.parse_args(argv)
    device, rows = pick_device(args.device), []
    head = {"hardware": hardware(device), "versions": versions(), "rounds": args.rounds, "seconds": args.seconds}
    for path in args.sets:
        manifest = ReplayLoader(path, batch_size=2, device="cpu").manifest
        assert manifest is not None
        facts = {
            "codec": manifest.labels.codec, "size": manifest.views.size, "rows": manifest.rows(),
            "classes": len(manifest.classes), "mix": manifest.views.mix,
            "equal_to_cpu": equal_to_cpu(path, 64, device),
        }  # fmt: skip
        for store in args.stores.split(","):
            for batch in map(int, args.batches.split(",")):
                found = measured(path, store, batch, device, args)
                rows.append({**facts, "store": store, "batch": batch, "views_per_second": found})
                sys.stdout.write(json.dumps(rows[-1]) + "\n")
                sys.stdout.flush()
                write_bytes(Path(args.out), (json.dumps({**head, "rows": rows}, indent=1) + "\n").encode())
    return {**head, "rows": rows}


if __name__ == "__main__":
    main()
