"""Time, memory and bytes of a set of ImageNet-21K-P's shape on its way to its user, from 1,000 to 10,450 classes.

    python benchmarks/growth.py [--classes 1000,2000,4000,10450] [--ipc 2] [--views 20] [--codec lowrank:32:i4+top5]

Each step runs in a fork of this process, which has imported everything and done nothing else, so that the step's own
peak memory is known. `images`, `labels`, `fit`, `pack` and `finish` are the parts of one `distill`; the set is then
verified, pushed to a Hub on loopback, read from there row by row by stock `load_dataset` (`load`, and `stream` with
streaming=True), opened by `ReplayLoader`, and replayed for one `epoch`.

The images are generated, 32 pixels wide, with the names of ImageNet-21K's classes. The logits are generated too, in
place of a teacher's: products of embeddings of views and classes, the class's own raised, and noise; their units take
2 bytes for each class, view and image until the set is finished. Writes growth.json and growth.png into
benchmarks/results, with the exponent e of the power law rows**e that fits best: 1 for what grows linearly.

The time of `labels`, `fit`, `pack` and `epoch` cannot be linear: each of their rows has a logit for every class.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import loopback

HUB, FOLDER = loopback.Hub(), tempfile.TemporaryDirectory(prefix="growth-")  # before the Hub's client is imported
os.environ |= {"HF_ENDPOINT": HUB.url, "HF_HOME": FOLDER.name, "HF_TOKEN": "write-token", "HF_HUB_DISABLE_XET": "1"}
os.environ["DDKIT_CACHE"] = str(Path(FOLDER.name) / "ddkit")

import datasets  # noqa: E402
import matplotlib  # noqa: E402

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402

import ddkit  # noqa: E402
from ddkit.core.console import note  # noqa: E402
from ddkit.core.device import hardware, peak_memory, versions  # noqa: E402
from ddkit.format.codecs.interface import centred  # noqa: E402
from ddkit.format.manifest_file import read_manifest  # noqa: E402
from ddkit.labelling.encoded import load_encoded  # noqa: E402
from ddkit.labelling.labels import LabelGroup  # noqa: E402
from ddkit.networks.checkpoints import save_checkpoint  # noqa: E402
from ddkit.networks.registry import build_network  # noqa: E402
from ddkit.pipeline import distilling  # noqa: E402
from ddkit.replay.loader import ReplayLoader  # noqa: E402
from ddkit.specs import TeacherSpec  # noqa: E402

FORK = multiprocessing.get_context("fork")
UNITS = {"images": "encoding", "labels": "labelling", "fit": "fitting labels", "pack": "packing", "finish": None}
STEPS = ("source", *UNITS, "verify", "push", "load", "stream", "open", "epoch")
SHOWN = STEPS[1:]
ARCH, SIZE, RANK, BATCH = "timm:test_efficientnet", 32, 64, 128
CPU = torch.device("cpu")

# ------------------------------------------------------------------ what is distilled


def class_names(classes: int) -> list[str]:
    """Names of ImageNet-21K's classes, as far as there are any."""
    from timm.data import ImageNetInfo

    info = ImageNetInfo("imagenet21k")
    described = (f"{info.index_to_label_name(i)}_{info.index_to_description(i)}" for i in range(classes))
    return [name.replace("/", " ").strip()[:120] for name in described]


def images_of(label: int, ipc: int) -> list[np.ndarray]:
    """Images of a class, uint8 [SIZE,SIZE,3]: coarse colours of the class, and others of the image."""
    rng = np.random.default_rng(label)
    own = rng.integers(0, 256, (4, 4, 3))
    mixed = [0.7 * own + 0.3 * rng.integers(0, 256, (4, 4, 3)) for _ in range(ipc)]
    resized = (Image.fromarray(x.astype(np.uint8)).resize((SIZE, SIZE), Image.Resampling.BICUBIC) for x in mixed)
    return [np.asarray(image) for image in resized]


def write_source(classes: int, work: Path, args: argparse.Namespace) -> None:
    """Write the images, in class folders, and a teacher that is never run."""
    names = class_names(classes)
    for label, name in enumerate(names):
        (folder := work / "images" / name).mkdir(parents=True)
        for number, image in enumerate(images_of(label, args.ipc + 1)):  # one of each class is held out for measuring
            Image.fromarray(image).save(folder / f"{number}.png")
    spec = TeacherSpec(
        arch=ARCH, num_classes=classes, image_size=SIZE, mean=(0.5,) * 3, std=(0.25,) * 3, classes=tuple(names)
    )
    save_checkpoint(work / "teacher.safetensors", build_network(ARCH, classes, SIZE), spec)


