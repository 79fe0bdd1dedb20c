"""Accuracy against total bytes: sets of several methods and sizes beside all baselines, as one picture.

    python benchmarks/bytes.py                        # digits: a few minutes on 2 cores
    python benchmarks/bytes.py --data CIFAR10_FOLDER --teacher CONVNET3.safetensors --ipc 1,10,50 --runs 3

Makes a set of each method and IPC with the views of protocol `common`, evaluates it with all baselines, and writes
benchmarks/results/bytes-NAME.json and .png after every set. Points of other sets that stand there, under the same
conditions, are kept. Sets, baselines and students stay in --work, so a stopped run continues where it stood. Students
follow `common` with --epochs and at least --steps steps, the baselines like the sets: twice the images are twice the
steps of an epoch.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))  # a bare machine has the checkout, and nothing to install it with

import ddkit
from ddkit.core.console import note, size_words
from ddkit.core.device import versions
from ddkit.core.files import write_bytes
from ddkit.core.serialization import to_plain
from ddkit.evaluation.baselines import BASELINES
from ddkit.format.results import BASELINE_NAMES, ResultEntry, baseline_entry
from ddkit.publishing.pictures import new_figure, save_figure
from ddkit.publishing.verdicts import short_name, verdicts
from ddkit.specs import Protocol

LINES = {"hard": "s--", "labeller": "^:"}  # of baselines with the images of a set; its colour is that of its method
COLOURS = ("#3b6fb6", "#d1663a", "#8d5bb5", "#b63b64", "#6f7683")
RANDOM = {"equal-bytes hard": "#1f2430", "equal-bytes stored": "#8a90a0", "random": "#3f9b63"}  # colours


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="digits")
    parser.add_argument("--teacher", default="train:convnet3")
    parser.add_argument("--methods", default="random,rded")
    parser.add_argument("--ipc", default="1,10")
    parser.add_argument("--views", type=int, default=60, help="stored views per image")
    parser.add_argument("--codec", default="fp16")
    parser.add_argument("--runs", type=int, default=2, help="students a row")
    parser.add_argument("--epochs", type=int, default=10, help="of a student, at least")
    parser.add_argument("--steps", type=int, default=200, help="of a student, at least")
    parser.add_argument("--flip", type=float, help="probability of a flip (default: common's; 0 for digits)")
    parser.add_argument("--work", default="scratch/bytes", help="sets and students, kept for the next run")
    parser.add_argument("--out", help="default benchmarks/results/bytes-NAME.json")
    args = parser.parse_args(arguments)
    name = Path(args.data).name
    out = Path(args.out or f"benchmarks/results/bytes-{name}.json")
    common = Protocol.load("common")
    flip = args.flip if args.flip is not None else 0.0 if args.data == "digits" else common.views["flip"]
    protocol = replace(
        common, name=f"common-{args.epochs}-{args.steps}-{flip:g}", views=common.views | {"flip": flip},
        train=common.train | {"epochs": args.epochs, "min_steps": args.steps},
    )  # fmt: skip
    conditions = {key: getattr(args, key) for key in ("views", "codec", "runs", "epochs", "steps", "flip")}
    conditions |= {"data": name, "teacher": Path(args.teacher).name, "protocol": to_plain(protocol)}
    points = _kept(out, conditions, args.methods.split(","), set(map(int, args.ipc.split(","))))
    for method in args.methods.split(","):
        for ipc in map(int, args.ipc.split(",")):
            made = Path(args.work) / f"{name}-{method}-{ipc}-{args.views}-{args.codec}-{protocol.name}".replace(
                ":", "-"
            )
            ddkit.distill(
                made, data=args.data, teacher=args.teacher, method=method, ipc=ipc, protocol=protocol,
                views=args.views, codec=args.codec, yes=True,
            )  # fmt: skip
            report = ddkit.evaluate(
                made, val=args.data, runs=args.runs, baseline=list(BASELINES), command="benchmarks/bytes.py"
            )
            points += _points(method, report)
            for line in verdicts(report[0], report):
                note(f"{method}, {ipc} images per class: {line}")
            text = json.dumps({"conditions": conditions | {"versions": versions()}, "points": points}, indent=2)
            write_bytes(out, (text + "\n").encode())
            draw(points, out.with_suffix(".png"), f"{name}: {args.runs} students of {report[0].arch} a point")
    for point in sorted(points, key=lambda p: (p["bytes"], p["mean"])):
        note(f"{size_words(point['bytes']):>10}  {point['mean']:6.2f} ± {point['std']:.2f}  {_title(point)}")
    note(f"{out}, {out.with_suffix('.png')}")


def _kept(out: Path, conditions: dict[str, Any], methods: Sequence[str], ipcs: set[int]) -> list[dict[str, Any]]:
    """The points of `out` that are of other methods or sizes, if its conditions are the same."""
    if not out.is_file():
        return []
    found = json.loads(out.read_text())
    if {key: found["conditions"].get(key) for key in conditions} != conditions:
        return []
    return [point for point in found["points"] if point["method"] not in methods or point["ipc"] not in ipcs]


def _points(method: str, report: Sequence[ResultEntry]) -> Iterable[dict[str, Any]]:
    """One point for each entry of a report. baseline: its name, or None for the set."""
    ours = report[0]
    names = {id(baseline_entry(ours, name, report)): name for name in BASELINE_NAMES}
    for entry in report:
        difference = next((d for d in ours.compared() if d.to == names.get(id(entry))), None)
        yield {
            "method": method, "ipc": entry.ipc, "baseline": names.get(id(entry)), "bytes": entry.total_bytes,
            "images": entry.images, "mean": entry.mean, "std": entry.std, "values": entry.values,
            "seconds": entry.seconds, "hardware": entry.hardware, "set_minus_it": to_plain(difference),
        }  # fmt: skip


def _title(point: dict[str, Any]) -> str:
    what = "" if point["baseline"] is None else f", {short_name(point['baseline'])}"
    return f"{point['method']}, {point['ipc']} images per class{what} ({point['images']} images)"


def draw(points: Sequence[dict[str, Any]], path: Path, title: str) -> None:
    """Draw accuracy against bytes, on a logarithmic axis; error bars are one standard deviation.

    A line joins the sizes of one method with one kind of labels. Random real images of equal bytes are one line each
    for hard and for soft labels, whichever set they were made for.

    Args:
        points: The points.
        path: The PNG to write.
        title: Of the picture.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    lines: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    methods = list(dict.fromkeys(point["method"] for point in points if point["method"] != "random"))
    colours = dict(zip(methods, COLOURS * len(methods))) | {"random": RANDOM["random"]}
    for point in points:
        baseline, method = point["baseline"], point["method"]
        if baseline in (None, "random"):
            key = (f"{'random' if baseline else method}, stored soft labels", colours[baseline or method], "o-")
        elif baseline in RANDOM:
            key = (short_name(baseline), RANDOM[baseline], "D-")
        else:
            key = (f"{method}, {short_name(baseline)}", colours[method], LINES[baseline])
        lines.setdefault(key, []).append(point)
    figure = new_figure(9, 5.2)
    axes = figure.subplots()
    for (label, colour, style), mine in lines.items():
        different = {(point["bytes"], point["mean"]): point for point in sorted(mine, key=lambda p: p["bytes"])}
        x, y = [p["bytes"] for p in different.values()], [p["mean"] for p in different.values()]
        spread = [p["std"] for p in different.values()]
        axes.errorbar(x, y, spread, fmt=style, label=label, color=colour, markersize=4, capsize=2)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: size_words(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("bytes that have to be shipped: images, soft labels, teacher")
    axes.set_ylabel("accuracy, %")
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.25, which="both")
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    save_figure(figure, path)


if __name__ == "__main__":
    main()
