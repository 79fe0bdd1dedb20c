"""`ddkit demo`: distils digits with CUDD and by random selection, trains four students, draws a table and a picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddkit.core.console import note
from ddkit.core.device import cores
from ddkit.engine import Local
from ddkit.evaluation.students import StudentOptions, plan_students
from ddkit.evaluation.tables import run_students
from ddkit.format.manifest import Manifest
from ddkit.pipeline.distilling import distill
from ddkit.pipeline.record import work_dir
from ddkit.publishing.pictures import demo_picture
from ddkit.sources.validation import ValidationRef
from ddkit.students.training import StudentJob


@dataclass(frozen=True)
class DemoResult:
    """The result of the demo.

    Attributes:
        header: Column names of the table.
        rows: Rows of the table, one per student.
        picture: Absolute path of the picture.
    """

    header: tuple[str, ...]
    rows: list[tuple[str, ...]]
    picture: Path


def run_demo(
    out: Path,
    *,
    teacher: str = "train:convnet3",
    epochs: int | None = None,
    views: int | None = None,
    settings: Mapping[str, Any] | None = None,
    workers: int | None = None,
) -> DemoResult:
    """Make `out` (CUDD) and `out`-random, IPC 10 at 32 px, and train students on each with stored and hard labels.

    The other parameters shorten the demo.

    Args:
        out: The directory of the CUDD set; the picture is `out`.png.
        teacher: The teacher, as for `distill`; students are of its architecture.
        epochs: Epochs of each student. Default: the protocol's.
        views: Stored views per image. Default: the protocol's.
        settings: Settings of CUDD by dotted key.
        workers: Number of processes. Default: the number of cores.
    """
    options: dict[str, Any] = {
        "data": "digits", "ipc": 10, "size": 32, "protocol": "demo", "teacher": teacher, "views": views,
        "workers": workers,
    }  # fmt: skip
    note("1/3  CUDD: five images of each digit, a student trained on them, and five more that the student gets wrong")
    sets = {"cudd": distill(out, method="cudd", settings=settings, **options)}
    note("2/3  random: ten real images of each digit, with the same teacher and views")
    sets["random"] = distill(out.with_name(out.name + "-random"), method="random", **options)
    note("3/3  four students, each trained on 100 images and measured on 355 held-out images")
    jobs = {
        (name, labels): _student(manifest, labels, work_dir(out) / "students" / f"{name}-{labels}", epochs)
        for name, manifest in sets.items()
        for labels in ("stored", "hard")
    }
    results = run_students(list(jobs.values()), Local(workers or cores()))
    header = ("method", "labels", "accuracy", "seconds")
    rows: list[tuple[str, ...]] = [
        (name, labels, f"{results[job.out].accuracy:.1f} %", f"{results[job.out].seconds:.0f}")
        for (name, labels), job in jobs.items()
    ]
    histories = {f"{name}, {labels} labels": results[job.out].history for (name, labels), job in jobs.items()}
    picture = out.with_name(out.name + ".png")
    demo_picture(sets["cudd"], histories, [header, *rows], picture)
    return DemoResult(header, rows, picture.absolute())


def _student(manifest: Manifest, labels: str, out: Path, epochs: int | None) -> StudentJob:
    options = StudentOptions(
        protocol="demo",
        labels=labels,
        epochs=epochs,
        val=ValidationRef(data="digits"),
        measure_every=5,
    )
    return plan_students(manifest, options, [0], out)[0]
