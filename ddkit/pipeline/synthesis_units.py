"""Runs a method's units as jobs: builds the context of each, and writes its result to one file."""

from __future__ import annotations

import functools
import json
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ddkit.core.device import device_class, peak_memory
from ddkit.core.files import below, read_sealed
from ddkit.core.serialization import fingerprint, to_plain
from ddkit.core.worker_state import STATE
from ddkit.distillers import find_distiller, make_config
from ddkit.engine.interleaving import Interleaved
from ddkit.engine.units import UnitFile, UnitStore
from ddkit.errors import DdkitError, IntegrityError, OptionError, SourceError
from ddkit.format.entries import Origin
from ddkit.format.manifest import Manifest
from ddkit.format.manifest_file import parse_manifest
from ddkit.labelling.encoded import ShardPlan, load_encoded, prefix_key
from ddkit.networks.checkpoints import tensor_hash
from ddkit.networks.registry import check_network
from ddkit.replay.loader import ReplayLoader
from ddkit.sources.images import Source, SourceRef, open_ref
from ddkit.synthesis.interface import Context, Distiller, Synthetic, Tensors, Unit
from ddkit.synthesis.unit_progress import UnitProgress
from ddkit.teachers.teacher import Teacher

STAGE_MANIFEST = "stage.json"


