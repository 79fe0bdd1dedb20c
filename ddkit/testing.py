"""Contract tests for distillers and measures, shipped and third-party: `check_distiller`, `check_measure`."""

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
from ddkit.evaluation.measures import find_measure
from ddkit.evaluation.tables import evaluate
from ddkit.format.manifest import Manifest
from ddkit.format.measurements import Measurements, read_measurements
from ddkit.networks.checkpoints import save_checkpoint
from ddkit.networks.registry import build_network
from ddkit.networks.training import seeded_network
from ddkit.pipeline import distill
from ddkit.pipeline.record import work_dir
from ddkit.specs import TeacherSpec


def untrained_teacher(path: Path, *, arch: str = "convnet3-w32", classes: int = 10, size: int = 32) -> Path:
    """Write a checkpoint with seeded random weights, by default for the built-in `digits`; returns its path.

    Args:
        path: The file.
        arch: Architecture; the default is small, so that checks are quick.
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
        teacher = str(untrained_teacher(root / "teacher.safetensors", classes=4, size=16))

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


def check_measure(module: ModuleType | str, settings: Mapping[str, Any] | None = None) -> Measurements:
    """Check that a measure fulfils the contract of measures, on a tiny set of digits.

    It must yield rows of its METRICS alone, at least one of them without a condition for the random images as well as
    for the set; depend on no global state and leave the global generators unchanged; and yield the same values again.

    Args:
        module: The module, its name, or its file.
        settings: Settings of its Config by dotted key that begins with its name, to make the check quick.

    Returns:
        What was measured.

    Raises:
        AssertionError: The measure breaks the contract; the message says how.
        OptionError: The module lacks a name, or yields something else than its rows and figures.
    """
    name = module if isinstance(module, str) else str(module.__file__)
    part = find_measure(name)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        teacher = str(untrained_teacher(root / "teacher.safetensors", classes=4, size=16))
        made = distill(
            root / "set", data="digits", classes="0,1,2,3", method="rded", ipc=2, protocol="demo", views=2,
            teacher=teacher, settings={"pool": 6, "factor": 1}, workers=1,
        )  # fmt: skip

        def run() -> Measurements:
            evaluate(
                made.root, val="digits", runs=2, epochs=1, baseline="random,teacher", measure=name,
                settings=dict(settings or {}), workers=1,
            )  # fmt: skip
            found = read_measurements(work_dir(made.root))
            assert found is not None and found.measurements, f"{name} yielded no rows"
            return found

        torch.manual_seed(12345)
        np.random.seed(12345)  # noqa: NPY002 (checks that global state is not used)
        random.seed(12345)
        before = _global_state()
        first = run()
        assert _global_state() == before, f"{name} draws from a global random generator; use context.rng"
        summaries = {entry.of for entry in first.measurements if not entry.condition}
        assert summaries >= {"this", "random"}, f"{name} yielded no row without a condition; yield a summary"
        if part.subject == "network":
            assert "teacher" in summaries, f"{name} yielded no row for the teacher; its labels and request are None"
        for figure in first.figures:
            assert (work_dir(made.root) / figure.file).stat().st_size, f"{name}: figure {figure.name} is empty"
        shutil.rmtree(work_dir(made.root) / "measures")
        again = run()
        values = [{(m.metric, m.condition, m.of): m.values for m in one.measurements} for one in (first, again)]
        assert values[0] == values[1], f"{name} yielded other values the second time; use context.rng"
    return first


def _content(manifest: Manifest) -> str:
    return manifest.content


def _global_state() -> tuple[Any, ...]:
    state = np.random.get_state()  # noqa: NPY002
    return random.getstate(), torch.random.get_rng_state().numpy().tobytes(), state[1].tobytes(), state[2]  # type: ignore[index]
