"""Time and peak memory of packing, verifying, opening and replaying a set, from 1,000 to 10,450 classes.

    python benchmarks/growth.py [--classes 1000,2000,5000,10450] [--views 2] [--codec fp16]

One generated image of 64 px per class, labelled by a small network with random weights. Each step runs in a process of
its own: `import` only imports ddkit and torch, and shows what the others begin with. `pack` runs `distill` again after
the shards were deleted, with every label made, and counts the seconds of its packing units; its memory is that of the
whole process, which also opens the source and verifies. Writes benchmarks/results/growth-CODEC.json and a picture.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402

import ddkit  # noqa: E402
from ddkit.core.device import hardware, peak_memory, versions  # noqa: E402
from ddkit.format.manifest_file import read_manifest  # noqa: E402
from ddkit.pipeline import distilling  # noqa: E402
from ddkit.testing import untrained_teacher  # noqa: E402

STEPS = ("import", "make", "pack", "verify", "open", "epoch")
SIZE, BATCH = 64, 128


def source(folder: Path, classes: int) -> Path:
    """Write one image per class, if they are not there."""
    for label in range(len(list(folder.glob("*"))), classes):
        coarse = np.random.default_rng(label).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        path = folder / str(label) / "0.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(coarse).resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(path)
    return folder


def make(work: Path, args: argparse.Namespace) -> None:
    """Make the set."""
    teacher = untrained_teacher(work / "t.safetensors", arch="timm:test_efficientnet", classes=args.number, size=SIZE)
    ddkit.distill(
        work / "set", data=str(source(work / "images", args.number)), teacher=str(teacher), method="random", ipc=1,
        views=args.views, codec=args.codec, protocol="common", workers=1, yes=True,
    )  # fmt: skip


def pack(work: Path) -> float:
    """Delete the shards and pack them again; returns the seconds of the packing units."""
    (work / "set" / "ddkit.json").unlink()
    shutil.rmtree(work / "set" / "data")
    for unit in (work / "set.work" / "units").glob("pack-*"):
        unit.unlink()
    seconds, run_units = dict[str, float](), distilling.run_units

    def timed(units: Any, engine: Any) -> None:
        began = time.perf_counter()
        run_units(units, engine)
        seconds[units.title] = time.perf_counter() - began

    distilling.run_units = timed
    ddkit.distill(work / "set", workers=1, yes=True)
    return seconds["packing"]


def verify(work: Path) -> None:
    """Check every byte of the set."""
    assert ddkit.verify(work / "set", full=True) == []


def step(name: str, work: Path, args: argparse.Namespace) -> dict[str, float]:
    """Run one step in this process; returns its seconds and the peak memory of the process, in bytes."""
    loader = ddkit.ReplayLoader(work / "set", batch_size=BATCH, device="cpu") if name == "epoch" else None
    steps: dict[str, Callable[[], Any]] = {
        "import": lambda: None,
        "make": lambda: make(work, args),
        "pack": lambda: pack(work),
        "verify": lambda: verify(work),
        "open": lambda: ddkit.ReplayLoader(work / "set", batch_size=BATCH, device="cpu"),
        "epoch": lambda: sum(len(images) for images, _, _ in loader),
    }
    began = time.perf_counter()
    found = steps[name]()
    seconds = found if name == "pack" else time.perf_counter() - began
    return {"seconds": seconds, "peak_bytes": peak_memory(torch.device("cpu"))}


def measured(classes: int, args: argparse.Namespace) -> dict[str, Any]:
    """All steps for one number of classes, each in a process of its own."""
    work = Path(args.work) / f"{classes}-{args.views}-{re.sub('[^a-z0-9]+', '-', args.codec.lower())}"
    work.mkdir(parents=True, exist_ok=True)
    for folder in ("set", "set.work"):
        shutil.rmtree(work / folder, ignore_errors=True)
    command = [sys.executable, __file__, "--views", str(args.views), "--codec", args.codec, "--work", str(work)]
    found: dict[str, Any] = {}
    for name in STEPS:
        run = subprocess.run(
            [*command, "--step", name, "--number", str(classes)], stdout=subprocess.PIPE, text=True, check=True
        )
        found[name] = json.loads(run.stdout.splitlines()[-1])
    manifest = read_manifest(work / "set")
    rows, start = manifest.rows(), found["import"]["peak_bytes"]
    for name in STEPS[1:]:
        found[name]["ms_per_row"] = 1000 * found[name]["seconds"] / rows
        found[name]["kB_per_row"] = max(0, found[name]["peak_bytes"] - start) / 1000 / rows
    return found | {"rows": rows, "kB_of_set_per_row": manifest.total_bytes() / 1000 / rows}


def table(report: dict[str, Any]) -> str:
    """The report as text."""
    lines = [f"codec {report['codec']}, {report['views']} views: ms per row / peak MB / kB per row above import"]
    lines.append(f"{'classes':>8} {'set kB/row':>10}" + "".join(f"{name:>22}" for name in STEPS[1:]))
    for classes, row in report["classes"].items():
        steps = [row[name] for name in STEPS[1:]]
        cells = [f"{s['ms_per_row']:.2f} / {s['peak_bytes'] / 1e6:.0f} / {s['kB_per_row']:.0f}" for s in steps]
        lines.append(f"{classes:>8} {row['kB_of_set_per_row']:10.1f}" + "".join(f"{cell:>22}" for cell in cells))
    return "\n".join(lines)


def picture(report: dict[str, Any], path: Path) -> None:
    """Draw time and memory a row against the number of classes."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    classes = [int(number) for number in report["classes"]]
    for axes, key, label in ((left, "ms_per_row", "ms per row"), (right, "kB_per_row", "kB of peak memory per row")):
        for name in STEPS[2:]:
            axes.plot(classes, [row[name][key] for row in report["classes"].values()], marker="o", label=name)
        axes.set(xlabel="classes (one image each)", ylabel=label, ylim=(0, None))
    right.plot(classes, [row["kB_of_set_per_row"] for row in report["classes"].values()], "k:", label="the set's files")
    right.legend(fontsize=8)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main(argv: list[str] | None = None) -> dict[str, Any] | None:
    """Measure and write the report; with --step, run that step and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", default="1000,2000,5000,10450")
    parser.add_argument("--views", type=int, default=2)
    parser.add_argument("--codec", default="fp16")
    parser.add_argument("--work", default="scratch/growth")
    parser.add_argument("--out", default="benchmarks/results")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--number", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.step:
        print(json.dumps(step(args.step, Path(args.work), args)))  # noqa: T201
        return None
    report: dict[str, Any] = {
        "command": " ".join(["python benchmarks/growth.py", *(sys.argv[1:] if argv is None else argv)]),
        "hardware": hardware(torch.device("cpu")), "versions": versions(), "codec": args.codec, "views": args.views,
        "size": SIZE, "batch": BATCH,
        "classes": {number: measured(int(number), args) for number in args.classes.split(",")},
    }  # fmt: skip
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    name = f"growth-{re.sub('[^a-z0-9]+', '-', args.codec.lower())}"
    (out / f"{name}.json").write_text(json.dumps(report, indent=2) + "\n")
    picture(report, out / f"{name}.png")
    return report


if __name__ == "__main__":
    report = main()
    if report is not None:
        print(table(report))  # noqa: T201
