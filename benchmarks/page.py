"""The page of a set of 200 classes x 10 images: its bytes, the time to open it, and how smoothly it scrolls.

    python benchmarks/page.py [--classes 200] [--ipc 10] [--work DIR]

Needs Chromium. Writes benchmarks/results/page.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import ddkit
from ddkit.core.console import note
from ddkit.core.device import hardware, pick_device
from ddkit.core.files import write_bytes
from ddkit.evaluation.measures.interface import Metric
from ddkit.format.manifest_file import read_manifest
from ddkit.format.measurements import Measurement, Measurements, write_measurements
from ddkit.testing import untrained_teacher

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import chromium  # noqa: E402

SIZE = 64
FRAMES = """new Promise((done) => {
  const gaps = [], rows = document.getElementById('images');
  rows.scrollIntoView();
  let last = performance.now(), left = 120;
  const step = (now) => {
    gaps.push(now - last); last = now; scrollBy(0, 120);
    --left ? requestAnimationFrame(step) : done(gaps);
  };
  requestAnimationFrame(step);
})"""


def made_set(work: Path, classes: int, ipc: int) -> Path:
    """A set of smooth coloured images, with per-class measurements of three rows of the table."""
    out = work / "set"
    if not (out / "ddkit.json").is_file():
        names = [str(i) for i in range(classes)]
        for i, name in enumerate(names):
            (work / "source" / name).mkdir(parents=True, exist_ok=True)
            for j in range(ipc + 1):
                coarse = np.random.default_rng([i, j]).integers(0, 256, (9, 9, 3), dtype=np.uint8)
                Image.fromarray(coarse).resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(
                    work / "source" / name / f"{j}.png"
                )
        teacher = untrained_teacher(work / "teacher.safetensors", arch="convnet3", classes=classes, size=SIZE)
        ddkit.distill(
            out, data=str(work / "source"), method="random", ipc=ipc, protocol="common", views=4,
            teacher=str(teacher), codec="fp16", holdout=0.05, yes=True,
        )  # fmt: skip
    manifest = read_manifest(out)
    accuracy = Metric(name="accuracy", title="accuracy of a class", unit="%", better="higher")
    rng, found = np.random.default_rng(0), []
    for of in ("this", "random", "teacher"):
        for name in manifest.class_names:
            value = float(rng.uniform(0, 100))
            found.append(
                Measurement(
                    measure="per-class",
                    metric=accuracy.name,
                    title=accuracy.title,
                    unit="%",
                    better="higher",
                    condition=name,
                    of=of,
                    ipc=ipc,
                    arch="convnet3",
                    protocol="common",
                    labels="stored",
                    val="x:test",
                    n=50,
                    seeds=(0,),
                    values=((value,),),
                    mean=value,
                    std=0.0,
                    command="page.py",
                    hardware="-",
                )  # fmt: skip
            )
    write_measurements(Path(f"{out}.work"), Measurements(content=manifest.content, measurements=tuple(found)))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, default=200)
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--work")
    parser.add_argument("--out", default="benchmarks/results/page.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(args.work or folder)
        out = made_set(work, args.classes, args.ipc)
        began = time.perf_counter()
        page = ddkit.report(out, work / "page.html")
        found: dict[str, Any] = {
            "classes": args.classes, "ipc": args.ipc, "bytes": page.stat().st_size,
            "written_s": round(time.perf_counter() - began, 2), "hardware": hardware(pick_device("cpu")),
        }  # fmt: skip

        async def visit(shown: chromium.Page) -> None:
            timing = "performance.getEntriesByType('navigation')[0]"
            found["open_s"] = round(await shown.run(f"{timing}.loadEventEnd - {timing}.startTime") / 1000, 2)
            gaps = await shown.run(FRAMES)
            found["frame_ms"] = {name: round(float(np.percentile(gaps[5:], q)), 1) for name, q in
                                 (("median", 50), ("p95", 95), ("max", 100))}  # fmt: skip
            found["messages"] = shown.messages

        chromium.browse(page.absolute().as_uri(), work / "profile", visit)
    write_bytes(Path(args.out), (json.dumps(found, indent=1) + "\n").encode())
    note(json.dumps(found))


if __name__ == "__main__":
    main()
