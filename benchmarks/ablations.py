"""CUDD's and CDA's ablations on CIFAR-10 at IPC 10 (or --ipc), resumed row by row: does the order agree with the paper?

    python benchmarks/ablations.py --data CIFAR10_FOLDER --teacher CONVNET3.safetensors [--rows full,no-adv,…]

Every row is one set (or --sets) with three students; protocol `cudd`, --epochs 600. A claim is that one row is better
than another; the verdict is agree, disagree, or undecided where the 95 % interval of the paired difference holds 0, or,
with fewer than three sets, where the difference is below what two sets of one method differ by.
Writes benchmarks/results/ablations-cifar10-ipc10.json after every row.
"""

from __future__ import annotations

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

Row = tuple[str, dict[str, Any], tuple[int, ...] | None]

# name -> (method, settings beside the recipe's, prefixes or None for the method's own)
ROWS: dict[str, Row] = {
    "full": ("cudd", {}, None),
    "no-adv": ("cudd", {"adv.weight": 0.0}, None),
    "no-reg": ("cudd", {"reg.weight": 0.0}, None),
    "no-adv-no-reg": ("cudd", {"adv.weight": 0.0, "reg.weight": 0.0}, None),
    "reg-feature": ("cudd", {"reg.space": "feature"}, None),
    "noise-adv": ("cudd", {"init": "noise", "reg.weight": 0.0}, None),
    "sre2l": ("sre2l", {"crop.min": 0.08, "crop.flip": 0.5}, None),
    "sre2l-init": ("sre2l", {"init": "real", "crop.min": 0.08, "crop.flip": 0.5}, None),
    "no-mask": ("cudd", {"adv.mask": "none"}, None),
    # of three stages, because the first student of any curriculum starts anew
    "three-stages-scratch": ("cudd", {"student.init": "scratch"}, (3, 6, 10)),
    "three-stages-scratch-double": ("cudd", {"student.init": "scratch", "student.scratch_epochs": 1000}, (3, 6, 10)),
    "cda-cosine": ("cda", {}, None),
    "cda-linear": ("cda", {"crop.curve": "linear"}, None),
    "cda-step": ("cda", {"crop.curve": "step", "crop.milestone": 0.5}, None),
    "cda-reverse": ("cda", {"crop.direction": "reverse"}, None),
    "cda-constant": ("cda", {"crop.direction": "constant"}, None),
    # nobody ran these: is it the stages, or the student?
    "one-stage": ("cudd", {}, (10,)),
    "one-stage-double-steps": ("cudd", {"steps": 2000}, (10,)),
    "two-stages-no-student": ("cudd", {"student.epochs": 0}, (5, 10)),  # teacher alone selects, no adversarial term
    "three-stages": ("cudd", {}, (3, 6, 10)),
    "five-stages": ("cudd", {}, (2, 4, 6, 8, 10)),
    "ten-stages": ("cudd", {}, tuple(range(1, 11))),
}
IPC40: dict[str, Row] = {  # Fig. 7, with --ipc 40
    "log": ("cudd", {"stages": "log"}, None),
    "uniform-5": ("cudd", {"stages": "uniform:5"}, None),
}
# (where it is claimed, the better row, the worse row, the paper's difference in points)
CLAIMS = (
    ("Table V, adv", "no-reg", "no-adv-no-reg", "+1.6 (R18, IN-1K)"),
    ("Table V, reg", "no-adv", "no-adv-no-reg", "+3.9 (R18, IN-1K)"),
    ("Table V, both over reg", "full", "no-adv", "+0.7 (R18, IN-1K)"),
    ("Table V, both over adv", "full", "no-reg", "+3.0 (R18, IN-1K)"),
    ("Table VI, pixel over feature", "full", "reg-feature", "+0.3 (R18, IN-1K)"),
    ("Table VII, init for SRe2L", "sre2l-init", "sre2l", "+1.5 (IN-1K)"),
    ("Table VII, CUDD from noise over SRe2L", "noise-adv", "sre2l", "+12.2 (IN-1K, other budgets)"),
    ("Table VII, init for CUDD", "no-reg", "noise-adv", "+2.5 (IN-1K)"),
    ("Table X, mask", "full", "no-mask", "+3.0 (C10, IPC 10)"),
    ("Fig. 8, warm over scratch", "three-stages", "three-stages-scratch", "above, of equal iterations"),
    ("Fig. 8, warm over scratch of twice the epochs", "three-stages", "three-stages-scratch-double", "about 0"),
    ("CDA, global-to-local over constant", "cda-cosine", "cda-constant", "above"),
    ("CDA, global-to-local over reverse", "cda-cosine", "cda-reverse", "above"),
    ("CDA, cosine over linear", "cda-cosine", "cda-linear", "above"),
    ("CDA, cosine over step", "cda-cosine", "cda-step", "above"),
    ("Control: two stages over one", "full", "one-stage", "not published"),
    ("Control: two stages over one of the same total steps", "full", "one-stage-double-steps", "not published"),
    ("Control: the student, stages being there", "full", "two-stages-no-student", "not published"),
    ("Control: three stages over two", "three-stages", "full", "not published"),
    ("Control: five stages over two", "five-stages", "full", "not published"),
    ("Control: ten stages over two", "ten-stages", "full", "not published"),
    ("Fig. 7, uniform over logarithmic", "uniform-5", "log", "+1.6 (C10, IPC 40)"),
)


