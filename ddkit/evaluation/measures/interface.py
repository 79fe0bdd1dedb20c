"""Interface of measures: what a measure receives and yields. CONTRIBUTING.md has a complete example.

A measure is a module with these names:

- `NAME`, `PAPER` (citation), `COST` (one line).
- `SUBJECT`: "network" (called for every trained student, and for the teacher), or "set" (called for every set).
- `NEEDS`: any of NEEDS; the measure is left out, with a note, where one of them is not at hand.
- `METRICS`: tuple of Metric.
- `Config`: a frozen dataclass of its settings (optional), set by `--set NAME.key=value`.
- `measure(subject, context)`: yields Row and Figure.
- `PARTS`: names of parts that are computed separately, each with its own result file (optional). The measure is called
  once for each, with `context.part`.
- `summary(rows)`: yields Rows computed from the rows of all parts of a subject (optional).
- `students(asked)`: returns the StudentRequests of a measure of sets that needs other students than the table's
  (optional). They are trained before, and are `subject.networks`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ddkit.core.seeds import rng
from ddkit.core.worker_state import STATE
from ddkit.errors import SetError
from ddkit.format.damage import open_shard
from ddkit.format.entries import Origin
from ddkit.format.manifest import Manifest
from ddkit.format.row_format import RowFormat
from ddkit.format.row_records import member
from ddkit.replay.stores.memory import load_set
from ddkit.sources.images import Source
from ddkit.teachers.teacher import Teacher

NEEDS = ("student", "validation", "teacher", "source")
SUBJECTS = ("network", "set")
BATCH = 256  # images

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric of a measure.

    Attributes:
        name: Its name in rows, as in "ece".
        title: What it is, in a few words, as in "expected calibration error".
        unit: "%", "points", "bytes", "s", or "" for a plain number.
        better: "higher" or "lower"; "" where neither is better.
        absent: Value of a condition for networks of which there is no row, where other ones have a row; None: a mean is
            that of the networks that have one, and is not compared.
        largest: Of the conditions "A > B" with the same A, so many are kept, those of the largest mean; None: all.
    """

    name: str
    title: str
    unit: str = ""
    better: str = ""
    absent: float | None = None
    largest: int | None = None


@dataclass(frozen=True)
class Row:
    """One value.

    Attributes:
        metric: Name of the metric.
        value: The value, in the metric's unit.
        condition: What it was measured under, as in "fog, severity 3"; "" for the summary, which the manifest and
            the card show.
        n: Number of images or other samples that it is computed from.
        seed: In a measure of sets, the seed of the student it belongs to; None: of all.
    """

    metric: str
    value: float
    condition: str = ""
    n: int | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Figure:
    """A picture or a chart.

    Attributes:
        name: Unique name within the measure, of letters, digits and dashes.
        caption: What it shows, one or two sentences.
        content: A picture, uint8 [H,W,3]; or a Vega-Lite specification with its data, as JSON values.
        private: Whether it shows real images, so that it is never published.
    """

    name: str
    caption: str
    content: np.ndarray | Mapping[str, Any]
    private: bool = False


