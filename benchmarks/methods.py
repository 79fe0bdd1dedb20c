"""Every method on CIFAR-10 at IPC 10 under one student budget: one table, resumed row by row.

    python benchmarks/methods.py --data CIFAR10_FOLDER --teacher CONVNET3.safetensors [--work DIR] [--rows cudd,random]

Protocol `cudd` at 600 epochs, ConvNet-3, three students of each set; four sets of `random`, `cudd` and `cudd-plus`.
Writes benchmarks/results/methods-cifar10.json after every row; a row that has its sets is not measured again. At the
end it prints every row with the means of its sets, its difference to random, and CUDD-plus minus CUDD.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import ddkit
from ddkit.core.console import note
from ddkit.core.device import versions
from ddkit.core.files import write_bytes
from ddkit.core.serialization import to_plain
from ddkit.evaluation.statistics import paired_difference

# name -> (method, recipe or None where it has none for CIFAR-10, seeds of its sets)
ROWS: dict[str, tuple[str, str | None, tuple[int, ...]]] = {
    "random": ("random", None, (0, 1, 2, 3)),
    "herding": ("herding", None, (0,)),
    "rded": ("rded", "rded-cifar10", (0,)),
    "sre2l": ("sre2l", "sre2l-cifar10", (0,)),
    "cda": ("cda", "cda-cifar10", (0,)),
    "cudd": ("cudd", "cudd-cifar10", (0, 1, 2, 3)),
    "cudd-plus": ("cudd", "cudd-plus-cifar10", (0, 1, 2, 3)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--work", default="scratch/methods", help="sets and students, kept for the next run")
    parser.add_argument("--out", default="benchmarks/results/methods-cifar10.json")
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=600)
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    out = Path(args.out)
    table: dict[str, Any] = json.loads(out.read_text())["rows"] if out.is_file() else {}
    for name in args.rows.split(","):
        method, recipe, seeds = ROWS[name]
        if name in table and table[name]["n_sets"] >= len(seeds):
            continue
        sets = [Path(args.work) / f"{name}-{seed}" for seed in seeds]
        manifests = [
            ddkit.distill(
                one, data=args.data, teacher=args.teacher, method=method, recipe=recipe, ipc=args.ipc, seed=seed,
                protocol="cudd", yes=True,
            )
            for one, seed in zip(sets, seeds)
        ]  # fmt: skip
        (result,) = ddkit.evaluate(
            sets, val=args.data, epochs=args.epochs, runs=args.runs, baseline=None, command="benchmarks/methods.py"
        )
        table[name] = to_plain(result) | {"cost": [to_plain(m.cost) for m in manifests]}
        _write(out, table, {"ipc": args.ipc, "epochs": args.epochs, "hardware": result.hardware})
        note(f"{name}: {result.mean:.2f} ± {result.std:.2f} % ({result.n_sets} sets, {result.n_students} students)")
    for name, row in table.items():
        sets = " ".join(f"{mean:.1f}" for mean in _set_means(row))
        note(f"{name:10} {row['mean']:.2f} ± {row['std']:.2f} (sets {sets}) {_words(row.get('difference'))}")
    if all(table.get(name, {"n_sets": 1})["n_sets"] > 1 for name in ("cudd", "random")):
        from scipy.stats import ttest_ind

        two = _set_means(table["cudd"]), _set_means(table["random"])
        interval = ttest_ind(*two, equal_var=False).confidence_interval(0.95)
        note(f"cudd minus random, unpaired set means (Welch) [{interval.low:+.2f}, {interval.high:+.2f}]")
    if {"cudd", "cudd-plus"} <= table.keys():
        difference = paired_difference(table["cudd-plus"]["values"], table["cudd"]["values"])
        note(f"cudd-plus minus cudd {_words(to_plain(difference))}")


def _set_means(row: dict[str, Any]) -> list[float]:
    return [sum(students) / len(students) for students in row["values"]]


def _words(difference: dict[str, Any] | None) -> str:
    if difference is None:
        return ""
    return "{mean:+.2f} [{low:+.2f}, {high:+.2f}], {pairs} pairs".format(**difference)


def _write(out: Path, table: dict[str, Any], conditions: dict[str, Any]) -> None:
    """The table so far, every row with its paired difference to `random` where that is measured."""
    if "random" in table:
        random = table["random"]["values"]
        for name, row in table.items():
            row["difference"] = None if name == "random" else to_plain(paired_difference(row["values"], random))
    text = json.dumps({"conditions": conditions | {"versions": versions()}, "rows": table}, indent=2, sort_keys=True)
    write_bytes(out, (text + "\n").encode())


if __name__ == "__main__":
    main()
