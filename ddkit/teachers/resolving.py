"""The checkpoint that `--teacher` names: a file, a library's network, or one trained once and kept in the cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from ddkit.core.console import note
from ddkit.core.files import cache_dir, locked
from ddkit.errors import ClassesError, OptionError, TeacherError
from ddkit.networks.checkpoints import load_checkpoint, save_checkpoint, tensor_hash
from ddkit.networks.pretrained import is_library, load_pretrained
from ddkit.sources.classes import match_classes
from ddkit.sources.images import Source
from ddkit.specs import ClassName, TeacherSpec
from ddkit.teachers.teaching import default_arch, teacher_recipe, train_teacher, training_key


def find_teacher(
    ref: str,
    source: Source | None,
    *,
    size: int | None,
    seed: int,
    device: torch.device,
    on_estimate: Callable[[float], None] | None = None,
) -> Path:
    """The checkpoint that `--teacher` names: FILE, `timm:NAME[@FILE]`, `torchvision:NAME[@FILE]` or `train[:ARCH]`.

    One that is trained, or pretrained on other classes than the source's and so fine-tuned, is made once per (source,
    size, arch, recipe, seed) and kept in the cache; it needs a source. Raises TeacherError, OptionError.
    """
    if is_trained(ref, None if source is None else source.classes):
        if source is None:
            raise OptionError(f"--teacher {ref} needs a source; give a checkpoint")
        return _trained(ref, source, size, seed, device, on_estimate)
    return _from_library(ref, size) if is_library(ref) else Path(ref).absolute()


def is_trained(ref: str, classes: Sequence[ClassName] | None) -> bool:
    """Whether a teacher has to be trained first: `train`, or a library's network that knows other classes."""
    if ref.partition(":")[0] == "train":
        return True
    if classes is None or not is_library(ref):
        return False
    known = load_pretrained(ref, None).imagenet_classes()
    if known is None or len(known) != len(classes):
        return True
    try:
        match_classes(classes, known, what="the source and the network")
    except ClassesError:
        return True
    return False


def match_teacher(path: Path, classes: Sequence[ClassName], what: str) -> tuple[TeacherSpec, tuple[int, ...] | None]:
    """A checkpoint's spec, and its column for each class where the order differs (else None).

    what: whose classes, for the message. Raises TeacherError (another class count), ClassesError (other classes).
    """
    _, spec = load_checkpoint(path)
    if spec.num_classes != len(classes):
        raise TeacherError(
            f"teacher {path} knows {spec.num_classes} classes, {what} has {len(classes)}; "
            f"train one with `ddkit teach T.safetensors --data SOURCE --arch {spec.arch}`"
        )
    order = match_classes(classes, spec.class_names(), what=f"{what} and the teacher")
    return spec, None if (order == np.arange(len(order))).all() else tuple(int(i) for i in order)


def _trained(
    ref: str,
    source: Source,
    size: int | None,
    seed: int,
    device: torch.device,
    on_estimate: Callable[[float], None] | None,
) -> Path:
    size = size or source.default_size()
    init = load_pretrained(ref, size) if is_library(ref) else None
    arch = init.arch if init else ref.partition(":")[2] or default_arch(source.ref.data, size)
    spec = teacher_recipe("finetune" if init else None, source.ref.data, size, None)
    key = training_key(source, size, arch, spec, seed, device, init)
    path = cache_dir() / "teachers" / f"{arch.replace(':', '-')}-{size}-{key[:24]}.safetensors"
    with locked(path, "training the teacher", {"key": key}):
        if _is_whole(path):
            note(f"teacher: {arch} for this source is in the cache ({path})")
            return path
        doing = "fine-tuning" if init else "training"
        where = f"{source.ref.data} ({len(source)} images, {size} px)"
        note(f"teacher: {doing} {arch} on {where}, once; kept in {path.parent}")
        state = path.with_name(path.name + ".state")
        train_teacher(
            path, source, arch=arch, size=size, spec=spec, seed=seed, device=device, state=state, key=key, init=init,
            on_estimate=on_estimate,
        )  # fmt: skip
    return path


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


def _from_library(ref: str, size: int | None) -> Path:
    """A pretrained network of timm or torchvision as one of our checkpoints, in the cache."""
    found = load_pretrained(ref, size)
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
    save_checkpoint(path, found.network, spec)
    return path