@dataclass(frozen=True, kw_only=True)
class StudentRequest:
    """A student that a measure of sets needs.

    Attributes:
        arch: The network; None: that of the table.
        classes: Label indices of the classes it is trained on, in this order; None: all.
        full: Train it on the whole source instead of the set, by the recipe of teachers.
        epochs: Epochs of its training; None: those of the table, on the whole source those of the recipe.
        tag: Names the request within the measure.
    """

    arch: str | None = None
    classes: tuple[int, ...] | None = None
    full: bool = False
    epochs: int | None = None
    tag: str = ""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What students are requested for.

    Attributes:
        config: The measure's Config.
        manifest: The evaluated set.
        arch: The network of the table.
    """

    config: Any
    manifest: Manifest
    arch: str


@dataclass(frozen=True, kw_only=True)
class MeasuredNetwork:
    """A trained network: a student of a set, a network trained on the whole source, or the teacher.

    Attributes:
        of: What it was trained on, as in results: "this", "random", "equal-bytes"; "full" or "teacher".
        arch: Architecture.
        seed: Seed of its training; 0 for the teacher.
        checkpoint: Its checkpoint.
        order: Output column of each class of the set; None: the orders are the same.
        labels: Kind of labels it was trained with; None for the teacher.
        request: The request that it was trained for; None: a student of the table.
        epochs: Epochs of a training on the whole source; None: it is no such network.
    """

    of: str
    arch: str
    seed: int
    checkpoint: Path
    order: tuple[int, ...] | None = None
    labels: str | None = None
    request: StudentRequest | None = None
    epochs: int | None = None

    def load(self, device: torch.device) -> Teacher:
        """Return the frozen network with its normalisation, loaded once per process.

        Args:
            device: The device.
        """
        return Teacher.shared(self.checkpoint, device, self.order)


@dataclass(frozen=True, kw_only=True)
class MeasuredSet:
    """A set, or a prefix of it, with the students that were trained on it.

    Attributes:
        of: What it is, as in results: "this", "random" or "equal-bytes".
        manifest: The set.
        ipc: The prefix; None: the whole set.
        networks: Its students, of all seeds: those that the measure requested, else those of the table.
        total_bytes: What has to be shipped for the training of the table's students, bytes.
    """

    of: str
    manifest: Manifest
    ipc: int | None
    networks: tuple[MeasuredNetwork, ...]
    total_bytes: int

    def images(self) -> tuple[Tensor, Tensor]:
        """Return (images, uint8 [n,3,S,S]; labels, int64 [n]), in row order."""
        key = (self.manifest.content, self.ipc)
        store = STATE.keep("set images", key, lambda: load_set(self.manifest, self.ipc, with_labels=False), most=2)
        return store.images, torch.from_numpy(store.labels)

    def origins(self) -> list[tuple[int, Origin]]:
        """Return (label, origin) of every image, in row order."""
        form, found = RowFormat.of(self.manifest), []
        for shard in self.manifest.shards_of(self.ipc):
            tar, records = open_shard(self.manifest, shard)
            for record in records:
                metadata = form.unpack(member(tar, record.views), f"{shard.path} row {record.row}").metadata
                found.append((record.label, metadata.origin))
        return found


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a measure may use.

    Attributes:
        config: The measure's Config; None if it has none.
        classes: Class names, in label order.
        device: The device.
        part: One of the measure's PARTS; "" if it has none.
        validation_key: Everything that determines the validation images and their labels.
        load_validation: Returns the validation images; None: there are none.
        load_teacher: Returns the teacher; None: it is not at hand.
        load_source: Returns the source; None: it is not at hand.
    """

    config: Any
    classes: tuple[str, ...]
    device: torch.device
    part: str = ""
    validation_key: Hashable = ""
    load_validation: Callable[[], tuple[Tensor, Tensor]] | None = None
    load_teacher: Callable[[], Teacher] | None = None
    load_source: Callable[[], Source] | None = None

    def validation(self) -> tuple[Tensor, Tensor]:
        """Return the validation images, uint8 [n,3,S,S], and their labels, int64 [n]; loaded once per process."""
        return _needed(self.load_validation, "validation images")

    def teacher(self) -> Teacher:
        """Return the teacher, which may have other classes than the set's only by order; loaded once per process."""
        return _needed(self.load_teacher, "the teacher")

    def source(self) -> Source:
        """Return the source that the set was made from, without its holdout; opened once per process."""
        return _needed(self.load_source, "the source")

    def rng(self, *path: str | int) -> np.random.Generator:
        """Return a random generator that `path` alone determines.

        Args:
            *path: Names what is drawn.
        """
        return rng(0, "measure", *path)

    def cached(self, kind: str, key: Hashable, make: Callable[[], T], most: int = 1) -> T:
        """Return a value that is made once per process, as WorkerState.keep.

        Args:
            kind: Kind of value.
            key: Everything that determines the value.
            make: Makes the value.
            most: Number of values of this kind that are kept.
        """
        return STATE.keep(f"measure {kind}", key, make, most)

    def predictions(self, network: MeasuredNetwork) -> Tensor:
        """Return the logits of a network on the validation images, float32 [n,C]; computed once per process.

        Args:
            network: The network.
        """
        key = (str(network.checkpoint), network.order, self.validation_key)
        return self.cached("predictions", key, lambda: self.logits(network, self.validation()[0]), most=4)

    def accuracy(self, network: MeasuredNetwork) -> float:
        """Return the top-1 accuracy of a network on the validation images, in percent.

        Args:
            network: The network.
        """
        return 100 * float((self.predictions(network).argmax(1) == self.validation()[1]).float().mean())

    def teacher_features(self) -> Tensor:
        """Return the teacher's features of the validation images, float32 [n,F]; computed once per process."""
        key = (self.teacher().spec.hash, self.validation_key)
        return self.cached("features", key, lambda: self.features(self.teacher(), self.validation()[0]))

    def logits(self, network: MeasuredNetwork | Teacher, images: Tensor) -> Tensor:
        """Return the logits of a network, float32 [n,C] on the CPU, in the order of the set's classes.

        Args:
            network: A trained network, or the teacher.
            images: uint8 [n,3,S,S].
        """
        loaded = network if isinstance(network, Teacher) else network.load(self.device)
        return torch.cat([loaded.logits(loaded.normalise(part)).cpu() for part in images.split(BATCH)])

    def features(self, network: MeasuredNetwork | Teacher, images: Tensor) -> Tensor:
        """Return the inputs of a network's last linear layer, float32 [n,F] on the CPU.

        Args:
            network: A trained network, or the teacher.
            images: uint8 [n,3,S,S].
        """
        loaded = network if isinstance(network, Teacher) else network.load(self.device)
        return torch.cat([loaded.features(loaded.normalise(part)).cpu() for part in images.split(BATCH)])


def _needed(load: Callable[[], T] | None, what: str) -> T:
    if load is None:
        raise SetError(f"the measure uses {what}, which is not at hand; name it in the measure's NEEDS")
    return load()


Subject = MeasuredNetwork | MeasuredSet
Found = Row | Figure


@dataclass(frozen=True)
class Measure:
    """A measure: the names of its module, checked.

    Attributes:
        name, paper, cost, subject, needs, metrics: As in the module.
        run: `measure` of the module.
        config_type: Its Config; None if it has none.
        parts: Its PARTS; ("",) if it has none.
        students, summary: Its hooks; None if it has none.
        code: sha256 of its file.
    """

    name: str
    paper: str
    cost: str
    subject: str
    needs: frozenset[str]
    metrics: tuple[Metric, ...]
    run: Callable[[Any, Context], Iterable[Found]]
    config_type: type | None = None
    parts: tuple[str, ...] = ("",)
    students: Callable[[Asked], Sequence[StudentRequest]] | None = None
    summary: Callable[[Sequence[Row]], Iterable[Row]] | None = None
    code: str = field(default="", repr=False)

    def metric(self, name: str) -> Metric:
        """Return a metric by its name. Raises KeyError."""
        return {metric.name: metric for metric in self.metrics}[name]