def write_logits(groups: Sequence[LabelGroup], classes: int) -> None:
    """Write the results of labelling units, with generated logits."""
    rng = np.random.default_rng(0)
    embedding = rng.standard_normal((classes, RANK), np.float32) / np.sqrt(RANK)
    noise = 0.5 * rng.standard_normal((64, classes), np.float32)
    for job in (job for group in groups for job in group.jobs):
        label = load_encoded(job.how.store, job.shard).labels[job.start : job.stop].repeat(job.count)
        views = 2 * embedding[label] + rng.standard_normal((len(label), RANK), np.float32)
        logits = views @ embedding.T
        logits[np.arange(len(label)), label] += 3
        logits += np.resize(np.roll(noise, int(rng.integers(classes)), axis=1), logits.shape)
        logits = centred(2 * logits).astype(np.float16).reshape(-1, job.count, classes)
        job.file.write({"logits": logits, "fidelity": np.zeros(5)}, {"seconds": 0.0})


# ------------------------------------------------------------------ the steps


class Reached(Exception):
    """The units to be measured are done."""


def now() -> np.ndarray:
    """Seconds on the clock, and of this process on processors, which other work on the machine changes less."""
    return np.array([time.perf_counter(), time.process_time()])


def distil(classes: int, work: Path, args: argparse.Namespace, last: str | None) -> np.ndarray:
    """Run `distill` up to the units titled `last`, or to its end; returns what those units took, or the end."""
    run_units, began, ended = distilling.run_units, now(), now()

    def timed(units: Any, engine: Any) -> None:
        nonlocal began, ended
        began = now()
        if units.title == UNITS["labels"]:
            write_logits(units.jobs, classes)
        else:
            run_units(units, engine)
        ended = now()
        if units.title == last:
            raise Reached

    distilling.run_units = timed
    try:
        ddkit.distill(
            work / "set", data=str(work / "images"), teacher=str(work / "teacher.safetensors"), method="random",
            ipc=args.ipc, views=args.views, codec=args.codec, protocol="common", workers=1, yes=True,
        )  # fmt: skip
    except Reached:
        return ended - began
    return now() - ended


def step(name: str, classes: int, work: Path, args: argparse.Namespace) -> dict[str, float]:
    """Run one step in this process; returns its times, and the peak memory, in all and above that before the step."""
    repo, rows = f"lab/growth-{classes}", classes * args.ipc

    def load(streaming: bool) -> int:
        return sum(1 for _ in datasets.load_dataset(repo, split="train", streaming=streaming))

    def opened() -> ReplayLoader:
        return ReplayLoader(work / "set", batch_size=BATCH, device="cpu")

    steps: dict[str, Callable[[], Any]] = {
        "source": lambda: write_source(classes, work, args),
        "verify": lambda: ddkit.verify(work / "set", full=True),
        "push": lambda: ddkit.push(work / "set", repo, license="mit"),
        "load": lambda: load(streaming=False),
        "stream": lambda: load(streaming=True),
        "open": opened,
        "epoch": lambda: sum(len(images) for images, _, _ in loader),
    }
    held = peak_memory(CPU)
    loader = opened() if name == "epoch" else ()
    began = now()
    if name in UNITS:
        took = distil(classes, work, args, UNITS[name])
    else:
        found, right = steps[name](), {"verify": [], "load": rows, "stream": rows, "epoch": rows}
        took = now() - began
        assert found == right.get(name, found), f"{name}: {found}"
    peak = peak_memory(CPU)
    return {"seconds": took[0], "processor_seconds": took[1], "peak_bytes": peak, "own_bytes": peak - held}


def forked(name: str, *arguments: Any) -> dict[str, float]:
    """Run a step in a fork of this process, and return what it returns."""
    receiving, sending = FORK.Pipe(duplex=False)
    process = FORK.Process(target=lambda: sending.send(step(name, *arguments)))
    process.start()
    sending.close()
    try:
        found: dict[str, float] = receiving.recv()
    except EOFError:
        sys.exit(f"the step {name} failed")
    process.join()
    return found


def measured(classes: int, args: argparse.Namespace) -> dict[str, Any]:
    """All steps for one number of classes, each in a process of its own."""
    work = Path(args.work) / str(classes)
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    found: dict[str, Any] = {}
    for name in STEPS:
        took = found[name] = forked(name, classes, work, args)
        note(
            f"{classes} classes, {name}: {took['seconds']:.2f} s ({took['processor_seconds']:.2f} s of a processor), "
            f"{took['peak_bytes'] / 1e6:.0f} MB, {took['own_bytes'] / 1e6:.0f} MB its own"
        )
    root, manifest = work / "set", read_manifest(work / "set")
    found |= {"rows": manifest.rows(), "set_bytes": manifest.total_bytes()}
    found |= {"manifest_bytes": (root / "ddkit.json").stat().st_size, "card_bytes": (root / "README.md").stat().st_size}
    found["fidelity"] = manifest.to_json()["labels"]["fidelity"]
    shutil.rmtree(work)
    return found


# ------------------------------------------------------------------ the report


def exponent(rows: list[int], values: list[float]) -> float | None:
    """The e for which rows**e fits best; None where a value is too small to tell."""
    return None if min(values) <= 0 or len(rows) < 2 else float(np.polyfit(np.log(rows), np.log(values), 1)[0])


