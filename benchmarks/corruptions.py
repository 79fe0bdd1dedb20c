"""Our corruptions beside the reference implementations: bytes, differences, and the accuracy of a network.

    python benchmarks/corruptions.py imagenet --data DATA --teacher CHECKPOINT --python REFERENCE/bin/python
    python benchmarks/corruptions.py cifar --data DATA --teacher CHECKPOINT --python ... --cifar-code make_cifar_c.py

REFERENCE is a virtual environment with `pip install imagecorruptions 'setuptools<81'`; make_cifar_c.py is the file of
the authors' repository. Both sides get the same random numbers (the stream of `np.random.seed`), so what is random is
compared byte by byte as well; `frost` cannot be, because its textures are not the reference's photographs. The
accuracies are those of the clean images, of the reference, and of ours with our own random numbers. Adds to
benchmarks/results/corruptions.json what it does not have yet, so that it may be stopped.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddkit.core.device import hardware, versions
from ddkit.evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from ddkit.evaluation.corruptions.registry import _corrupted
from ddkit.evaluation.corruptions.tables import strength
from ddkit.sources.images import open_source
from ddkit.specs import EvalTransform
from ddkit.teachers.teacher import Teacher

SIDES = {"imagenet": 224, "cifar": 32}
BATCH = 50


class ReferenceDraws:
    """The random numbers that the reference gets after `np.random.seed(seed)`, under the names of a Generator."""

    def __init__(self, seed: int) -> None:
        old = np.random.RandomState(seed)  # noqa: NPY002
        self.normal, self.uniform, self.poisson, self.integers = old.normal, old.uniform, old.poisson, old.randint
        self.random = np.random.default_rng(seed).random  # scikit-image draws impulse noise from a new generator


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=SIDES)
    parser.add_argument("--data", required=True)
    parser.add_argument("--split", default=None)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--python", required=True, help="Python of the environment with imagecorruptions")
    parser.add_argument("--cifar-code", help="make_cifar_c.py")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--only", default=",".join(CORRUPTIONS), help="corruptions, separated by commas")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "corruptions.json")
    args = parser.parse_args()
    report: dict[str, Any] = json.loads(args.out.read_text()) if args.out.exists() else {"rows": []}
    report |= {"hardware": hardware(torch.device("cpu")), "versions": versions(), "reference": reference_versions(args)}
    done = {(row["parameters"], row["corruption"], row["severity"], row["images"]) for row in report["rows"]}
    asked = [(name, k) for name in args.only.split(",") for k in SEVERITIES]
    asked = [(name, k) for name, k in asked if (args.kind, name, k, args.images) not in done]
    if not asked:
        return
    images, labels = read_images(args)
    network = Teacher.load(args.teacher, torch.device("cpu"))
    clean = accuracy(network, images, labels)
    for name, k in asked:
        row = {"parameters": args.kind, "corruption": name, "severity": k, "images": len(images), "clean": clean}
        row |= compare(args, network, images, labels, name, k)
        report["rows"].append(row)
        args.out.write_text(json.dumps(report, indent=1) + "\n")
        sys.stdout.write(f"{args.kind} {name} {k}: {row['equal_share']:.4%} of the bytes are equal\n")


def read_images(args: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Return a seeded choice of the images, uint8 [n,3,S,S], and their labels, int64 [n]."""
    source = open_source(args.data, split=args.split)
    chosen = np.sort(np.random.default_rng(0).permutation(len(source))[: args.images])
    images = source.squares(chosen, EvalTransform.for_size(SIDES[args.kind]))
    return images, torch.from_numpy(source.labels[chosen]).long()


def compare(
    args: argparse.Namespace, network: Teacher, images: Tensor, labels: Tensor, name: str, severity: int
) -> dict[str, Any]:
    """Return the differences between ours and the reference, and the network's accuracy on both, in percent."""
    pixels = images.permute(0, 2, 3, 1).contiguous().numpy()
    reference = reference_of(args, pixels, name, severity, 0)
    draws: list[Any] = [ReferenceDraws(i) for i in range(len(pixels))]
    same_draws = np.concatenate([
        _corrupted(pixels[i : i + BATCH], name, strength(name, severity, pixels.shape[1]), draws[i : i + BATCH])
        for i in range(0, len(pixels), BATCH)
    ])  # fmt: skip
    difference = np.abs(same_draws.astype(int) - reference)
    ours = corrupt(images, name, severity)
    on_reference = accuracy(network, as_images(reference), labels)
    found = {
        "equal_share": float((difference == 0).mean()),
        "largest": int(difference.max()),
        "mean": float(difference.mean()),
        "accuracy_reference": on_reference,
        "accuracy_ours": on_reference if torch.equal(ours, as_images(reference)) else accuracy(network, ours, labels),
    }
    if name == "frost":  # the bound: how far the reference is from itself with other random numbers
        other = reference_of(args, pixels, name, severity, len(pixels))
        clean = pixels.astype(int)
        found |= {
            "mean_of_reference_with_other_draws": float(np.abs(other.astype(int) - reference).mean()),
            "psnr_ours_to_clean": psnr(same_draws - clean),
            "psnr_reference_to_clean": psnr(reference - clean),
        }
    return found


def psnr(difference: np.ndarray) -> dict[str, float]:
    """Return mean and standard deviation over images of the peak signal-to-noise ratio, dB."""
    values = 10 * np.log10(255**2 / (difference.astype(float) ** 2).mean((1, 2, 3)))
    return {"mean": float(values.mean()), "std": float(values.std())}


def reference_of(args: argparse.Namespace, pixels: np.ndarray, name: str, severity: int, first_seed: int) -> np.ndarray:
    """Return the reference's result, uint8 [n,H,W,3], with the seeds first_seed, first_seed + 1, … of the images."""
    with tempfile.TemporaryDirectory() as folder:
        given, result = f"{folder}/images.npy", f"{folder}/result.npy"
        np.save(given, pixels)
        worker = str(Path(__file__).parent / "corruptions_reference.py")
        code = [str(Path(args.cifar_code).absolute())] if args.kind == "cifar" else []
        subprocess.run(
            [args.python, "-W", "ignore", worker, given, result, name, str(severity), str(first_seed), *code],
            check=True,
        )
        return np.load(result)


def reference_versions(args: argparse.Namespace) -> dict[str, str]:
    """Return the versions of the packages that the reference uses."""
    names = ("imagecorruptions", "numpy", "scipy", "scikit-image", "opencv-python", "pillow")
    code = f"import json, importlib.metadata as m; print(json.dumps({{n: m.version(n) for n in {names}}}))"
    found = subprocess.run([args.python, "-c", code], check=True, capture_output=True, text=True)
    return json.loads(found.stdout)


def as_images(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


def accuracy(network: Teacher, images: Tensor, labels: Tensor) -> float:
    """Return the network's top-1 accuracy, percent."""
    logits = torch.cat([network.logits(network.normalise(part)) for part in images.split(BATCH)])
    return round(100 * float((logits.argmax(1) == labels).double().mean()), 2)


if __name__ == "__main__":
    main()
