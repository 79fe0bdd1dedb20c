"""The teacher that `--teacher` names: a file, a library's network, or one trained once and kept in the cache."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ddkit.core.console import note
from ddkit.core.device import threads
from ddkit.core.files import cache_dir, locked
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
    """A teacher that is at hand.

    path: its checkpoint; spec: what it says of itself; network: with its weights; order: its output column for each
    class of the source where the order differs, None = as it is.
    """

    path: Path
    spec: TeacherSpec
    network: nn.Module
    order: tuple[int, ...] | None = None

    def open(self, device: torch.device) -> Teacher:
        """The teacher, frozen, on a device."""
        return Teacher(self.network, self.spec, device, None if self.order is None else np.array(self.order))


@dataclass(frozen=True)
class TeacherChoice:
    """What `--teacher` names: FILE, `timm:NAME[@FILE]`, `torchvision:NAME[@FILE]` or `train[:ARCH]`.

    ref: as it was given; size: of its input, pixels, None: its own. A library's network is loaded once, when it is
    first asked for.
    """

    ref: str
    size: int | None

    @functools.cached_property
    def _pretrained(self) -> Pretrained:
        return load_pretrained(self.ref, self.size)

    def needs_training(self, classes: Sequence[ClassName] | None) -> bool:
        """Whether it has to be trained first: `train`, or a library's network that knows other classes.

        classes: of the source; None where there is no source to train on.
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
        """A teacher that needs no training, seen to know these classes.

        what: whose classes, for messages. Raises TeacherError (another class count), ClassesError (other classes),
        OptionError where it would have to be trained.
        """
        return _matched(*self._at_hand(), classes, what)

    def _at_hand(self) -> tuple[Path, nn.Module, TeacherSpec]:
        """Its checkpoint, opened. Raises TeacherError, OptionError."""
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
        """A teacher of classes that are numbers in its own order, and their names, which are the teacher's.

        classes: as the source calls them; numbers: theirs; what: whose classes, for messages. Raises as `resolve`.
        """
        path, network, spec = self._at_hand()
        names = list(classes)
        if {c.name for c in classes} != set(spec.classes):
            if sorted(numbers) != list(range(spec.num_classes)):
                raise ClassesError(
                    f"the numbered classes ({first_few(c.name for c in classes)}) are not 0 to {spec.num_classes - 1}, "
                    f"which the teacher {path.name} knows; give another teacher, or name the folders by class"
                )
            names = [spec.class_names()[n] for n in numbers]
        return _matched(path, network, spec, names, what), names

    def training(self, source: Source, *, seed: int, device: torch.device) -> Training:
        """The training of it on a source, or of a library's network that is fine-tuned on it. Raises OptionError."""
        size = self.size or source.default_size()
        init = self._pretrained if is_library(self.ref) else None
        arch = init.arch if init else self.ref.partition(":")[2] or default_arch(source.ref.data, size, device)
        spec = teacher_recipe("finetune" if init else None, source.ref.data, size, None)
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
    ) -> ResolvedTeacher:
        """The teacher trained on a source, or a library's network fine-tuned on it; made once and kept in the cache.

        It is kept by source, size, architecture, recipe, seed and kind of device. what: whose classes, for messages;
        on_estimate: receives the expected seconds after 20 steps. Raises TeacherError, OptionError, Diverged, DiskError.
        """
        training = self.training(source, seed=seed, device=device)
        training.run(on_estimate)
        return _matched(training.path, *load_checkpoint(training.path), source.classes, what)


def resolve_teacher(ref: str, classes: Sequence[ClassName], what: str, *, size: int | None = None) -> ResolvedTeacher:
    """The teacher that `--teacher` names, where it needs no training, seen to know `classes`.

    ref: FILE, `timm:NAME[@FILE]` or `torchvision:NAME[@FILE]`; what: whose classes, for messages; size: of its input,
    pixels, None: its own. Raises TeacherError, ClassesError, OptionError.
    """
    return TeacherChoice(ref, size).resolve(classes, what)


def _matched(
    path: Path, network: nn.Module, spec: TeacherSpec, classes: Sequence[ClassName], what: str
) -> ResolvedTeacher:
    """A checkpoint with its column for each class. Raises TeacherError, ClassesError."""
    if spec.num_classes != len(classes):
        raise TeacherError(
            f"teacher {path} knows {spec.num_classes} classes, {what} has {len(classes)}; "
            f"train one with `ddkit teach T.safetensors --data SOURCE --arch {spec.arch}`"
        )
    order = match_classes(classes, spec.class_names(), what=f"{what} and the teacher")
    same = bool((order == np.arange(len(order))).all())
    return ResolvedTeacher(path, spec, network, None if same else tuple(int(i) for i in order))


@dataclass(frozen=True)
class Training:
    """A teacher that is to be trained once: on what, how, and where it is kept.

    key: stands for all that decides its weights; init: the pretrained network that is fine-tuned, None = from scratch.
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
        """Stands for all that decides its weights."""
        return training_key(self.source, self.size, self.arch, self.spec, self.seed, self.device, self.init)

    @property
    def path(self) -> Path:
        """Its checkpoint in the cache."""
        name = f"{self.arch.replace(':', '-')}-{self.size}-{self.key[:24]}.safetensors"
        return cache_dir() / "teachers" / name

    @property
    def steps(self) -> int:
        """Steps of the training."""
        images = len(self.source)
        return self.spec.epochs_for(images, drop_last=True) * (images // self.spec.batch_for(images))

    def run(self, on_estimate: Callable[[float], None] | None) -> None:
        """Train it where it is not in the cache. on_estimate: receives the expected seconds after 20 steps."""
        with locked(self.path, "training the teacher", {"key": self.key}):
            if _is_whole(self.path):
                note(f"teacher: {self.arch} for this source is in the cache ({self.path})")
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
        """An untrained network of the same architecture: as fast as the teacher, for measuring what a run costs."""
        classes = tuple(self.source.class_names)
        network = check_network(self.arch, len(classes), self.size)
        spec = TeacherSpec(
            arch=self.arch, num_classes=len(classes), image_size=self.size, mean=(0.5,) * 3, std=(0.25,) * 3,
            classes=classes,
        )  # fmt: skip
        return Teacher(network, spec, self.device)

    def seconds(self) -> float:
        """How long the training will take, measured on a few steps; 0 where the teacher is in the cache."""
        if self.path.is_file():
            return 0.0
        batch = self.spec.batch_for(len(self.source))
        network = check_network(self.arch, len(self.source.classes), self.size)
        with threads(self.spec.threads):
            return self.steps * seconds_a_step(network, self.spec, batch, self.size, self.device)


def _is_whole(path: Path) -> bool:
    """Whether a teacher is in the cache and what was written there; a damaged one is made again."""
    if not path.is_file():
        return False
    try:
        load_checkpoint(path)
    except TeacherError as error:
        note(f"teacher: {error}; it is made again")
        return False
    return True


def _from_library(ref: str, found: Pretrained) -> tuple[Path, nn.Module, TeacherSpec]:
    """A pretrained network of timm or torchvision as one of our checkpoints, written into the cache."""
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