def curves(report: dict[str, Any]) -> dict[str, dict[str, list[float]]]:
    """Processor seconds, MB of memory and MB on disk, as lists over the numbers of classes, by name."""
    sets = list(report["classes"].values())
    sizes = ("set_bytes", "manifest_bytes", "card_bytes")
    return {
        "processor seconds": {name: [x[name]["processor_seconds"] for x in sets] for name in SHOWN},
        "MB of memory": {name: [x[name]["own_bytes"] / 1e6 for x in sets] for name in SHOWN},
        "MB": {name.removesuffix("_bytes"): [x[name] / 1e6 for x in sets] for name in sizes},
    }


def table(report: dict[str, Any]) -> str:
    """The report as text: each step's seconds and memory by rows, and the exponents."""
    rows = [x["rows"] for x in report["classes"].values()]
    heads = ("exponent", "/1000 rows")  # the second: for each further 1,000 rows, without what every set takes
    lines = [f"{'rows':>26}" + "".join(f"{n:>10}" for n in rows) + "".join(f"{head:>11}" for head in heads)]
    for unit, by_name in curves(report).items():
        for name, values in by_name.items():
            e = report["exponents"][unit][name]
            cells = "".join(f"{value:10.2f}" for value in values) + (f"{e:11.2f}" if e is not None else f"{'–':>11}")
            cells += f"{1000 * (values[-1] - values[0]) / max(rows[-1] - rows[0], 1):11.3f}"
            lines.append(f"{f'{name}, {unit}':>26}{cells}")
    return "\n".join(lines)


def picture(report: dict[str, Any], path: Path) -> None:
    """Draw time, memory and bytes against rows, with a line of slope 1 for what grows linearly."""
    rows = np.array([x["rows"] for x in report["classes"].values()])
    figure, all_axes = plt.subplots(1, 3, figsize=(13, 5.2), layout="constrained")
    for axes, (unit, by_name) in zip(all_axes, curves(report).items()):
        largest = max(values[0] for values in by_name.values())
        axes.plot(rows, largest * rows / rows[0], "k:", label="linear")
        for number, (name, values) in enumerate(by_name.items()):
            e = report["exponents"][unit][name]
            label = name if e is None else f"{name}, exponent {e:.2f}"
            axes.plot(rows, np.maximum(values, 1e-3), marker="o.sv"[number % 4], label=label)
        axes.set(xscale="log", yscale="log", xlabel="rows", ylabel=unit)
        axes.set_xticks(rows, [f"{n:,}" for n in rows])
        axes.minorticks_off()
        axes.legend(fontsize=7, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.14))
    conditions = f"{report['ipc']} images per class of {SIZE} px, {report['views']} views, {report['codec']}"
    figure.suptitle(f"{conditions}: each step in a process of its own", fontsize=10)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def write(report: dict[str, Any], path: Path) -> None:
    """Add the exponents to the report, and write it and its picture."""
    report["classes"] = dict(sorted(report["classes"].items(), key=lambda item: int(item[0])))
    rows = [x["rows"] for x in report["classes"].values()]
    report["exponents"] = {
        unit: {name: exponent(rows, values) for name, values in by_name.items()}
        for unit, by_name in curves(report).items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n")
    picture(report, path.with_suffix(".png"))


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Measure what the report lacks, and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", default="1000,2000,4000,10450")
    parser.add_argument("--ipc", type=int, default=2)
    parser.add_argument("--views", type=int, default=20)
    parser.add_argument("--codec", default="lowrank:32:i4+top5")
    parser.add_argument("--work", default="scratch/growth")
    parser.add_argument("--out", default="benchmarks/results")
    args = parser.parse_args(argv)
    numbers = [int(number) for number in args.classes.split(",")]
    free, needed = shutil.disk_usage(".").free, 2 * max(numbers) ** 2 * args.ipc * args.views
    if free < 1.5 * needed:
        sys.exit(f"logits in half precision take {needed / 1e9:.1f} GB until they are packed; {free / 1e9:.1f} GB free")
    conditions = {
        "hardware": hardware(CPU), "versions": versions(), "codec": args.codec, "ipc": args.ipc, "views": args.views,
        "size": SIZE, "batch": BATCH, "threads": torch.get_num_threads(),
    }  # fmt: skip
    path = Path(args.out) / "growth.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    known = before["classes"] if all(before.get(key) == value for key, value in conditions.items()) else {}
    report = {"command": " ".join(["python benchmarks/growth.py", *(sys.argv[1:] if argv is None else argv)])}
    report |= conditions | {"classes": known}
    hub = FORK.Process(target=HUB.server.serve_forever, daemon=True)
    hub.start()
    for number in numbers:
        if str(number) not in known:
            report["classes"][str(number)] = measured(number, args)
        write(report, path)
    hub.terminate()
    return report


if __name__ == "__main__":
    print(table(main()))  # noqa: T201
