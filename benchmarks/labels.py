"""What labels are worth: accuracy against bytes over codecs and view counts, from paired students on one set.

    python benchmarks/labels.py --data TINYIMAGENET100_FOLDER --teacher CONVNET3.safetensors [--work DIR]
        [--variants fp16@300,lowrank:32:i4+top1@100,...] [--runs 10] [--ipc 2] [--epochs 300]

Makes a set of random images with half-precision labels of 300 views, then the same set with other codecs and other
numbers of views (CODEC@VIEWS; LPLD's random pruning is fp16 with fewer views, `renorm:K` is FKD's cut, fkd_codec.py),
and trains the same students on each: equal initialisation, order of rows and views; those of `renorm` and `sampled`,
which are for it alone, at temperature 1. A student of fewer epochs than
views sees only the first of them. Writes the accuracies, the bytes, and each variant's paired difference to the first
one with its 95 % interval to --out, and a picture beside it. Finished students are loaded, not trained again.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))  # a bare machine has the checkout, and nothing to install it with
sys.path.insert(0, str(Path(__file__).parent))

import fkd_codec
import torch

import ddkit
from ddkit.core.console import note, size_words
from ddkit.core.device import versions
from ddkit.core.files import write_bytes
from ddkit.core.serialization import to_plain
from ddkit.evaluation.statistics import mean_std, paired_difference
from ddkit.format.codecs.registry import find_codec
from ddkit.format.manifest import Manifest

VARIANTS = (
    *("fp16@300", "fp16@1000", "fp16@100", "fp16@50", "fp16@20", "int8@300", "topk:10@300", "topk:5@300"),
    *("renorm:10@300", "renorm:5@300", "sampled:20@300", "lowrank:8+top2@300", "lowrank:16:i4+top2@300"),
    *("lowrank:48:i4+top2@100", "lowrank:32:i4+top1@100", "lowrank:32:i4+top1@50", "teacher@300", "teacher@47"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--work", default="scratch/labels", help="sets and students, kept for the next run")
    parser.add_argument("--out", default="benchmarks/results/labels.json")
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--ipc", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=None, help="default: the protocol's")
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--protocol", default=str(Path(__file__).parent / "labels-study.toml"))
    parser.add_argument("--workers", type=int, default=None)
    args = parser.parse_args()
    fkd_codec.register()
    work, table = Path(args.work), dict[str, Any]()
    views = int(args.variants.split(",")[0].split("@")[1])
    base = ddkit.distill(
        work / "base", data=args.data, teacher=args.teacher, method="random", ipc=args.ipc, codec="fp16",
        protocol=args.protocol, views=views, yes=True, **place("", args.workers),
    )  # fmt: skip
    for name in args.variants.split(","):
        made = variant(base, name, work, args)
        (result,) = ddkit.evaluate(
            made.root, val=args.data, epochs=args.epochs, runs=args.runs, baseline=None, command="benchmarks/labels.py",
            **place(name, args.workers),
        )  # fmt: skip
        values = [value for one in result.values or () for value in one]
        table[name] = row(made, values)
        table[name] |= compared(table, name)
        conditions = {key: getattr(args, key) for key in ("ipc", "epochs", "runs")}
        conditions |= {"protocol": Path(args.protocol).stem, "data": Path(args.data).name}
        head = conditions | {"hardware": result.hardware, "val": result.val, "versions": versions()}
        write_bytes(Path(args.out), (json.dumps(head | {"rows": table}, indent=1) + "\n").encode())
        picture(table, Path(args.out).with_suffix(".png"))
        note(f"{name}: {json.dumps(table[name])}")


def variant(base: Manifest, name: str, work: Path, args: argparse.Namespace) -> Manifest:
    """Return the set `base` with another codec and view count, CODEC@VIEWS."""
    codec, views = name.split("@")
    if (codec, int(views)) == (base.labels.codec, base.views.count):
        return base
    out = work / name.replace(":", "-").replace("@", "-")
    where = place(name, args.workers)
    return ddkit.relabel(base.root, out, teacher=args.teacher, codec=codec, views=int(views), **where)


def place(name: str, workers: int | None) -> dict[str, Any]:
    """Return where a variant is computed: on one GPU, or on a CPU; a codec of this folder is known in this process."""
    alone = name.startswith(fkd_codec.NAME)
    return {"device": "cuda:0"} if torch.cuda.is_available() else {"device": "cpu", "workers": 1 if alone else workers}


def row(made: Manifest, values: list[float]) -> dict[str, Any]:
    """Return bytes, fidelity and accuracies of one variant."""
    codec, classes = find_codec(made.labels.codec), len(made.classes)
    labels = made.rows() * made.views.count * codec.bytes_per_view(classes)
    labels += made.labels.file.bytes if made.labels.file else 0
    mean, std = mean_std(values)
    return {
        "label_bytes": labels, "set_bytes": made.total_bytes(), "fidelity": to_plain(made.labels.fidelity),
        "values": values, "mean": round(mean, 2), "std": round(std, 2),
    }  # fmt: skip


def compared(table: dict[str, Any], name: str) -> dict[str, Any]:
    """Return how much smaller a variant is than the first one, and the paired difference of its students."""
    first = next(iter(table.values()))
    mine = table[name]
    found = paired_difference([mine["values"]], [first["values"]]) if mine is not first else None
    return {
        "labels_smaller": round(first["label_bytes"] / max(mine["label_bytes"], 1), 2),
        "set_smaller": round(first["set_bytes"] / mine["set_bytes"], 2),
        "difference": None if found is None else [found.mean, found.low, found.high],
    }


def picture(table: dict[str, Any], path: Path) -> None:
    """Draw accuracy against label bytes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for name, one in table.items():
        axes.errorbar(one["label_bytes"], one["mean"], yerr=one["std"], fmt="o", capsize=3)
        axes.annotate(name, (one["label_bytes"], one["mean"]), textcoords="offset points", xytext=(5, 4), fontsize=7)
    axes.set_xscale("log")
    axes.set_xlabel(f"bytes of labels (all rows; {size_words(max(r['label_bytes'] for r in table.values()))} at most)")
    axes.set_ylabel("top-1 accuracy, % (mean ± std of paired students)")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
