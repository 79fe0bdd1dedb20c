"""Make the golden sets: six small distilled sets whose content must never change.

    python tests/golden/make.py OUT            # make them below OUT, print their content as JSON
    python tests/golden/make.py OUT --record   # also write it into contents.json, under this machine's kind

The teachers' weights are drawn with numpy, so they are the same everywhere; the sets' bytes are the same on machines
of one kind (`device_class` of the manifest, and the same versions of what computes). `rded/` beside this file is the
set `rded` as ddkit 0.5.0 made it: it must be read, verified, replayed and grown for ever. `released/` has a smaller
set of every released version (make_released.py).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save_file

import ddkit
from ddkit.testing import untrained_teacher

HERE = Path(__file__).parent
CONTENTS = HERE / "contents.json"
CLASSES = ("ant", "bee", "cat")


def golden_teacher(path: Path, classes: tuple[str, ...], *, arch: str = "convnet3", size: int = 32) -> str:
    """A network whose weights are drawn by numpy: the same numbers on every machine."""
    untrained_teacher(path, arch=arch, classes=len(classes), size=size)
    with safe_open(path, framework="np") as file:
        metadata = json.loads(file.metadata()["ddkit"])
        tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}  # noqa: SIM118 (not a dict)
    random = np.random.Generator(np.random.Philox(key=5))
    for name, tensor in tensors.items():
        if tensor.ndim > 1:
            bound = (3 / np.prod(tensor.shape[1:])) ** 0.5
            tensors[name] = (bound * (2 * random.random(tensor.shape) - 1)).astype(np.float32)
        elif tensor.ndim == 1:
            value = 1.0 if name.endswith(("norm.weight", "running_var")) else 0.0
            tensors[name] = np.full(tensor.shape, value, np.float32)
    metadata.pop("sha256", None)  # of the weights that were replaced; it may be left out
    metadata["classes"] = list(classes)
    save_file(tensors, path, {"ddkit": json.dumps(metadata)})
    return str(path)


def generated_images(folder: Path, per_class: int, size: int) -> str:
    """Class folders of smooth coloured PNG pictures, made of integers only."""
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(per_class):
            random = np.random.Generator(np.random.Philox(key=100 * label + i))
            coarse = random.integers(0, 256, (size // 8, size // 8, 3), dtype=np.uint8)
            Image.fromarray(coarse.repeat(8, 0).repeat(8, 1)).save(folder / name / f"{i}.png")
    return str(folder)


def make_all(root: Path, workers: int = 1) -> dict[str, dict[str, str]]:
    """Make the six golden sets below `root`; returns `content` and `fingerprint` of each by name."""
    digits = golden_teacher(root / "digits.safetensors", tuple(map(str, range(10))))
    animals = golden_teacher(root / "animals.safetensors", CLASSES)
    common: dict[str, Any] = {"data": "digits", "teacher": digits, "views": 4, "workers": workers}
    sets: dict[str, Callable[[Path], Any]] = {
        "cudd": lambda out: ddkit.distill(
            out, **common, method="cudd", prefixes=(1, 2, 4), protocol="common",
            settings={"steps": 6, "student.epochs": 2, "adv.weight": 1.0, "threads": 1},
        ),
        "rded": lambda out: ddkit.distill(
            out, **common, method="rded", prefixes=(1, 3), protocol="rded", settings={"pool": 6, "factor": 2},
        ),
        "sre2l": lambda out: ddkit.distill(
            out, **common, method="sre2l", ipc=1, protocol="common", recipe="sre2l-small",
            settings={"steps": 8, "threads": 1},
        ),
        "random": lambda out: ddkit.distill(
            out, data=generated_images(root / "photos", 6, 40), teacher=animals, method="random", prefixes=(2, 3),
            protocol="common", views=4, size=32, workers=workers,
        ),
        "import": lambda out: ddkit.import_images(
            generated_images(root / "finished", 2, 32), out, method="sre2l", teacher=animals, views=4, workers=workers,
        ),
        "relabel": lambda out: ddkit.relabel(
            root / "rded", out, teacher=digits, protocol="common", views=3, mix_within="5x2:0", seed=3, workers=workers,
        ),
    }  # fmt: skip
    made = {}
    for name, make in sets.items():
        make(root / name)
        manifest = json.loads((root / name / "ddkit.json").read_text())
        made[name] = {key: manifest[key] for key in ("content", "fingerprint")}
    return made


def kind_of_machine(set_: Path) -> str:
    """What equal bytes need: the device class in a set's manifest, and the versions of what computes."""
    devices = json.loads((set_ / "ddkit.json").read_text())["devices"]
    return ", ".join([*devices, *(f"{name} {version(name)}" for name in ("torch", "numpy", "pillow"))])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--record", action="store_true")
    arguments = parser.parse_args()
    contents = make_all(arguments.out)
    print(json.dumps(contents, indent=2))  # noqa: T201
    if arguments.record:
        known = json.loads(CONTENTS.read_text()) if CONTENTS.exists() else {}
        known[kind_of_machine(arguments.out / "rded")] = contents
        CONTENTS.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
