"""Running a distiller's units: builds the context each may use, and keeps its result as one file."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ddkit import engine
from ddkit.core.console import note, watched_progress
from ddkit.core.device import peak_memory
from ddkit.core.files import read_sealed_json
from ddkit.core.serialization import fingerprint, to_plain
from ddkit.distillers import find_distiller, make_config
from ddkit.engine.interleaving import Turns, in_turns, together
from ddkit.engine.units import UnitFile, unit_path
from ddkit.errors import DdkitError, IntegrityError, OptionError
from ddkit.format.manifest import Manifest
from ddkit.labelling.encoded import ShardPlan, load_rows
from ddkit.networks.checkpoints import tensor_hash
from ddkit.networks.registry import check_network
from ddkit.replay.loader import ReplayLoader
from ddkit.sources.images import SourceRef, reopen
from ddkit.synthesis.checkpoints import Keep
from ddkit.synthesis.interface import KINDS, Context, Synthetic, Unit
from ddkit.teachers.teacher import Teacher

STAGE_MANIFEST = "stage.json"


@dataclass(frozen=True, kw_only=True)
class Making:
    """What all units of a prefix share, as plain data.

    method: an installed distiller's name, or the file that the command line named; config: canonical JSON; fingerprint:
    of the source; key: of all that decides the run's bytes, but for its prefixes; prefixes: up to this one; earlier:
    the shards made so far; order: the teacher's column for each class, None = as it is.
    """

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
    key: str
    prefixes: tuple[int, ...]
    earlier: tuple[ShardPlan, ...]

    def unit(self, unit: str) -> UnitFile:
        """Where the result of a unit `KIND-PREFIX-N` lies, sealed under what decides it: an increment depends on the
        prefixes up to its own."""
        prefix = unit.split("-")[1:2]
        below = [p for p in self.prefixes if not prefix or not prefix[0].isdigit() or p <= int(prefix[0])]
        return UnitFile(unit_path(self.work, unit), fingerprint([self.key, below]))


@dataclass(frozen=True, kw_only=True)
class UnitJob:
    making: Making
    unit: Unit

    @property
    def file(self) -> UnitFile:
        return self.making.unit(self.unit.id)


@dataclass(frozen=True, kw_only=True)
class UnitGroup:
    """Units that take turns: on a GPU a few that nobody waits for, elsewhere one."""

    jobs: tuple[UnitJob, ...]

    @property
    def id(self) -> str:
        return self.jobs[0].unit.id

    @property
    def needs(self) -> set[str]:
        return {need for job in self.jobs for need in job.unit.needs}


@functools.lru_cache(maxsize=1)
def _shared(making: Making) -> Context:
    """What all units of a prefix may use."""
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
        result=lambda unit: making.unit(unit).tensors(),
        replay=functools.partial(_replay, making),
        once=functools.partial(_once, making),
    )


def _context(job: UnitJob) -> Context:
    """What one unit may use."""
    shared = _shared(job.making)
    students = [unit for unit in job.unit.needs if unit.startswith("student-")]
    if not students or job.unit.kind == "student":
        return shared
    return replace(shared, student=_student(job.making, students[-1], shared.teacher))


@functools.lru_cache(maxsize=1)
def _student(making: Making, unit: str, teacher: Teacher) -> Teacher:
    """A stage's student, of the teacher's architecture, its outputs in the order of the source's classes."""
    weights = {name: torch.from_numpy(value) for name, value in making.unit(unit).tensors().items()}
    spec = teacher.spec
    network = check_network(spec.arch, spec.num_classes, spec.image_size)
    network.load_state_dict(weights)
    return Teacher(network, replace(spec, hash=tensor_hash(weights)), teacher.device)


