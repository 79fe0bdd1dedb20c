"""Damaged shards: how many does `verify` find, and how many plain tar readers?

    python benchmarks/damage.py --trials 500

Makes a small set of digits, damages one shard at a time (one bit, one byte, truncation, a zeroed block, two rows
swapped), and asks `ddkit.verify`, Python's tarfile and webdataset. As many intact copies are the control group.
"""

from __future__ import annotations

import argparse
import random
import tarfile
import tempfile
from collections import Counter
from pathlib import Path

from ddkit.core.console import set_quiet
from ddkit.format.verification import directory_problems
from ddkit.pipeline import distill
from ddkit.testing import untrained_teacher

KINDS = ("bit", "byte", "truncated", "zeroed block", "swapped halves")


def damage(data: bytes, kind: str, rng: random.Random) -> bytes:
    """A damaged copy; never the same bytes."""
    while True:
        new = bytearray(data)
        at = rng.randrange(len(data))
        if kind == "bit":
            new[at] ^= 1 << rng.randrange(8)
        elif kind == "byte":
            new[at] = rng.randrange(256)
        elif kind == "truncated":
            new = new[:at]
        elif kind == "zeroed block":
            start = at // 512 * 512
            new[start : start + 512] = bytes(len(new[start : start + 512]))
        else:
            half = len(data) // 1024 * 512
            new = new[half:] + new[:half]
        if bytes(new) != data:
            return bytes(new)


def tarfile_raises(path: Path) -> bool:
    """Whether reading every member of the tar raises."""
    try:
        with tarfile.open(path, "r|") as tar:
            for member in tar:
                file = tar.extractfile(member)
                if file is not None:
                    file.read()
    except (tarfile.TarError, EOFError, OSError, ValueError):
        return True
    return False


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    set_quiet(True)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        teacher = str(untrained_teacher(root / "teacher.safetensors"))
        manifest = distill(
            root / "set", data="digits", method="random", ipc=5, protocol="demo", views=4, teacher=teacher, workers=1
        )  # fmt: skip
        path = manifest.root / manifest.shards[0].path
        whole = path.read_bytes()
        found, plain, false_alarms = Counter(), Counter(), 0
        for trial in range(options.trials):
            kind = KINDS[trial % len(KINDS)]
            path.write_bytes(damage(whole, kind, rng))
            found[kind] += bool(directory_problems(manifest.root))
            plain[kind] += tarfile_raises(path)
            path.write_bytes(whole)
            false_alarms += bool(directory_problems(manifest.root))
        each = options.trials // len(KINDS)
        for kind in KINDS:
            print(f"{kind:15} {each} times: ddkit found {found[kind]}, tarfile raised {plain[kind]}")  # noqa: T201
        print(f"intact {options.trials} times: {false_alarms} false alarms")  # noqa: T201


if __name__ == "__main__":
    main()
