"""State of an unfinished training, saved under a hash of everything that determines the weights."""

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
Log = list[dict[str, float]]  # one entry per epoch


@dataclass(frozen=True)
class PartialEpoch:
    """Position within an epoch that was interrupted.

    Attributes:
        step: Steps done.
        total: Sum of their losses.
        random: State of each random generator that layers draw from, by "cpu" or the name of the CUDA device.
    """

    step: int = 0
    total: float = 0.0
    random: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def at(cls, step: int, total: Tensor, generators: Sequence[torch.device]) -> PartialEpoch:
        """Record the position within the current epoch.

        Args:
            step: Steps done.
            total: Sum of their losses, scalar.
            generators: CUDA devices whose generator states are recorded besides the CPU's.
        """
        random = {"cpu": torch.get_rng_state()} | {str(d): torch.cuda.get_rng_state(d) for d in generators}
        return cls(step, float(total), random)

    def restore(self, batches: Iterator[Example], total: Tensor) -> int:
        """Skip the batches that were trained on, and restore the sum of losses and the random generators.

        Args:
            batches: The batches of the epoch, from its first.
            total: Scalar tensor that is set to the sum of losses.

        Returns:
            Number of batches skipped.
        """
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
    *,
    threads: bool = True,
) -> None:
    """Write the state that `load_state` reads.

    Args:
        file: Where to write; None: nothing is written.
        network: The network.
        optimiser: Its optimiser.
        history: Log of the completed epochs.
        partial: Position within the current epoch; None: between two epochs.
        threads: Record the number of CPU threads, which a training in one process keeps when it resumes.

    Raises:
        DiskError: The file cannot be written.
    """
    if file is None:
        return
    tensors = {f"network.{k}": v for k, v in network.state_dict().items()}
    for i, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{i}.{k}": torch.as_tensor(v) for k, v in state.items()}
    metadata: dict[str, Any] = {"history": history} | ({"threads": torch.get_num_threads()} if threads else {})
    if partial is not None:
        metadata |= {"step": partial.step, "total": partial.total}
        tensors |= {f"random.{name}": state for name, state in partial.random.items()}
    file.write({k: v.detach().cpu().numpy() for k, v in tensors.items()}, metadata)


def load_state(
    file: UnitFile | None, network: nn.Module, optimiser: torch.optim.Optimizer, log: Path | None
) -> tuple[Log, PartialEpoch]:
    """Load the last saved state into a network and its optimiser.

    A state that is damaged or was saved under another key is ignored, and a note says so.

    Args:
        file: Where the state was saved; None: nothing is loaded.
        network: The network.
        optimiser: Its optimiser.
        log: The metrics file, which is rewritten with the epochs of the state; None: there is none.

    Returns:
        (log of the completed epochs, position within the interrupted epoch).
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
        note(f"{file.path} is damaged or belongs to another training; starting from the beginning")
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
    # saved tensors are contiguous, weights are channels-last; fused optimisers need the same layout for both
    for parameter, held in optimiser.state.items():
        held |= {k: torch.empty_like(parameter).copy_(v) for k, v in held.items() if v.shape == parameter.shape}
