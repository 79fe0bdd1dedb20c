"""Views per second of replaying views with CutMix: ddkit's stores, the papers' loader, webdataset and timm, in turns.

    python benchmarks/replay.py [--data FOLDER --teacher FILE] [--size 224] [--busy 4] [--student resnet18]

Without --data 256 generated images are used, and without --teacher a network with random weights labels them: labels do
not affect speed. The set is made once, in --work. A round of a contender starts it, leaves out its first batches, and
counts views for --seconds. Contenders take turns, each round in another order, so a busy machine slows all of them; the
ratios are of the rounds with the same number. Rounds are measured quiet, and beside --busy processes that only spin.
Prints a table; writes benchmarks/results/replay-CPU.json and a picture beside it.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import loopback

HUB, FOLDER = loopback.Hub(), tempfile.TemporaryDirectory(prefix="replay-hub-")  # before the Hub's client is imported
os.environ |= {"HF_ENDPOINT": HUB.url, "HF_HOME": FOLDER.name, "HF_TOKEN": "write-token", "HF_HUB_DISABLE_XET": "1"}

import matplotlib  # noqa: E402

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from replay_contenders import STORES, Contender, ours, papers, plain_webdataset, timm_reader  # noqa: E402

import ddkit  # noqa: E402
from ddkit.core.device import hardware, pick_device, versions  # noqa: E402
from ddkit.format.manifest import Manifest  # noqa: E402
from ddkit.networks.checkpoints import save_checkpoint  # noqa: E402
from ddkit.networks.registry import build_network  # noqa: E402
from ddkit.networks.training import seeded_network  # noqa: E402
from ddkit.sources.images import open_source  # noqa: E402
from ddkit.specs import TeacherSpec  # noqa: E402

WARM_UP = 4  # batches left out at the start of a round: as many as the workers of a DataLoader prefetch
LABELLER = "timm:test_efficientnet"  # small: it only has to give some logits


# ---------------------------------------------------------------- the set


def generated(folder: Path, images: int, size: int) -> Path:
    """Write a folder of images with detail at every scale, one per class, if it is not there."""
    for label in range(len(list(folder.glob("*"))), images):
        rng = np.random.default_rng(label)
        pixels = np.full((size, size, 3), 128.0)
        for cells in (3, 9, 27, 81, size):
            noise = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
            pixels += (np.asarray(noise.resize((size, size), Image.Resampling.BICUBIC)) - 128.0) / cells**0.5
        path = folder / f"{label:04d}" / "0.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=90)
    return folder


def random_teacher(path: Path, data: str, size: int) -> Path:
    """Write a small network with random weights for the classes of a source."""
    names = tuple(open_source(data).class_names)
    spec = TeacherSpec(
        arch=LABELLER, num_classes=len(names), image_size=size, mean=(0.5,) * 3, std=(0.5,) * 3, classes=names
    )
    save_checkpoint(path, seeded_network(lambda: build_network(LABELLER, len(names), size), 0, "replay"), spec)
    return path


def made_set(args: argparse.Namespace) -> Manifest:
    """The set, made in the work folder by the first run."""
    work = Path(args.work)
    work.mkdir(parents=True, exist_ok=True)
    data = args.data or str(generated(work / f"images-{args.images}", args.images, args.size + 32))
    teacher = args.teacher or str(random_teacher(work / "teacher.safetensors", data, args.size))
    return ddkit.distill(
        work / "set", data=data, teacher=teacher, method="random", ipc=1, size=args.size, views=args.views,
        protocol="common", yes=True,
    )  # fmt: skip


def published(manifest: Manifest) -> str:
    """Publish a copy of the set to a Hub on loopback; return its id."""
    HUB.start()
    ddkit.push(shutil.copytree(manifest.root, Path(FOLDER.name) / "set"), "lab/replay", license="mit")
    return "lab/replay"


# ---------------------------------------------------------------- measuring


@contextlib.contextmanager
def busy(processes: int) -> Iterator[None]:
    """Run the block beside processes that only spin."""
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def views_per_second(contender: Contender, seconds: float) -> float:
    """The rate of one round."""
    with closing(contender.batches()) as batches:
        for _ in itertools.islice(batches, WARM_UP):
            pass
        views, began = 0, time.perf_counter()
        for images, _ in batches:
            views += len(images)
            if (elapsed := time.perf_counter() - began) >= seconds:
                return views / elapsed
    raise AssertionError(f"{contender.name} ended")


def rounds_of(contenders: Sequence[Contender], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Views per second of every round, by name; contenders take turns."""
    rates: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    for number in range(rounds):
        turn = number % len(contenders)
        for contender in (*contenders[turn:], *contenders[:turn]):
            rates[contender.name].append(views_per_second(contender, seconds))
    return rates


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, lowest and highest value."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def summary(rates: dict[str, list[float]]) -> dict[str, Any]:
    """Rates, and ratios to the papers' loader and to webdataset in the same rounds, by name."""
    return {
        name: {"views_per_second": spread(mine)}
        | {
            f"ratio_to_{other}": spread([a / b for a, b in zip(mine, rates[other])])
            for other in ("papers", "webdataset")
        }
        for name, mine in rates.items()
    }


