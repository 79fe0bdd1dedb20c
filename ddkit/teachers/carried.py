"""The teacher that a set with codec `teacher` carries, its weights in half precision."""

from __future__ import annotations

from pathlib import Path

import torch

from ddkit.core.files import file_sha256
from ddkit.errors import IntegrityError, TeacherError
from ddkit.format.entries import LabelFile
from ddkit.format.label_file import CARRIED_TEACHER
from ddkit.format.manifest import Manifest
from ddkit.networks.checkpoints import load_checkpoint, save_checkpoint
from ddkit.teachers.teacher import Teacher


def write_carried(root: Path, teacher: Teacher) -> LabelFile:
    """Write `teacher.safetensors` atomically and return its entry for the manifest.

    Args:
        root: Directory of the set.
        teacher: The teacher.

    Raises:
        TeacherError: The set has a selection of its classes, and the network has no linear layer to cut.
        DiskError: The file cannot be written.
    """
    path, rounded = root / CARRIED_TEACHER, teacher.rounded()
    save_checkpoint(path, rounded.network, rounded.spec, half=True)
    return LabelFile(path=CARRIED_TEACHER, bytes=path.stat().st_size, sha256=file_sha256(path))


def load_carried(manifest: Manifest, device: torch.device) -> Teacher:
    """Load the teacher that a set carries.

    Args:
        manifest: A set with codec `teacher`.
        device: The device.

    Raises:
        IntegrityError: The file is missing or damaged, or its network does not belong to the set.
    """
    entry = manifest.labels.file
    assert entry is not None
    path = manifest.root / entry.path
    if not path.is_file() or path.stat().st_size != entry.bytes or file_sha256(path) != entry.sha256:
        raise IntegrityError(f"{manifest.where}: {entry.path} differs from the manifest; fetch the set again")
    try:
        network, spec = load_checkpoint(path)
    except TeacherError as error:
        raise IntegrityError(f"{manifest.where}: {entry.path} is not a usable network ({error})") from error
    wanted = (len(manifest.classes), manifest.views.size, manifest.normalisation.mean, manifest.normalisation.std)
    if (spec.num_classes, spec.image_size, spec.mean, spec.std) != wanted:
        raise IntegrityError(
            f"{manifest.where}: {entry.path} has {spec.num_classes} classes, {spec.image_size} px, mean {spec.mean} "
            f"and std {spec.std}, unlike the set; fetch the set again"
        )
    return Teacher(network, spec, device)
