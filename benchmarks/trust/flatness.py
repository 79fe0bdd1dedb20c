"""Goal 14: memory and open files do not grow with the number of shards."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from trust.bench import Bench
from trust.damage import small_shards
from trust.goals import Goal, Outcome

SIZES = (10, 100, 1000)  # shards, compared with one
SHARE, FILES = 0.05, 256
EPOCHS = 3


def _sets(bench: Bench) -> Path:
    """Ten rows in one shard; and 1,000 rows in 1,000 shards, of which prefixes have 10 and 100."""
    from ddkit.testing import untrained_teacher

    def make(folder: Path) -> None:
        from ddkit.pipeline import distill

        teacher = str(untrained_teacher(folder / "t.safetensors", size=16))
        toy = {"data": "digits", "method": "random", "protocol": "demo", "views": 2, "teacher": teacher, "workers": 1}
        small_shards(10)
        distill(folder / "one", ipc=1, **toy)
        small_shards(1)
        distill(folder / "many", prefixes=(1, 10, 100), **toy)

    bench.made("shards", make)
    return bench.folder("shards")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def replayed(root: Path, ipc: int, rows_a_shard: int) -> dict[str, Any]:
    """Replay some epochs of a mapped set in this process, a fork: its peak memory and most open files."""
    from ddkit import ReplayLoader

    small_shards(rows_a_shard)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    loader = ReplayLoader(root, batch_size=5, device="cpu", ipc=ipc, store="mapped")
    files = rows = 0
    for _ in range(EPOCHS):
        for _, _, labels in loader:
            rows += len(labels)
            files = max(files, len(os.listdir("/proc/self/fd")))
    return {"bytes": _status("VmHWM"), "files": files, "rows": rows}


def memory_trial(bench: Bench, trial: int) -> Outcome:
    """The peak of a process that replays some number of shards, beside that of one that replays one."""
    shards, folder = SIZES[trial % len(SIZES)], _sets(bench)
    one = bench.forked(lambda: replayed(folder / "one", 1, 10))
    many = bench.forked(lambda: replayed(folder / "many", shards // 10, 1))
    change = many["bytes"] / one["bytes"] - 1
    wrong = []
    if abs(change) > SHARE:
        wrong.append(f"{shards} shards: {many['bytes'] / 1e6:.0f} MB, with one {one['bytes'] / 1e6:.0f} MB")
    if many["files"] >= FILES or many["rows"] != EPOCHS * shards:
        wrong.append(f"{shards} shards: {many['files']} files open, {many['rows']} rows")
    most = {"percent": round(100 * abs(change), 2), "files": many["files"], "MB": round(many["bytes"] / 1e6)}
    return Outcome(tuple(wrong), {f"{shards} shards": 1}, most)


GOALS = (
    Goal(
        14,
        "bounded memory",
        f"{EPOCHS} epochs of a mapped set with 1, 10, 100 and 1,000 shards, each in a process of its own",
        9,
        memory_trial,
        lambda found: (
            f"the peak of {found['MB']} MB differs by at most {found['percent']} % between 1 and 1,000 shards; at most "
            f"{found['files']} files open"
        ),
    ),
)
