"""Resolves `--teacher`: a checkpoint, a network of timm or torchvision, or a teacher trained once and cached."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ddkit.core.console import note
from ddkit.core.device import threads
from ddkit.core.files import cache_dir
from ddkit.core.locks import locked
from ddkit.errors import ClassesError, OptionError, TeacherError, first_few
from ddkit.networks.checkpoints import load_checkpoint, save_checkpoint, tensor_hash
from ddkit.networks.pretrained import Pretrained, is_library, load_pretrained
from ddkit.networks.registry import check_network
from ddkit.networks.steps import seconds_a_step
from ddkit.sources.classes import match_classes
from ddkit.sources.images import Source
from ddkit.specs import ClassName, TeacherSpec, TrainSpec
from ddkit.teachers.teacher import Teacher
from ddkit.teachers.teaching import default_arch, teacher_recipe, train_teacher, training_key


@dataclass(frozen=True)
class ResolvedTeacher:
    """A teacher that is available.

    Attributes:
        path: Its checkpoint.
        spec: Metadata of the checkpoint.
        network: The network with its weights.
        order: Output column of each class of the source; None if both have the same order.
        epochs: Epochs of its training, if ddkit was asked for one.
    """

    path: Path
    spec: TeacherSpec
    network: nn.Module
    order: tuple[int, ...] | None = None
    epochs: int | None = None

    def open(self, device: torch.device) -> Teacher:
        """Return the frozen teacher on `device`."""
        return Teacher(self.network, self.spec, device, None if self.order is None else np.array(self.order))


@dataclass(frozen=True)
class TeacherChoice:
    """The value of `--teacher`: FILE, `timm:NAME[@FILE]`, `torchvision:NAME[@FILE]` or `train[:ARCH]`.

    A library's network is loaded once, at first use.

    Attributes:
        ref: The value as given.
        size: Side of the input, pixels; None: the network's own.
    """

    ref: str
    size: int | None

    @functools.cached_property
    def _pretrained(self) -> Pretrained:
        return load_pretrained(self.ref, self.size)

    def needs_training(self, classes: Sequence[ClassName] | None) -> bool:
        """Return whether the teacher has to be trained first: `train`, or a library's network with other classes.

        Args:
            classes: Classes of the source; None if there is no source to train on.
        """
        if self.ref.partition(":")[0] == "train":
            return True
        if classes is None or not is_library(self.ref):
            return False
        known = self._pretrained.imagenet_classes()
        if known is None or len(known) != len(classes):
            return True
        try:
            match_classes(classes, known, what="the source and the network")
        except ClassesError:
            return True
        return False

    def resolve(self, classes: Sequence[ClassName], what: str) -> ResolvedTeacher:
        """Return a teacher that needs no training, checked to have the given classes.

        Args:
            classes: The classes.
            what: What the classes belong to, for messages.

        Raises:
            TeacherError: The teacher cannot be loaded or has another number of classes.
            ClassesError: The teacher has other classes.
            OptionError: The teacher would have to be trained.
        """
        return _matched(*self.at_hand(), classes, what)

    def at_hand(self) -> tuple[Path, nn.Module, TeacherSpec]:
        """Return (path, network, metadata) of the checkpoint. Raises TeacherError, OptionError."""
        if self.needs_training(None):
            raise OptionError(f"--teacher {self.ref} needs a source; give a checkpoint")
        if is_library(self.ref):
            return _from_library(self.ref, self._pretrained)
        path = Path(self.ref).absolute()
        if not path.is_file() and path.suffix != ".safetensors":
            raise TeacherError(
                f"no checkpoint {self.ref}; did you mean train:{self.ref} (trained once on the source) or "
                f"timm:{self.ref} (pretrained)?"
            )
        return path, *load_checkpoint(path)

    def resolve_numbered(
        self, classes: Sequence[ClassName], numbers: Sequence[int], what: str
    ) -> tuple[ResolvedTeacher, list[ClassName]]:
        """Resolve a teacher for classes that may be numbered by the teacher's outputs instead of named.

        Args:
            classes: Classes as the source names them.
            numbers: For each class, its number, which is the index of the teacher's output.
            what: What the classes belong to, for messages.

        Returns:
            (teacher, names of the classes: the teacher's, unless the source has the same names).

        Raises:
            TeacherError, ClassesError, OptionError: As `resolve`.
        """
        path, network, spec = self.at_hand()
        names = list(classes)
        if {c.name for c in classes} != set(spec.classes):
            if sorted(numbers) != list(range(spec.num_classes)):
                raise ClassesError(
                    f"the numbered classes ({first_few(c.name for c in classes)}) are not 0 to {spec.num_classes - 1}, "
                    f"which the teacher {path.name} knows; give another teacher, or name the folders by class"
                )
            names = [spec.class_names()[n] for n in numbers]
        return _matched(path, network, spec, names, what), names

    def training(self, source: Source, *, seed: int, device: torch.device, epochs: int | None = None) -> Training:
        """Return the training of this teacher on a source, or the fine-tuning of a library's network on it.

        Args:
            source: The source.
            seed: Seed of the training.
            device: The device.
            epochs: Number of epochs; None: the recipe's.

        Raises:
            OptionError, TeacherError.
        """
        size = self.size or source.default_size()
        init = self._pretrained if is_library(self.ref) else None
        arch = init.arch if init else self.ref.partition(":")[2] or default_arch(source.ref.data, size, device)
        spec = teacher_recipe("finetune" if init else None, source.ref.data, size, epochs)
        check_network(arch, len(source.classes), size)
        return Training(source, size, arch, spec, seed, device, init)

    def train(
        self,
        source: Source,
        *,
        seed: int,
        device: torch.device,
        what: str,
        on_estimate: Callable[[float], None] | None = None,
        epochs: int | None = None,
    ) -> ResolvedTeacher:
        """Return the teacher trained on a source, or a library's network fine-tuned on it.

        It is trained once and cached by source, size, architecture, recipe, seed and type of device.

        Args:
            source: The source.
            seed: Seed of the training.
            device: The device.
            what: What the classes belong to, for messages.
            on_estimate: Called once, after 20 measured steps, with the expected remaining seconds.
            epochs: Number of epochs; None: the recipe's.

        Raises:
            TeacherError, OptionError, Diverged, DiskError.
        """
        training = self.training(source, seed=seed, device=device, epochs=epochs)
        training.run(on_estimate)
        found = _matched(training.path, *load_checkpoint(training.path), source.classes, what)
        return replace(found, epochs=training.epochs)


def resolve_teacher(ref: str, classes: Sequence[ClassName], what: str, *, size: int | None = None) -> ResolvedTeacher:
    """Return the teacher that `--teacher` names, if it needs no training, checked to have the given classes.

    Args:
        ref: FILE, `timm:NAME[@FILE]` or `torchvision:NAME[@FILE]`.
        classes: The classes.
        what: What the classes belong to, for messages.
        size: Side of the input, pixels; None: the network's own.

    Raises:
        TeacherError, ClassesError, OptionError.
    """
    return TeacherChoice(ref, size).resolve(classes, what)


def _matched(
    path: Path, network: nn.Module, spec: TeacherSpec, classes: Sequence[ClassName], what: str
) -> ResolvedTeacher:
    """Return a loaded teacher with its output column for each class. Raises TeacherError, ClassesError."""
    check_class_count(path, spec, len(classes), what)
    order = match_classes(classes, spec.class_names(), what=f"{what} and the teacher")
    same = bool((order == np.arange(len(order))).all())
    return ResolvedTeacher(path, spec, network, None if same else tuple(int(i) for i in order))


def check_class_count(path: Path, spec: TeacherSpec, classes: int, what: str) -> None:
    """Check that a teacher has as many classes as a source.

    Args:
        path: Checkpoint of the teacher.
        spec: Its metadata.
        classes: Number of classes of the source.
        what: The source, for messages.

    Raises:
        TeacherError: It has another number.
    """
    if spec.num_classes != classes:
        raise TeacherError(
            f"teacher {path} knows {spec.num_classes} classes, {what} has {classes}; "
            f"train one with `ddkit teach T.safetensors --data SOURCE --arch {spec.arch}`"
        )


def stand_in(arch: str, classes: Sequence[str], size: int, device: torch.device) -> Teacher:
    """Return an untrained teacher, whose speed gives the cost of a run.

    Args:
        arch: Architecture.
        classes: Names of the classes.
        size: Side of the input, pixels.
        device: The device.

    Raises:
        OptionError: There is no such architecture, or the images are too small for it.
    """
    spec = TeacherSpec(
        arch=arch, num_classes=len(classes), image_size=size, mean=(0.5,) * 3, std=(0.25,) * 3, classes=tuple(classes)
    )
    return Teacher(check_network(arch, len(classes), size), spec, device)


@dataclass(frozen=True, kw_only=True)
class TrainingLength:
    """How long the training of a teacher is.

    Attributes:
        steps: Number of steps.
        batch: Images per step.
        spec: Hyperparameters.
    """

    steps: int
    batch: int
    spec: TrainSpec

    @classmethod
    def of(cls, spec: TrainSpec, images: int) -> TrainingLength:
        """Return the length of a training on `images` images."""
        batch = spec.batch_for(images)
        return cls(steps=spec.epochs_for(images, drop_last=True) * (images // batch), batch=batch, spec=spec)

    def seconds(self, teacher: Teacher, size: int) -> float:
        """Return the expected seconds, measured on a few steps.

        Args:
            teacher: A stand-in (`stand_in`); its network is not changed.
            size: Side of the input, pixels.
        """
        network = check_network(teacher.spec.arch, teacher.spec.num_classes, size)
        with threads(self.spec.threads):
            return self.steps * seconds_a_step(network, self.spec, self.batch, size, teacher.device)


@dataclass(frozen=True)
class Training:
    """Training of a teacher whose checkpoint is kept in the cache.

    Attributes:
        source: The source.
        size: Side of the input, pixels.
        arch: Architecture.
        spec: Hyperparameters.
        seed: Seed of the training.
        device: The device.
        init: The pretrained network to fine-tune; None: the training starts from scratch.
    """

    source: Source
    size: int
    arch: str
    spec: TrainSpec
    seed: int
    device: torch.device
    init: Pretrained | None

    @functools.cached_property
    def key(self) -> str:
        """Hash of everything that determines the weights."""
        return training_key(self.source, self.size, self.arch, self.spec, self.seed, self.device, self.init)

    @property
    def epochs(self) -> int:
        """Number of epochs."""
        return self.spec.epochs_for(len(self.source), drop_last=True)

    @property
    def path(self) -> Path:
        """The checkpoint in the cache."""
        name = f"{self.arch.replace(':', '-')}-{self.size}-{self.key[:24]}.safetensors"
        return cache_dir() / "teachers" / name

    def run(self, on_estimate: Callable[[float], None] | None) -> None:
        """Train the teacher, unless the cache has a valid checkpoint of it.

        Args:
            on_estimate: Called once, after 20 measured steps, with the expected remaining seconds.
        """
        with locked(self.path, "training the teacher", {"key": self.key}):
            if _is_whole(self.path):
                note(f"teacher: using the cached {self.arch} for this source ({self.path})")
                return
            doing = "fine-tuning" if self.init else "training"
            where = f"{self.source.ref.data} ({len(self.source)} images, {self.size} px)"
            note(f"teacher: {doing} {self.arch} on {where}, once; kept in {self.path.parent}")
            train_teacher(
                self.path, self.source, arch=self.arch, size=self.size, spec=self.spec, seed=self.seed,
                device=self.device, state=self.path.with_name(self.path.name + ".state"), key=self.key,
                init=self.init, on_estimate=on_estimate,
            )  # fmt: skip

    def stand_in(self) -> Teacher:
        """Return an untrained teacher of the same architecture."""
        return stand_in(self.arch, self.source.class_names, self.size, self.device)

    def seconds(self) -> float:
        """Return the expected seconds of the training, measured on a few steps; 0 if the checkpoint is in the cache."""
        if self.path.is_file():
            return 0.0
        return TrainingLength.of(self.spec, len(self.source)).seconds(self.stand_in(), self.size)


def _is_whole(path: Path) -> bool:
    """Return whether the cache has a valid checkpoint at `path`; a damaged one is noted, and trained again."""
    if not path.is_file():
        return False
    try:
        load_checkpoint(path)
    except TeacherError as error:
        note(f"teacher: {error}; it is trained again")
        return False
    return True


def _from_library(ref: str, found: Pretrained) -> tuple[Path, nn.Module, TeacherSpec]:
    """Write a pretrained network of timm or torchvision into the cache; returns (path, network, metadata)."""
    classes = found.imagenet_classes()
    if classes is None:
        raise TeacherError(
            f"{found.arch} has no ImageNet-1K head, so its classes have no names; fine-tune it on your source with "
            f"`ddkit teach T.safetensors --data SOURCE --init {ref}`"
        )
    spec = TeacherSpec(
        arch=found.arch, num_classes=len(classes), image_size=found.size, mean=found.mean, std=found.std,
        classes=tuple(c.name for c in classes), class_ids=tuple(c.id for c in classes),
    )  # fmt: skip
    name = found.arch.replace(":", "-")
    path = cache_dir() / "teachers" / f"{name}-{tensor_hash(found.network.state_dict())[:24]}.safetensors"
    return path, found.network.eval(), save_checkpoint(path, found.network, spec)
