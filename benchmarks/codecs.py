"""What codecs change in the labels of a set: bytes, KL divergence, top class, and the error of the pull on a student.

    python benchmarks/codecs.py OUT [--codecs int8,topk:10,...] [--fit 16000] [--test 12000]

Reads the teacher's logits from the labelling units that `ddkit distill OUT` left in OUT.work. Each codec is fitted on
some views and measured on others. Prints a table.
"""

import argparse
from pathlib import Path

import numpy as np

import ddkit
from ddkit.core.console import note
from ddkit.engine.units import UnitFile
from ddkit.errors import SetError
from ddkit.format.codecs.fidelity import fidelity_sums, relative_error
from ddkit.format.codecs.registry import find_codec
from ddkit.pipeline.record import work_dir

CODECS = (
    *("int8", "topk:10", "topk:100", "lowrank:32:i4+top5", "lowrank:32+top5", "lowrank:48:i4+top5"),
    *("lowrank:64:i4+top4", "lowrank:128+top5", "lowrank:256:i4+top1"),
)
PART = 1000  # views that are compared at a time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out")
    parser.add_argument("--codecs", default=",".join(CODECS))
    parser.add_argument("--fit", type=int, default=16_000, help="views to fit on")
    parser.add_argument("--test", type=int, default=12_000, help="views to measure on")
    args = parser.parse_args()
    classes = len(ddkit.inspect(args.out).classes)
    logits = read_logits(work_dir(Path(args.out)), classes, args.fit + args.test)
    chosen = np.random.default_rng(0).permutation(len(logits))
    test, fit = logits[chosen[: args.test]], logits[chosen[args.test :]]
    note(f"fitted on {len(fit)} views, measured on {len(test)} others; T = 20 for the error")
    note("| codec | bytes a view | smaller than fp16 | KL, T = 1 | KL, T = 20 | same top class | error |")
    note("|---|---|---|---|---|---|---|")
    for name in args.codecs.split(","):
        codec = find_codec(name)
        codec.check(classes)
        shared, rng, sums, errors = codec.fit(fit), np.random.default_rng(0), np.zeros(5), []
        for start in range(0, len(test), PART):
            part = test[start : start + PART]
            tensors = codec.encode(part, shared, rng)
            sums += fidelity_sums(part, codec, tensors, shared)
            errors.append(relative_error(part, codec.decode(tensors, classes, 20.0, shared), 20.0))
        size, means = codec.bytes_per_view(classes), sums / sums[-1]
        note(
            f"| `{codec.name}` | {size} | {2 * classes / size:.1f}× | {means[0]:.4f} | {means[2]:.6f} | "
            f"{means[3]:.4f} | {np.mean(errors):.3f} |"
        )


def read_logits(work: Path, classes: int, most: int) -> np.ndarray:
    """Return evenly spread logits of the labelling units of a set, float32 [N,C] with N at most `most`."""
    files = sorted((work / "units").glob("label-*.unit"))
    if not files:
        raise SetError(f"{work} holds no labelling units; give the OUT of a `ddkit distill` whose OUT.work is there")
    each = -(-most // len(files))
    parts = []
    for file in files:
        found = UnitFile(file, None).tensors()["logits"].reshape(-1, classes)
        parts.append(found[:: max(1, len(found) // each)][:each].astype(np.float32))
    return np.concatenate(parts)[:most]


if __name__ == "__main__":
    main()
