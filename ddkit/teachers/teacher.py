"""The teacher: a frozen network with its own normalisation. A stage's student, frozen, is one too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ddkit.errors import TeacherError
from ddkit.format.view_pixels import normalise
from ddkit.networks.checkpoints import load_checkpoint
from ddkit.networks.registry import forward
from ddkit.specs import TeacherSpec


class Teacher:
    """A frozen network. `spec` holds its mean, std, classes and hash; inputs are float [B,3,S,S], normalised by them.

    order: where its classes stand in another order than the source's, the output column of each source class.
    """

    def __init__(self, network: nn.Module, spec: TeacherSpec, device: torch.device, order: np.ndarray | None = None):
        self.spec, self.device = spec, device
        self.network = network.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self.network.requires_grad_(False)
        self._order = None if order is None else torch.as_tensor(order, device=device)

    @classmethod
    def load(cls, path: str | Path, device: torch.device, order: tuple[int, ...] | None = None) -> Teacher:
        """A teacher from its checkpoint. Raises TeacherError."""
        return cls(*load_checkpoint(path), device, None if order is None else np.array(order))

    @torch.inference_mode()
    def logits(self, inputs: Tensor) -> Tensor:
        """float [B,3,S,S] on any device -> float32 [B,C], in the order of the source's classes."""
        return self.in_order(forward(self.network, inputs.to(self.device)).float())

    @torch.inference_mode()
    def features(self, inputs: Tensor) -> Tensor:
        """float [B,3,S,S] -> float32 [B,F]: what the last linear layer reads. Raises TeacherError without one."""
        with penultimate(self.network) as seen:
            self.logits(inputs)
        return torch.cat(seen).float()

    def in_order(self, out: Tensor) -> Tensor:
        """The network's output [B,C] with its columns in the order of the source's classes."""
        return out if self._order is None else out[:, self._order]

    def normalise(self, pixels: Tensor) -> Tensor:
        """uint8 [B,3,H,W] -> what `logits` takes."""
        return normalise(pixels.to(self.device), self.spec.mean, self.spec.std)


@contextmanager
def penultimate(network: nn.Module) -> Iterator[list[Tensor]]:
    """While open, every pass appends what the last linear layer reads, [B,F], with gradients. Raises TeacherError."""
    linear = [module for module in network.modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise TeacherError("the network has no linear layer at its end, so it has no features; use another one")
    seen: list[Tensor] = []

    def keep(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        seen.append(inputs[0])

    handle = linear[-1].register_forward_pre_hook(keep)
    try:
        yield seen
    finally:
        handle.remove()
