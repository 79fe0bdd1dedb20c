"""The state of an unfinished training: saved under all that decides its weights, and resumed to the same weights."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ddkit.core.console import note
from ddkit.core.files import write_bytes
from ddkit.engine.units import UnitFile

Example = tuple[Tensor, Tensor]  # inputs float [B,3,S,S], target [B,...]
Log = list[dict[str, float]]  # an entry an epoch


@dataclass(frozen=True)
class PartialEpoch:
    """An epoch that was left in the middle: steps done, the sum of their losses, and the states of the random
    generators that layers draw from."""

    step: int = 0
    total: float = 0.0
    random: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def at(cls, step: int, total: Tensor, generators: Sequence[torch.device]) -> PartialEpoch:
        """Where the current epoch stands. generators: CUDA devices whose generators are kept, besides the CPU's."""
        random = {"cpu": torch.get_rng_state()} | {str(d): torch.cuda.get_rng_state(d) for d in generators}
        return cls(step, float(total), random)

    def restore(self, batches: Iterator[Example], total: Tensor) -> int:
        """Skip the batches that were trained on and go on with their sum; returns how many they were."""
        for _ in range(self.step):
            next(batches)
        total.fill_(self.total)
        for name, state in self.random.items():
            torch.set_rng_state(state) if name == "cpu" else torch.cuda.set_rng_state(state, name)
        return self.step


def save_state(
    file: UnitFile | None,
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    history: Log,
    partial: PartialEpoch | None = None,
) -> None:
    """Write what `load_state` needs. file: where, None keeps nothing; history: of whole epochs. Raises DiskError."""
    if file is None:
        return
    tensors = {f"network.{k}": v for k, v in network.state_dict().items()}
    for i, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{i}.{k}": torch.as_tensor(v) for k, v in state.items()}
    metadata: dict[str, Any] = {"history": history, "threads": torch.get_num_threads()}
    if partial is not None:
        metadata |= {"step": partial.step, "total": partial.total}
        tensors |= {f"random.{name}": state for name, state in partial.random.items()}
    file.write({k: v.detach().cpu().numpy() for k, v in tensors.items()}, metadata)


def load_state(
    file: UnitFile | None, network: nn.Module, optimiser: torch.optim.Optimizer, log: Path | None
) -> tuple[Log, PartialEpoch]:
    """Load the state that was saved last; returns the log of its whole epochs and the epoch left in the middle.

    A damaged state, or one of another training, is not continued. log: the metrics file, which is cut to the state.
    """
    history: Log = []
    partial = PartialEpoch()
    if file is not None and file.is_good():
        arrays, metadata = file.read()
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        history = metadata["history"]
        network.load_state_dict(_part(tensors, "network."))
        _load_optimiser(optimiser, _part(tensors, "optimiser."))
        if "step" in metadata:
            partial = PartialEpoch(metadata["step"], metadata["total"], _part(tensors, "random."))
    elif file is not None and file.path.is_file():
        note(f"{file.path} is damaged or of another training; this one starts anew")
    if log:
        log.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(log, "".join(json.dumps(entry) + "\n" for entry in history).encode())
    return history, partial


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _load_optimiser(optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        i, _, key = name.partition(".")
        state.setdefault(int(i), {})[key] = tensor
    optimiser.load_state_dict(optimiser.state_dict() | {"state": state})
    for parameter, held in optimiser.state.items():  # files are contiguous, weights channels-last: fused wants one
        held |= {k: torch.empty_like(parameter).copy_(v) for k, v in held.items() if v.shape == parameter.shape}
