"""Running a distiller's units: builds the context each may use, and keeps its result as one file."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save

from ddkit import engine
from ddkit.distillers import find_distiller, make_config
from ddkit.errors import OptionError
from ddkit.format.manifest import Manifest
from ddkit.format.shards import file_metadata
from ddkit.plain import canonical
from ddkit.replay.loader import ReplayLoader
from ddkit.replay.relabelling import load_rows, unit_path
from ddkit.runtime import progress, write_bytes
from ddkit.sources.images import SourceRef, reopen
from ddkit.sources.teacher import Teacher
from ddkit.synthesis.interface import KINDS, Context, Synthetic, Unit

STAGE_MANIFEST = "stage.json"


@dataclass(frozen=True, kw_only=True)
class Making:
    """What all units of a prefix share, as plain data. config: canonical JSON; fingerprint: of the source; earlier:
    names of the `images` units made so far; order: the teacher's column for each class, None = as it is."""

    method: str
    config: str
    source: SourceRef
    fingerprint: str
    size: int
    seed: int
    teacher: str
    teacher_hash: str
    order: tuple[int, ...] | None
    device: str
    out: str
    work: str
    earlier: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class UnitJob:
    making: Making
    unit: Unit

    @property
    def id(self) -> str:
        return self.unit.id


@functools.lru_cache(maxsize=1)
def _context(making: Making) -> Context:
    device = torch.device(making.device)
    reopen.cache_clear()  # the fingerprint may be new under the same name
    return Context(
        config=make_config(find_distiller(making.method), json.loads(making.config)),
        source=reopen(making.source),
        size=making.size,
        seed=making.seed,
        device=device,
        teacher=Teacher.load(making.teacher, device, making.order),
        earlier=_earlier(making),
        result=lambda unit: load_file(unit_path(making.work, unit)),
        replay=functools.partial(_replay, making),
    )


def _earlier(making: Making) -> dict[int, list[dict[str, Any]]]:
    """Origins of the images made so far, by class."""
    origins: dict[int, list[dict[str, Any]]] = {}
    for name in making.earlier:
        rows = load_rows(making.work, name)
        for label, origin in zip(rows.labels, rows.origins):
            origins.setdefault(int(label), []).append(origin)
    return origins


def _replay(making: Making, **options: Any) -> ReplayLoader:
    """A loader over the packed shards of all earlier prefixes."""
    data = json.loads((Path(making.work) / STAGE_MANIFEST).read_text())
    return ReplayLoader(Manifest(Path(making.out), data), **options)


def make_unit(job: UnitJob) -> None:
    """Run one unit and write its result: synthetic images, or the tensors it returns."""
    began = time.perf_counter()
    module = find_distiller(job.making.method)
    result = module.run(job.unit, _context(job.making))
    origins: list[dict[str, Any]] = []
    if job.unit.kind == "recover":
        made = sorted(result, key=lambda s: (s.rank, s.label))
        _check(job.unit, made, job.making.size)
        origins = [image.origin for image in made]
        tensors = {
            "pixels": np.stack([image.pixels for image in made]),
            "label": np.array([image.label for image in made], np.int64),
            "rank": np.array([image.rank for image in made], np.int64),
            "patches": np.array([image.patches for image in made], np.int64),
        }
    else:
        tensors = {name: np.asarray(value) for name, value in result.items()}
    metadata = {"origins": origins, "seconds": round(time.perf_counter() - began, 4)}
    write_bytes(unit_path(job.making.work, job.unit.id), save(tensors, {"ddkit": canonical(metadata, indent=None)}))


def _check(unit: Unit, made: Sequence[Synthetic], size: int) -> None:
    """A distiller must make the images its unit names. Raises OptionError (the method is at fault)."""
    got = {(image.label, image.rank) for image in made}
    due = {(label, rank) for label in unit.labels for rank in unit.ranks}
    if got != due or len(made) != len(due):
        raise OptionError(f"unit {unit.id} made {len(made)} images of {len(due)}; mend the distiller's run()")
    for image in made:
        if image.pixels.dtype != np.uint8 or image.pixels.shape != (3, size, size):
            shape = f"{image.pixels.dtype} {image.pixels.shape}"
            raise OptionError(f"unit {unit.id} made pixels {shape}, not uint8 (3, {size}, {size}); mend its run()")


@dataclass(frozen=True)
class Made:
    """The images of one prefix, by (rank, class). pixels: uint8 [n,3,S,S]; seconds: of all units, summed."""

    pixels: np.ndarray
    labels: np.ndarray
    ranks: np.ndarray
    origins: list[dict[str, Any]]
    patches: int
    seconds: float


def recover(making: Making, units: Sequence[Unit], workers: int) -> Made:
    """Run the units of a prefix that are not done, in the order of their needs; returns its images."""
    if wrong := [unit.id for unit in units if unit.kind not in KINDS]:
        raise OptionError(f"unit {wrong[0]} is of no known kind; valid: {', '.join(KINDS)}")
    jobs = [UnitJob(making=making, unit=unit) for unit in units if not unit_path(making.work, unit.id).is_file()]
    with progress(f"{making.method}: making images", len(jobs), "units") as advance:
        for _ in engine.run(make_unit, jobs, workers=workers, needs=lambda job: set(job.unit.needs)):
            advance(1)
    paths = [unit_path(making.work, unit.id) for unit in units if unit.kind == "recover"]
    parts, metadata = [load_file(path) for path in paths], [file_metadata(path) for path in paths]
    joined = {key: np.concatenate([part[key] for part in parts]) for key in ("pixels", "label", "rank", "patches")}
    origins = [origin for meta in metadata for origin in meta["origins"]]
    order = np.lexsort((joined["label"], joined["rank"]))
    return Made(
        pixels=joined["pixels"][order],
        labels=joined["label"][order],
        ranks=joined["rank"][order],
        origins=[origins[i] for i in order],
        patches=int(joined["patches"].max()),
        seconds=sum(file_metadata(unit_path(making.work, unit.id))["seconds"] for unit in units),
    )
