"""The contract test for distillers, ours and anyone's: `check_distiller(module)`."""

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
    """Write a checkpoint with seeded random weights for the built-in `digits` (or as many numbered classes)."""
    spec = TeacherSpec(
        arch=arch, num_classes=classes, image_size=size, mean=(0.3, 0.3, 0.3), std=(0.3, 0.3, 0.3),
        classes=tuple(str(i) for i in range(classes)),
    )  # fmt: skip
    save_checkpoint(path, seeded_network(lambda: build_network(arch, classes, size), 0, "untrained"), spec)
    return path


def check_distiller(module: ModuleType | str, settings: Mapping[str, Any] | None = None) -> None:
    """Put a distiller through what every distiller promises; raises AssertionError saying what it breaks.

    module: the module, its name, or its file. settings: of its Config, to make it quick. It must: name its parts; plan
    units named KIND-PREFIX-N; make uint8 images of the right shape; depend on the seed and on nothing global; leave
    the global generators alone; continue after units were lost to the same bytes; grow to the same bytes as one run.
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
        np.random.seed(12345)  # noqa: NPY002 (that is the point)
        random.seed(12345)
        before = _global_state()
        again = run("again", ipc=2, prefixes=(1, 2))
        assert _global_state() == before, f"{name} draws from a global random generator; use context.rng"
        assert _content(again) == _content(whole), f"{name}: the same seed made other bytes; use context.rng"
        grown = run("grown", ipc=1)
        grown = run("grown", ipc=2)
        assert _content(grown) == _content(whole), f"{name}: growing 1 -> 2 is not the run with prefixes 1,2"
        (root / "whole" / "ddkit.json").unlink()
        shutil.rmtree(root / "whole" / "data")
        for path in (*units.glob("images-*"), *units.glob("label-*"), *units.glob("pack-*"), *made[::2]):
            path.unlink()
        resumed = run("whole", ipc=2)
        assert _content(resumed) == _content(again), f"{name}: after units were lost, other bytes were made"
        other = run("other", ipc=2, prefixes=(1, 2), seed=1)
        assert _content(other) != _content(whole), f"{name}: another seed made the same bytes"


def _content(manifest: Manifest) -> str:
    return manifest.content


def _global_state() -> tuple[Any, ...]:
    state = np.random.get_state()  # noqa: NPY002
    return random.getstate(), torch.random.get_rng_state().numpy().tobytes(), state[1].tobytes(), state[2]  # type: ignore[index]
