"""Memory of the mapped store: flat over 100 epochs of 1,000 shards, and far below the size of a set.

    python benchmarks/memory.py --out memory.json

Makes two small sets. The first has 1,000 shards of one row; it is replayed for 100 epochs, and the memory of the
process and its open files are read after each. The second takes four times the memory that a process of its own may
still allocate (RLIMIT_DATA): it is replayed from mapped files, and cannot be read into memory.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

import ddkit.format.consistency
import ddkit.labelling.encoded
import ddkit.pipeline.describing
from ddkit import ReplayLoader, distill
from ddkit.core.console import set_quiet
from ddkit.core.device import hardware, pick_device, versions
from ddkit.format.manifest_file import read_manifest
from ddkit.replay.opening import memory_needed
from ddkit.testing import untrained_teacher

SHARDS, EPOCHS = 1000, 100
LIMIT = 32 * 2**20  # bytes that the limited process may allocate beyond what it has when it begins
CLASSES, VIEWS = 1000, 66  # 1,000 rows of 136 kB: images of 3 kB, the rest are labels


def rows_per_shard(rows: int) -> None:
    """Have sets made and opened with shards of `rows` rows instead of the format's number."""
    for module in (ddkit.format.consistency, ddkit.labelling.encoded, ddkit.pipeline.describing):
        module.shard_rows = lambda size: rows


def many_shards(folder: Path) -> Path:
    """A set of digits with one row in each of 1,000 shards."""
    rows_per_shard(1)
    teacher = untrained_teacher(folder / "digits.safetensors", arch="convnet3")
    options = {"protocol": "demo", "views": 2, "teacher": str(teacher), "workers": 1}
    return distill(folder / "many", data="digits", method="random", ipc=SHARDS // 10, **options).root


def large_labels(folder: Path) -> Path:
    """A set of 1,000 classes of generated pictures whose views and labels take 136 MB."""
    rows_per_shard(125)
    draw = np.random.default_rng(0)
    for label in range(CLASSES):
        place = folder / "pictures" / str(label)
        place.mkdir(parents=True)
        coarse = Image.fromarray(draw.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        coarse.resize((32, 32)).save(place / "0.png")
    teacher = untrained_teacher(folder / "pictures.safetensors", arch="convnet3", classes=CLASSES)
    options = {"protocol": "rded", "views": VIEWS, "teacher": str(teacher), "yes": True}
    return distill(folder / "large", data=str(folder / "pictures"), method="random", ipc=1, **options).root


def status(name: str) -> int:
    """A size in /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def flat(root: Path) -> dict[str, object]:
    """Replay 100 epochs; private memory and open files after each."""
    loader = ReplayLoader(root, batch_size=50, device="cpu", store="mapped")
    memory, files = [], []
    for _ in range(EPOCHS):
        for _batch in loader:
            pass
        memory.append(status("RssAnon"))
        files.append(len(os.listdir("/proc/self/fd")))
    slope = np.polyfit(np.arange(EPOCHS - 10), memory[10:], 1)[0]
    return {
        "shards": len(loader.manifest.shards), "epochs": EPOCHS, "private_bytes_after_epoch_1": memory[0],
        "private_bytes_most": max(memory), "private_bytes_per_epoch_after_10": round(float(slope)),
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "open_files_most": max(files), "open_files_last": files[-1],
    }  # fmt: skip


def limited(small: Path, root: Path, store: str) -> None:
    """In a process of its own: replay `root` for an epoch with LIMIT bytes more than after replaying `small`."""
    rows_per_shard(1)
    list(ReplayLoader(small, batch_size=50, device="cpu", store=store))
    most = status("VmData") + LIMIT
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    rows_per_shard(125)
    loader = ReplayLoader(root, batch_size=50, device="cpu", store=store)
    print("replayed", sum(len(labels) for _, _, labels in loader), "rows")  # noqa: T201


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    parser.add_argument("--limited", nargs=3, metavar=("SMALL", "SET", "STORE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    set_quiet(True)
    if args.limited:
        limited(Path(args.limited[0]), Path(args.limited[1]), args.limited[2])
        return
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DDKIT_CACHE"] = f"{folder}/cache"
        small, large = many_shards(Path(folder)), large_labels(Path(folder))
        needed = memory_needed(read_manifest(large))
        found: dict[str, object] = {
            "set_bytes": needed,
            "limit_bytes": LIMIT,
            "times_the_limit": round(needed / LIMIT, 2),
        }
        for store in ("mapped", "memory"):
            command = [sys.executable, __file__, "--limited", str(small), str(large), store]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            found[store] = (done.stdout or done.stderr or str(done.returncode)).strip().splitlines()[-1]
        rows_per_shard(1)
        result = {"flat": flat(small), "limited": found, "seconds": round(time.perf_counter() - began)}
    result |= {"hardware": hardware(pick_device("cpu")), "versions": versions()}
    print(json.dumps(result, indent=2))  # noqa: T201
    if args.out:
        args.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
