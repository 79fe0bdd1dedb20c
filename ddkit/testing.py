"""Contract test for distillers, shipped and third-party: `check_distiller(module)`."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from ddkit.distillers import find_distiller
from ddkit.format.manifest import Manifest
from ddkit.networks.checkpoints import save_checkpoint
from ddkit.networks.registry import build_network
from ddkit.networks.training import seeded_network
from ddkit.pipeline import distill
from ddkit.specs import TeacherSpec


def untrained_teacher(path: Path, *, arch: str = "convnet3", classes: int = 10, size: int = 32) -> Path:
    """Write a checkpoint with seeded random weights, by default for the built-in `digits`; returns its path.

    Args:
        path: The file.
        arch: Architecture.
        classes: Number of classes, which are named 0, 1, 2, …
        size: Side of the input images, in pixels.
    """
    spec = TeacherSpec(
        arch=arch, num_classes=classes, image_size=size, mean=(0.3, 0.3, 0.3), std=(0.3, 0.3, 0.3),
        classes=tuple(str(i) for i in range(classes)),
    )  # fmt: skip
    save_checkpoint(path, seeded_network(lambda: build_network(arch, classes, size), 0, "untrained"), spec)
    return path


def check_distiller(module: ModuleType | str, settings: Mapping[str, Any] | None = None) -> None:
    """Check that a distiller fulfils the contract of distillers.

    It must name its parts; plan units named KIND-PREFIX-N; make uint8 images of the right shape; depend on the seed and
    on no global state; leave the global generators unchanged; reproduce the same bytes after units are lost; and
    reproduce, when it grows, the bytes of one run.

    Args:
        module: The module, its name, or its file.
        settings: Settings of its Config, to make the check quick.

    Raises:
        AssertionError: The distiller breaks the contract; the message says how.
    """
    name = module if isinstance(module, str) else str(module.__file__)
    part = find_distiller(name)
    method = part.name if part.shipped else name
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        teacher = str(untrained_teacher(root / "teacher.safetensors", classes=4))

        def run(out: str, **options: Any) -> Manifest:
            given: dict[str, Any] = {
                "data": "digits", "classes": "0,1,2,3", "method": method, "views": 2, "teacher": teacher, "workers": 1,
                "seed": 0, "settings": dict(settings or {}),
            }  # fmt: skip
            return distill(root / out, **(given | options))

        whole = run("whole", ipc=2, prefixes=(1, 2))
        units = root / "whole.work" / "units"
        made = sorted(units.glob("recover-*.unit"))
        for unit in (path.stem.split("-") for path in made):
            assert len(unit) == 3 and unit[1] in ("1", "2"), f"{name}: unit {'-'.join(unit)} is not KIND-PREFIX-N"
        torch.manual_seed(12345)
        np.random.seed(12345)  # noqa: NPY002 (checks that global state is not used)
        random.seed(12345)
        before = _global_state()
        again = run("again", ipc=2, prefixes=(1, 2))
        assert _global_state() == before, f"{name} draws from a global random generator; use context.rng"
        assert _content(again) == _content(whole), f"{name}: the same seed gave other bytes; use context.rng"
        grown = run("grown", ipc=1)
        grown = run("grown", ipc=2)
        assert _content(grown) == _content(whole), f"{name}: growing 1 -> 2 is not the run with prefixes 1,2"
        (root / "whole" / "ddkit.json").unlink()
        shutil.rmtree(root / "whole" / "data")
        for path in (*units.glob("images-*"), *units.glob("label-*"), *units.glob("pack-*"), *made[::2]):
            path.unlink()
        resumed = run("whole", ipc=2)
        assert _content(resumed) == _content(again), f"{name}: after units were lost, the bytes differ"
        other = run("other", ipc=2, prefixes=(1, 2), seed=1)
        assert _content(other) != _content(whole), f"{name}: another seed gave the same bytes"


def _content(manifest: Manifest) -> str:
    return manifest.content


def _global_state() -> tuple[Any, ...]:
    state = np.random.get_state()  # noqa: NPY002
    return random.getstate(), torch.random.get_rng_state().numpy().tobytes(), state[1].tobytes(), state[2]  # type: ignore[index]
