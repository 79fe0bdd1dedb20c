"""The teacher: a frozen network with its own normalisation. A stage's student, once frozen, has the same type."""

from __future__ import annotations

import copy
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ddkit.core.files import stamp
from ddkit.core.worker_state import STATE
from ddkit.errors import TeacherError
from ddkit.format.view_pixels import normalise
from ddkit.networks.checkpoints import load_checkpoint
from ddkit.networks.pretrained import head_of
from ddkit.networks.registry import forward
from ddkit.specs import TeacherSpec

Precision = Literal["float32", "bfloat16"]


class Teacher:
    """A frozen network with its normalisation and classes.

    Args:
        network: The network; it is moved to `device`, set to evaluation mode and frozen.
        spec: Its metadata, with mean, std, classes and hash.
        device: The device.
        order: Output column of each class of the source, where the network has the classes in another order; None: the
            orders are the same.
    """

    def __init__(self, network: nn.Module, spec: TeacherSpec, device: torch.device, order: np.ndarray | None = None):
        self.spec, self.device = spec, device
        self.network = network.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self.network.requires_grad_(False)
        self._order = None if order is None else torch.as_tensor(order, device=device)

    @classmethod
    def load(cls, path: str | Path, device: torch.device, order: tuple[int, ...] | None = None) -> Teacher:
        """Load a teacher from a checkpoint.

        Args:
            path: The checkpoint.
            device: The device.
            order: Output column of each class of the source; None: as in the checkpoint.

        Raises:
            TeacherError: The checkpoint cannot be loaded.
        """
        return cls(*load_checkpoint(path), device, None if order is None else np.array(order))

    @classmethod
    def shared(cls, path: str | Path, device: torch.device, order: tuple[int, ...] | None = None) -> Teacher:
        """Return the teacher of a checkpoint, loaded once per process and again only after the file has changed.

        Args:
            path: The checkpoint.
            device: The device.
            order: Output column of each class of the source; None: as in the checkpoint.

        Raises:
            TeacherError: The checkpoint cannot be loaded.
        """
        file = Path(path)
        key = (stamp(file) if file.is_file() else str(path), str(device), order)
        return STATE.keep("teacher", key, lambda: cls.load(path, device, order))

    @classmethod
    def of_run(cls, path: str, weights: str, device: torch.device, order: tuple[int, ...] | None) -> Teacher:
        """Return the teacher that a run began with; see `shared`.

        Args:
            path: The checkpoint.
            weights: Hash of its weights.
            device: The device.
            order: Output column of each class of the source.

        Raises:
            TeacherError: The checkpoint cannot be loaded, or has other weights.
        """
        teacher = cls.shared(path, device, order)
        if teacher.spec.hash != weights:
            raise TeacherError(
                f"{path} on {platform.node()} has other weights than when the run began; copy the teacher there again"
            )
        return teacher

    @property
    def classes(self) -> int:
        """Number of classes of the source."""
        return self.spec.num_classes if self._order is None else len(self._order)

    @torch.inference_mode()
    def logits(self, inputs: Tensor, precision: Precision = "float32") -> Tensor:
        """Return the logits, float32 [B,C], in the order of the source's classes.

        Args:
            inputs: Normalised images, float [B,3,S,S], on any device.
            precision: Arithmetic of the network.
        """
        with torch.autocast(self.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            return self.in_order(forward(self.network, inputs.to(self.device)).float())

    def rounded(self) -> Teacher:
        """Return the teacher as a set carries it: the set's classes alone, in order, and weights in half precision.

        It computes in float32.

        Raises:
            TeacherError: The classes have another order, and the network has no linear layer to cut; or a weight is too
                large for half precision.
        """
        network, spec = copy.deepcopy(self.network), self.spec
        if self._order is not None:
            head, columns = head_of(network), self._order.tolist()
            if head is None or head.out_features != spec.num_classes:
                raise TeacherError(f"{spec.arch} does not end in a linear layer; use another codec than teacher")
            head.weight = nn.Parameter(head.weight[self._order])
            head.bias = None if head.bias is None else nn.Parameter(head.bias[self._order])
            head.out_features = len(columns)
            ids = None if spec.class_ids is None else tuple(spec.class_ids[i] for i in columns)
            names = tuple(spec.classes[i] for i in columns)
            spec = replace(spec, num_classes=len(columns), classes=names, class_ids=ids)
        with torch.no_grad():
            for tensor in network.state_dict().values():
                if tensor.is_floating_point():
                    tensor.copy_(tensor.half())
                    if not torch.isfinite(tensor).all():
                        raise TeacherError(
                            f"{spec.arch} has weights above {torch.finfo(torch.float16).max:.0f}, the largest number "
                            "in half precision; use another codec than teacher"
                        )
        return Teacher(network, spec, self.device)

    @torch.inference_mode()
    def features(self, inputs: Tensor) -> Tensor:
        """Return the inputs of the last linear layer, float32 [B,F].

        Args:
            inputs: Normalised images, float [B,3,S,S], on any device.

        Raises:
            TeacherError: The network has no linear layer.
        """
        with penultimate(self.network) as seen:
            self.logits(inputs)
        return torch.cat(seen).float()

    def in_order(self, out: Tensor) -> Tensor:
        """Return the network's output `out`, [B,C], with its columns in the order of the source's classes."""
        return out if self._order is None else out[:, self._order]

    def normalise(self, pixels: Tensor) -> Tensor:
        """Return `pixels`, uint8 [B,3,H,W], as normalised inputs of `logits`, on the teacher's device."""
        return normalise(pixels.to(self.device), self.spec.mean, self.spec.std)


@contextmanager
def penultimate(network: nn.Module) -> Iterator[list[Tensor]]:
    """Collect the inputs of the last linear layer in every forward pass while the context is open.

    Args:
        network: The network.

    Yields:
        A list to which each forward pass appends [B,F], with gradients.

    Raises:
        TeacherError: The network has no linear layer.
    """
    linear = [module for module in network.modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise TeacherError("the network does not end in a linear layer, so it has no features; use another one")
    seen: list[Tensor] = []

    def keep(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        seen.append(inputs[0])

    handle = linear[-1].register_forward_pre_hook(keep)
    try:
        yield seen
    finally:
        handle.remove()