@dataclass(frozen=True, kw_only=True)
class SynthesisInputs:
    """The inputs that the synthesis units of an increment share, as plain data.

    Attributes:
        method: Name of an installed distiller, or the file given on the command line.
        config: The method's settings, canonical JSON.
        source: Reference to the source.
        fingerprint: Fingerprint of the source.
        classes: Names of its classes.
        size: Side of the images, pixels.
        seed: Seed of the run.
        teacher: Path of the teacher's checkpoint.
        teacher_hash: Hash of its weights.
        order: The teacher's output column for each class; None: unchanged.
        device: A torch device name.
        out: The directory of the set.
        work: The directory OUT.work.
        key: Key of the run: hash of everything that determines its bytes, except the prefixes.
        prefixes: IPC of each prefix up to this one.
        earlier: The shards of earlier prefixes.
    """

    method: str
    config: str
    source: SourceRef
    fingerprint: str
    classes: tuple[str, ...]
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

    @property
    def store(self) -> UnitStore:
        """The store of the units."""
        return UnitStore(self.work)

    def _unit_key(self, unit: str) -> str:
        """Return the key of a unit `KIND-PREFIX-N`, which covers the prefixes up to its own."""
        prefix = unit.split("-")[1:2]
        return prefix_key(
            self.key, [p for p in self.prefixes if not prefix or not prefix[0].isdigit() or p <= int(prefix[0])]
        )

    def unit(self, unit: str) -> UnitFile:
        """Return the result file of a unit.

        Args:
            unit: Id of the unit.
        """
        return self.store.unit(unit, self._unit_key(unit))

    def result(self, unit: str) -> Tensors:
        """Return the tensors of a finished unit.

        Args:
            unit: Id of the unit.

        Raises:
            IntegrityError: The file is missing or damaged.
        """
        return self.unit(unit).tensors()

    def losses(self, unit: str) -> UnitFile:
        """Return the file with the loss curves of a unit.

        Args:
            unit: Id of the unit.
        """
        return self.store.losses(unit, self._unit_key(unit))

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that every unit may read, beside the source: teacher, passes over the source, earlier images."""
        encoded = (shard.encoded(self.store).path for shard in self.earlier)
        given = [Path(name) for name in (self.method, self.source.classes or "") if os.path.isfile(name)]
        return (Path(self.teacher), *self.store.passes(), *encoded, *given)

    @property
    def made(self) -> tuple[Path, ...]:
        """The files of the shards of earlier prefixes, which `student` units read."""
        if not self.earlier:
            return ()
        stage = Path(self.work) / STAGE_MANIFEST
        return (stage, *(Path(self.out) / path for path in self._stage().files(images=False)))

    def below(self, root: Path) -> SynthesisInputs:
        """Return the same inputs on a copy of the file system.

        Args:
            root: Directory of the copy.
        """
        teacher, out, work = (str(below(root, path)) for path in (self.teacher, self.out, self.work))
        method, classes = (
            str(below(root, name)) if name and os.path.isfile(name) else name
            for name in (self.method, self.source.classes)
        )
        source = replace(self.source, classes=classes)
        return replace(self, method=method or "", source=source, teacher=teacher, out=out, work=work)

    def distiller(self) -> Distiller:
        """Return the method, loaded once per process."""
        return STATE.keep("method", (self.method, self.key), lambda: find_distiller(self.method))

    def context(self) -> Context:
        """Return the context shared by all units of the increment, opened once per process."""
        teacher = Teacher.of_run(self.teacher, self.teacher_hash, torch.device(self.device), self.order)
        return STATE.keep("context", (fingerprint(asdict(self)), teacher), lambda: self._open(teacher))

    def _open(self, teacher: Teacher) -> Context:
        opened = (self.source, self.fingerprint)  # files may change under the same name
        return Context(
            config=make_config(self.distiller(), json.loads(self.config)),
            source=STATE.keep("source of units", opened, self._open_source),
            size=self.size,
            seed=self.seed,
            device=teacher.device,
            teacher=teacher,
            earlier=self._earlier(),
            result=self.result,
            replay=self._replay,
            once=self._once,
        )

    def _open_source(self) -> Source:
        source = open_ref(self.source)
        if (source.fingerprint, tuple(source.class_names)) != (self.fingerprint, self.classes):
            raise SourceError(
                f"{self.source.data} on {platform.node()} has other images or classes than when the run began; copy "
                "the source there again"
            )
        return source

    def _earlier(self) -> dict[int, list[Origin]]:
        """Return the origins of the images of earlier prefixes, by class."""
        origins: dict[int, list[Origin]] = {}
        for shard in self.earlier:
            rows = load_encoded(self.store, shard)
            for label, origin in zip(rows.labels, rows.origins):
                origins.setdefault(int(label), []).append(origin)
        return origins

    def _replay(self, **options: Any) -> ReplayLoader:
        """Return a loader over the packed shards of all earlier prefixes."""
        return ReplayLoader(self._stage(), **options)

    def _stage(self) -> Manifest:
        """Return the manifest of the packed shards of all earlier prefixes."""
        path = Path(self.work) / STAGE_MANIFEST
        data = read_sealed(path, self.key)
        if data is None:
            raise IntegrityError(
                f"{path} is damaged or belongs to another run; run the same command again to recreate it"
            )
        return parse_manifest(data, path).at(Path(self.out))

    def _once(self, name: str, compute: Callable[[], Tensors]) -> Tensors:
        """Return the tensors of one pass over the source, computed once and stored by name."""
        classes = list(self.classes) if self.source.classes else None
        source = to_plain(self.source) | {"data": "", "classes": classes}
        key = fingerprint([self.key, self.fingerprint, source, self.size])
        file = self.store.pass_over_source(name, key)
        if not file.is_good():
            file.write(compute(), {})
        return file.tensors()


@dataclass(frozen=True, kw_only=True)
class UnitJob:
    """One unit of a method as a job.

    Attributes:
        shared: Inputs shared by the increment.
        unit: The unit.
    """

    shared: SynthesisInputs
    unit: Unit

    @property
    def file(self) -> UnitFile:
        """The result file of the unit."""
        return self.shared.unit(self.unit.id)

    def context(self) -> Context:
        """Return the unit's context: the shared one with the unit's progress, and the stage student if it needs one."""
        context = replace(self.shared.context(), progress=UnitProgress(self.file))
        students = [unit for unit in self.unit.needs if unit.startswith("student-")]
        if not students or self.unit.kind == "student":
            return context
        key = (self.shared.work, self.shared.unit(students[-1]), context.teacher.spec.hash)
        student = STATE.keep("student", key, functools.partial(_student, self.shared, students[-1], context.teacher))
        return replace(context, student=student)

    def run(self) -> Interleaved[None]:
        """Run the unit and write its result: synthetic images, or the tensors it returns."""
        distiller, context = self.shared.distiller(), self.context()
        progress, images = context.progress, list[Synthetic]()
        tensors: Tensors = {}
        with _named_errors(distiller, self.unit):
            result = distiller.run(self.unit, context)
            if isinstance(result, dict):
                tensors = {name: np.asarray(value) for name, value in result.items()}
            else:
                for image in result:
                    if image is None:
                        with progress.waiting():
                            yield
                    else:
                        images.append(image)
        if self.unit.kind == "recover":
            images.sort(key=lambda image: (image.rank, image.label))
            check_images(self.unit, images, self.shared.size)
            tensors = _image_tensors(images)
        metadata = {
            "origins": [image.origin.to_json() for image in images],
            "seconds": round(progress.seconds, 4),
            "peak_bytes": peak_memory(context.device),
            "device": device_class(context.device),
        }
        if progress.losses:
            losses = {name: np.asarray(values, np.float32) for name, values in progress.losses.items()}
            self.shared.losses(self.unit.id).write(losses, {})
        self.file.write(tensors, metadata)
        progress.clear()


def _student(inputs: SynthesisInputs, unit: str, teacher: Teacher) -> Teacher:
    """Load a stage student: the teacher's architecture, outputs in the order of the source's classes."""
    weights = {name: torch.from_numpy(value) for name, value in inputs.unit(unit).tensors().items()}
    spec = teacher.spec
    network = check_network(spec.arch, spec.num_classes, spec.image_size)
    network.load_state_dict(weights)
    return Teacher(network, replace(spec, hash=tensor_hash(weights)), teacher.device)


def _image_tensors(images: Sequence[Synthetic]) -> Tensors:
    """Return the images as the named tensors of a unit."""
    tensors = {
        "pixels": np.stack([image.pixels for image in images]),
        "label": np.array([image.label for image in images], np.int64),
        "rank": np.array([image.rank for image in images], np.int64),
        "patches": np.array([image.patches for image in images], np.int64),
    }
    initial = [image.initial for image in images if image.initial is not None]
    return tensors | ({"initial": np.stack(initial)} if len(initial) == len(images) else {})


@contextmanager
def _named_errors(distiller: Distiller, unit: Unit) -> Iterator[None]:
    """Report an unexpected error in a third-party method as an OptionError that names the method and unit."""
    try:
        yield
    except (DdkitError, OSError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if distiller.shipped:
            raise
        raise OptionError(
            f"method {distiller.name} raised {type(error).__name__}: {error} in its run() of unit {unit.id}; fix it"
        ) from error


def check_images(unit: Unit, images: Sequence[Synthetic], size: int) -> None:
    """Check that a unit made exactly the images it declares.

    Args:
        unit: The unit.
        images: The images it made.
        size: Side of each image, pixels.

    Raises:
        OptionError: Labels, ranks, pixels or origins are wrong (an error in the method).
    """
    got = {(image.label, image.rank) for image in images}
    due = {(label, rank) for label in unit.labels for rank in unit.ranks}
    if got != due or len(images) != len(due):
        raise OptionError(f"unit {unit.id} made {len(images)} images of {len(due)}; fix the distiller's run()")
    for image in images:
        if image.pixels.dtype != np.uint8 or image.pixels.shape != (3, size, size):
            shape = f"{image.pixels.dtype} {image.pixels.shape}"
            raise OptionError(f"unit {unit.id} made pixels {shape}, not uint8 (3, {size}, {size}); fix its run()")
        if not isinstance(image.origin, Origin):
            raise OptionError(
                f"unit {unit.id} made an image whose origin is not a ddkit.synthesis.Origin; fix its run()"
            )