def student_waits(contender: Contender, network: torch.nn.Module, steps: int) -> dict[str, float]:
    """The share of its time that a training waits for the next batch, after one step that is left out."""
    optimiser = torch.optim.SGD(network.parameters(), 0.01)
    waited = trained = 0.0
    with closing(contender.batches()) as batches:
        for step in range(steps + 1):
            began = time.perf_counter()
            images, logits = next(batches)
            got = time.perf_counter()
            optimiser.zero_grad()
            ddkit.soft_label_loss(network(images), logits, temperature=20).backward()
            optimiser.step()
            if step:
                waited, trained = waited + got - began, trained + time.perf_counter() - got
    return {"share": waited / (waited + trained), "seconds_per_step": (waited + trained) / steps}


# ---------------------------------------------------------------- the report


def table(report: dict[str, Any]) -> str:
    """The report as text."""
    lines = [f"{name}: {job}" for name, job in report["jobs"].items()]
    lines += [f"{name}: not measured ({why})" for name, why in report["not_measured"].items()]
    for condition, rows in report["rates"].items():
        lines += ["", f"{condition}: views per second, and ratio to the papers' loader (low to high of the rounds)"]
        for name, row in rows.items():
            rate, ratio = row["views_per_second"], row["ratio_to_papers"]
            lines.append(
                f"  {name:16} {rate['median']:7.0f} ({rate['low']:.0f} to {rate['high']:.0f})"
                f"  {ratio['median']:5.2f}x ({ratio['low']:.2f} to {ratio['high']:.2f})"
            )
    for name, row in report["student"].items():
        share, step = 100 * row["share"], row["seconds_per_step"]
        lines.append(f"student waits for {name}: {share:.1f} % of {step:.2f} s per step")
    return "\n".join(lines)


def picture(report: dict[str, Any], path: Path) -> None:
    """Draw views per second of every contender and condition."""
    conditions, names = list(report["rates"]), list(report["jobs"])
    figure, axes = plt.subplots(figsize=(6.4, 0.5 + 0.45 * len(names) * len(conditions)), layout="constrained")
    height = 0.8 / len(conditions)
    for number, condition in enumerate(conditions):
        rates = [report["rates"][condition][name]["views_per_second"] for name in names]
        places = [i + number * height for i in range(len(names))]
        middle = [rate["median"] for rate in rates]
        errors = [[r["median"] - r["low"] for r in rates], [r["high"] - r["median"] for r in rates]]
        axes.barh(places, middle, height * 0.9, xerr=errors, label=condition)
        for place, name, rate in zip(places, names, rates):
            ratio = report["rates"][condition][name]["ratio_to_papers"]["median"]
            axes.text(rate["high"], place, f" {rate['median']:.0f} ({ratio:.2f}×)", va="center", fontsize=8)
    axes.set_yticks([i + 0.4 - height / 2 for i in range(len(names))], names)
    axes.invert_yaxis()
    axes.margins(x=0.2)
    axes.set_xlabel(f"views of {report['size']} px per second (ratio to the papers' loader); {report['hardware']}")
    axes.xaxis.label.set_fontsize(8)
    figure.legend(loc="outside upper center", ncols=len(conditions))
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Measure and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="source of the images; default: generated")
    parser.add_argument("--teacher", help="labels the views; default: a small network with random weights")
    parser.add_argument("--images", type=int, default=256, help="generated images")
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--busy", type=int, default=4, help="processes beside which it is measured too; 0: quiet only")
    parser.add_argument("--student", default="resnet18", help="network whose waiting is measured; none: not measured")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--work", default="scratch/replay")
    parser.add_argument("--out", default="benchmarks/results")
    args = parser.parse_args(argv)
    manifest, device = made_set(args), pick_device("cpu")
    work = Path(args.work) / f"copies-{manifest.content[:12]}"
    repo = published(manifest) if STORES else None
    mine, missing = ours(manifest, args.batch, repo)
    contenders = [
        *mine, papers(manifest, work, args.batch), plain_webdataset(manifest, work, args.batch),
        timm_reader(manifest, work, args.batch),
    ]  # fmt: skip
    report: dict[str, Any] = {
        "command": " ".join(["python benchmarks/replay.py", *(sys.argv[1:] if argv is None else argv)]),
        "hardware": hardware(device), "versions": versions(), "load_before": os.getloadavg()[0],
        "size": manifest.views.size, "rows": manifest.rows(), "views": manifest.views.count, "batch": args.batch,
        "classes": len(manifest.classes), "rounds": args.rounds, "seconds": args.seconds,
        "jobs": {contender.name: contender.job for contender in contenders}, "not_measured": missing,
        "rates": {"quiet": summary(rounds_of(contenders, args.rounds, args.seconds))}, "student": {},
    }  # fmt: skip
    if args.busy:
        with busy(args.busy):
            beside = summary(rounds_of(contenders, args.rounds, args.seconds))
        report["rates"][f"beside {args.busy} busy processes"] = beside
    if args.student != "none":
        small, _ = ours(manifest, args.batch // 2, repo)
        network = build_network(args.student, len(manifest.classes), manifest.views.size)
        for contender in (*small, papers(manifest, work, args.batch // 2)):
            report["student"][contender.name] = student_waits(contender, network, args.steps)
    name = re.sub(r"[^a-z0-9]+", "-", report["hardware"].lower()).strip("-")
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / f"replay-{name}.json").write_text(json.dumps(report, indent=2, sort_keys=True) + "\n")
    picture(report, out / f"replay-{name}.png")
    return report


if __name__ == "__main__":
    print(table(main()))  # noqa: T201
