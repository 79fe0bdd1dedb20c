"""Steps captured as CUDA graphs: with small batches, launching kernels takes longer than running them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ddkit.core.console import note
from ddkit.core.device import keep_freed_memory

WARM_UP = 3  # uncaptured calls before the capture, in which libraries choose their kernels


@dataclass
class _Recording:
    """The graph of one set of tensor shapes, once it is captured, and the static input tensors that it reads."""

    inputs: tuple[Tensor, ...]
    calls: int = 0
    graph: torch.cuda.CUDAGraph | None = None


class Captured:
    """A step, called as `captured(*tensors)`; on a CUDA GPU, captured as a CUDA graph for each set of tensor shapes.

    If the step cannot be captured, a note gives the reason and it runs without a graph.

    Args:
        step: Launches work on tensors whose memory stays in place (weights, optimiser state, results). It must not read
            values back, change Python state, or draw random numbers (before torch 2.15 all graphs of a process share
            one random offset).
        device: The device of the tensors.
        records: Whether to capture at all.

    Attributes:
        rehearsals: Number of calls before the first whose duration is representative.
    """

    def __init__(self, step: Callable[..., None], device: torch.device, *, records: bool = True) -> None:
        keep_freed_memory()
        self._step, self._captures = step, records and device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if self._captures else None  # with its own library workspaces
        self._recordings: dict[tuple[object, ...], _Recording] = {}
        self.rehearsals = WARM_UP + 1 if self._captures else 1  # calls before the first representative one

    def __call__(self, *tensors: Tensor) -> None:
        if not self._captures:
            self._step(*tensors)
            return
        key = tuple((tensor.shape, tensor.stride(), tensor.dtype) for tensor in tensors)
        if key not in self._recordings:
            self._recordings[key] = _Recording(tuple(torch.empty_like(tensor) for tensor in tensors))
        mine = self._recordings[key]
        for kept, given in zip(mine.inputs, tensors):
            kept.copy_(given, non_blocking=True)
        mine.calls += 1
        if mine.calls <= WARM_UP:
            self._aside(mine.inputs)
        elif mine.graph is None and not self._record(mine):
            self._step(*mine.inputs)
        if mine.graph is not None:
            mine.graph.replay()

    def _aside(self, inputs: tuple[Tensor, ...]) -> None:
        """Run the step on the capture stream, as the warm-up of a graph requires."""
        assert self._stream is not None
        here = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            self._step(*inputs)
        here.wait_stream(self._stream)

    def _record(self, mine: _Recording) -> bool:
        """Capture the step without running it; returns whether that succeeded."""
        assert self._stream is not None
        graph, here = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self._stream.device)
        try:
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                self._step(*mine.inputs)
        except RuntimeError as error:
            torch.cuda.set_stream(here)  # torch 2.11 does not restore the stream
            self._captures = False
            reason = str(error).splitlines()[0]
            note(f"a step cannot be recorded as a CUDA graph ({reason}); continuing without, which is slower")
            return False
        mine.graph = graph
        return True


class Compiled:
    """A network compiled with torch.compile; if compilation fails, a note gives the reason and it runs uncompiled.

    Args:
        network: The network.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network, self._tried = network, False
        self._compiled: Callable[[Tensor], Tensor] | None = torch.compile(network)

    def __call__(self, inputs: Tensor) -> Tensor:
        if self._compiled is not None:
            from torch._dynamo.exc import TorchDynamoException  # importing it takes 1.5 s

            try:
                if not self._tried and inputs.requires_grad:  # compile the backward pass too
                    torch.autograd.grad(self._compiled(inputs).sum(), inputs)
                self._tried = True
                return self._compiled(inputs)
            except TorchDynamoException as error:
                self._compiled = None
                reason = str(error).strip().splitlines()[0]
                note(f"the network cannot be compiled here ({reason}); continuing without, which is slower")
        out: Tensor = self._network(inputs)
        return out


def set_learning_rate(group: dict[str, Any], value: float) -> None:
    """Set the learning rate of a parameter group; a tensor is changed in place, since a captured step reads it.

    Args:
        group: Parameter group of an optimiser.
        value: The learning rate.
    """
    rate = group["lr"]
    if isinstance(rate, Tensor):
        rate.fill_(value)
    else:
        group["lr"] = value


def recordable(
    kind: type[Optimizer], groups: list[dict[str, Any]], device: torch.device, *, lr: float, **options: Any
) -> Optimizer:
    """Create an optimiser whose step can be captured: on a CUDA GPU it is fused and its learning rates are tensors.

    Args:
        kind: Class of the optimiser.
        groups: Parameter groups; on a CUDA GPU, their `lr` is replaced.
        device: The device of the parameters.
        lr: Learning rate of groups without one.
        **options: Other arguments of `kind`.
    """
    if device.type == "cuda":
        options["fused"] = True
        if kind is not torch.optim.SGD:
            options["capturable"] = True
        for group in groups:
            group["lr"] = torch.tensor(group.get("lr", lr), device=device)
    return kind(groups, lr=lr, **options)  # type: ignore[call-arg]