def _once(making: Making, name: str, compute: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Tensors of one pass over the source, kept in OUT.work/once by name and by the source as it is used."""
    key = fingerprint([making.key, making.fingerprint, to_plain(making.source) | {"data": ""}, making.size])
    file = UnitFile(Path(making.work) / "once" / f"{name}-{key[:12]}.unit", key)
    if not file.is_good():
        file.write(compute(), {})
    return file.tensors()


def _earlier(making: Making) -> dict[int, list[dict[str, Any]]]:
    """Origins of the images made so far, by class."""
    origins: dict[int, list[dict[str, Any]]] = {}
    for shard in making.earlier:
        rows = load_rows(making.work, shard)
        for label, origin in zip(rows.labels, rows.origins):
            origins.setdefault(int(label), []).append(origin)
    return origins


def _replay(making: Making, **options: Any) -> ReplayLoader:
    """A loader over the packed shards of all earlier prefixes."""
    path = Path(making.work) / STAGE_MANIFEST
    data = read_sealed_json(path, making.key)
    if data is None:
        raise IntegrityError(f"{path} is damaged or not of this run; run the same command again, it is made anew")
    return ReplayLoader(Manifest(Path(making.out), data), **options)


@contextmanager
def _own_errors(module: Any, unit: Unit) -> Iterator[None]:
    """What somebody's own distiller raises is said to be its own."""
    try:
        yield
    except (DdkitError, OSError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if module.__name__.startswith("ddkit."):
            raise
        raise OptionError(
            f"method {module.NAME} raised {type(error).__name__}: {error} in its run() of unit {unit.id}; mend it"
        ) from error


def make_units(group: UnitGroup) -> None:
    """Run units in turns and write their results; one by one where the GPU has no room for all."""
    try:
        _make(group.jobs)
        return
    except torch.OutOfMemoryError:
        if len(group.jobs) == 1:
            raise
    note(f"the device has no room for {len(group.jobs)} batches together; it goes on with one after the other")
    torch.cuda.empty_cache()
    for job in group.jobs:
        if not job.file.is_good():
            _make([job])


def _make(jobs: Sequence[UnitJob]) -> None:
    contexts = [_context(job) for job in jobs]
    in_turns([_making(job, context) for job, context in zip(jobs, contexts)], contexts[0].device)


def _making(job: UnitJob, context: Context) -> Turns[None]:
    """Run one unit and write its result: synthetic images, or the tensors it returns."""
    module, keep = find_distiller(job.making.method), Keep(job.file.path, str(job.file.key))
    made: list[Synthetic] = []
    with _own_errors(module, job.unit):
        result = module.run(job.unit, replace(context, keep=keep))
        for image in result if job.unit.kind == "recover" else ():
            if image is None:
                with keep.waiting():
                    yield
            else:
                made.append(image)
    origins: list[dict[str, Any]] = []
    if job.unit.kind == "recover":
        made.sort(key=lambda image: (image.rank, image.label))
        _check(job.unit, made, job.making.size)
        origins = [image.origin for image in made]
        tensors = {
            "pixels": np.stack([image.pixels for image in made]),
            "label": np.array([image.label for image in made], np.int64),
            "rank": np.array([image.rank for image in made], np.int64),
            "patches": np.array([image.patches for image in made], np.int64),
        }
        initial = [image.initial for image in made if image.initial is not None]
        if len(initial) == len(made):
            tensors["initial"] = np.stack(initial)
    else:
        tensors = {name: np.asarray(value) for name, value in result.items()}
    metadata = {
        "origins": origins,
        "seconds": round(keep.seconds, 4),
        "peak_bytes": peak_memory(context.device),
    }
    if keep.losses:
        losses = {name: np.asarray(values, np.float32) for name, values in keep.losses.items()}
        UnitFile(losses_path(job.making.work, job.unit.id), job.file.key).write(losses, {})
    job.file.write(tensors, metadata)
    keep.clear()


def losses_path(work: str | Path, unit: str) -> Path:
    """Where the loss curves of a unit lie: name -> float32 per step."""
    return Path(work) / "losses" / f"{unit}.unit"


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
    """The images of one prefix, by (rank, class). pixels: uint8 [n,3,S,S]; seconds: by the manifest's parts, of all
    units, over all resumes; peak_bytes: the most memory units took that ran together."""

    pixels: np.ndarray
    labels: np.ndarray
    ranks: np.ndarray
    origins: list[dict[str, Any]]
    patches: int
    seconds: dict[str, float]
    peak_bytes: int


PARTS = {"prepare": "select", "select": "select", "student": "student", "recover": "recover"}


def _groups(jobs: Sequence[UnitJob], device: str) -> list[UnitGroup]:
    """Units that take turns; those that others need by themselves."""
    needed = {need for job in jobs for need in job.unit.needs}

    def pixels(job: UnitJob) -> float:
        alone = job.unit.kind != "recover" or job.unit.id in needed
        return math.inf if alone else len(job.unit.labels) * len(job.unit.ranks) * job.making.size**2

    return [UnitGroup(jobs=tuple(group)) for group in together(jobs, [pixels(job) for job in jobs], device)]


def recover(making: Making, units: Sequence[Unit], workers: int) -> Made:
    """Run the units of a prefix that are not done, in the order of their needs; returns its images."""
    if wrong := [unit.id for unit in units if unit.kind not in KINDS]:
        raise OptionError(f"unit {wrong[0]} is of no known kind; valid: {', '.join(KINDS)}")
    jobs = [job for unit in units if not (job := UnitJob(making=making, unit=unit)).file.is_good()]
    for job in jobs:
        job.file.path.unlink(missing_ok=True)  # damaged, or another run's

    def steps_done() -> int:
        paths = [(job.unit, job.file.path) for job in jobs]
        return sum(unit.steps if path.is_file() else min(Keep.told(path)[0], unit.steps) for unit, path in paths)

    total = sum(job.unit.steps for job in jobs)
    side_by_side = max(1, workers // max((job.unit.threads for job in jobs), default=1))
    name = f"{Path(making.method).stem}: making images"
    with watched_progress(name, total, "units" if total == len(jobs) else "steps", steps_done):
        for _ in engine.run(
            make_units, _groups(jobs, making.device), workers=side_by_side, needs=lambda group: group.needs
        ):
            pass
    parts: list[dict[str, np.ndarray]] = []
    metadata: dict[str, dict[str, Any]] = {}
    for unit in units:
        tensors, metadata[unit.id] = making.unit(unit.id).read()
        parts += [tensors] if unit.kind == "recover" else []
    origins = [origin for unit in units if unit.kind == "recover" for origin in metadata[unit.id]["origins"]]
    joined = {key: np.concatenate([part[key] for part in parts]) for key in ("pixels", "label", "rank", "patches")}
    order = np.lexsort((joined["label"], joined["rank"]))
    seconds: dict[str, float] = {}
    for unit in units:
        seconds[PARTS[unit.kind]] = seconds.get(PARTS[unit.kind], 0.0) + metadata[unit.id]["seconds"]
    return Made(
        pixels=joined["pixels"][order],
        labels=joined["label"][order],
        ranks=joined["rank"][order],
        origins=[origins[i] for i in order],
        patches=int(joined["patches"].max()),
        seconds=seconds,
        peak_bytes=max(told["peak_bytes"] for told in metadata.values()),
    )