SET_SPREAD = 4.2  # points by which two sets of one method differed (README.md, CUDD): less decides nothing


def verdict(better: dict[str, Any], worse: dict[str, Any]) -> dict[str, Any]:
    """The paired difference of two rows (same set and student seeds) and what it says of a claimed order."""
    difference = paired_difference(better["values"], worse["values"])
    if difference is None:
        return {"verdict": "undecided", "difference": None}
    low, high = difference.low, difference.high
    if len(better["values"]) < 3 and abs(difference.mean) < SET_SPREAD:
        low = high = 0.0  # the interval knows the spread of students, not that of sets
    said = "agree" if low > 0 else "disagree" if high < 0 else "undecided"
    return {"verdict": said, "difference": {k: getattr(difference, k) for k in ("mean", "low", "high", "pairs")}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--work", default="scratch/ablations")
    parser.add_argument("--out", help="default benchmarks/results/ablations-cifar10-ipcN.json")
    parser.add_argument("--rows", help="default all that belong to the IPC")
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--sets", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=600)
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    rows = ROWS | IPC40
    asked = args.rows.split(",") if args.rows else list(ROWS if args.ipc == 10 else IPC40)
    out = Path(args.out or f"benchmarks/results/ablations-cifar10-ipc{args.ipc}.json")
    table: dict[str, Any] = json.loads(out.read_text())["rows"] if out.is_file() else {}
    for name in asked:
        if name in table:
            continue
        method, settings, prefixes = rows[name]
        sets = [Path(args.work) / f"ipc{args.ipc}-{name}-{seed}" for seed in range(args.sets)]
        for seed, one in enumerate(sets):
            ddkit.distill(
                one, data=args.data, teacher=args.teacher, method=method, recipe=f"{method}-cifar10", settings=settings,
                prefixes=prefixes, ipc=args.ipc, seed=seed, protocol="cudd", yes=True,
            )  # fmt: skip
        (result,) = ddkit.evaluate(
            sets, val=args.data, epochs=args.epochs, runs=args.runs, baseline=None, command="benchmarks/ablations.py"
        )
        table[name] = to_plain(result) | {"settings": settings}
        claims = [
            {"claim": claim, "better": a, "worse": b, "paper": paper} | verdict(table[a], table[b])
            for claim, a, b, paper in CLAIMS
            if a in table and b in table
        ]
        facts = {"ipc": args.ipc, "epochs": args.epochs, "hardware": result.hardware, "versions": versions()}
        text = json.dumps({"conditions": facts, "rows": table, "claims": claims}, indent=2, sort_keys=True)
        write_bytes(out, (text + "\n").encode())
        note(f"{name}: {result.mean:.2f} ± {result.std:.2f} % ({result.n_sets} sets, {result.n_students} students)")
    for claim in json.loads(out.read_text())["claims"]:
        note(f"{claim['verdict']:10} {claim['claim']}: {claim['difference']} (paper {claim['paper']})")


if __name__ == "__main__":
    main()
