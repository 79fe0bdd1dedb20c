"""Steps that a CUDA GPU records once and replays: for small batches, launching kernels takes longer than they run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ddkit.core.console import note
from ddkit.core.device import keep_memory

WARM_UP = 3  # calls that run as they are before a step is recorded: libraries choose their kernels in them


@dataclass
class _Recording:
    """What is kept for one shape: the tensors that a replay reads, and the graph once it is recorded."""

    inputs: tuple[Tensor, ...]
    calls: int = 0
    graph: torch.cuda.CUDAGraph | None = None


class Captured:
    """`step(*tensors)`, on a CUDA GPU recorded as a CUDA graph for each shape of the tensors, elsewhere just called.

    step: launches work on tensors that stay where they are in memory (weights, optimiser, results), and neither reads a
    value back, nor changes anything in Python, nor draws random numbers (before torch 2.15 the graphs of one process
    share the place where those begin). A step that cannot be recorded goes on as it is, and a note says why.
    """

    def __init__(self, step: Callable[..., None], device: torch.device, *, records: bool = True) -> None:
        keep_memory()
        self._step, self._captures = step, records and device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if self._captures else None  # its own, with its libraries' workspaces
        self._recordings: dict[tuple[object, ...], _Recording] = {}
        self.rehearsals = WARM_UP + 1 if self._captures else 1  # calls before one that says how long they take

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
        """On the stream of the recording, as it wants its rehearsals."""
        assert self._stream is not None
        here = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            self._step(*inputs)
        here.wait_stream(self._stream)

    def _record(self, mine: _Recording) -> bool:
        """Whether the step was recorded; recording does not run it."""
        assert self._stream is not None
        graph, here = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self._stream.device)
        try:
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                self._step(*mine.inputs)
        except RuntimeError as error:
            torch.cuda.set_stream(here)  # torch 2.11 stays on the other one
            self._captures = False
            reason = str(error).splitlines()[0]
            note(f"a step cannot be recorded as a CUDA graph ({reason}); it goes on without, slower")
            return False
        mine.graph = graph
        return True


class Compiled:
    """A network through torch.compile; as it is, and a note says why, where the compiler fails."""

    def __init__(self, network: nn.Module) -> None:
        self._network, self._tried = network, False
        self._compiled: Callable[[Tensor], Tensor] | None = torch.compile(network)

    def __call__(self, inputs: Tensor) -> Tensor:
        if self._compiled is not None:
            from torch._dynamo.exc import TorchDynamoException  # a second and a half, so not for everybody

            try:
                if not self._tried and inputs.requires_grad:  # its backward is compiled when it is first wanted
                    torch.autograd.grad(self._compiled(inputs).sum(), inputs)
                self._tried = True
                return self._compiled(inputs)
            except TorchDynamoException as error:
                self._compiled = None
                reason = str(error).strip().splitlines()[0]
                note(f"a network cannot be compiled here ({reason}); it goes on without, slower")
        out: Tensor = self._network(inputs)
        return out


def set_learning_rate(group: dict[str, Any], value: float) -> None:
    """Where the rate is a tensor, which a recorded step reads, it stays that tensor."""
    rate = group["lr"]
    if isinstance(rate, Tensor):
        rate.fill_(value)
    else:
        group["lr"] = value


def recordable(
    kind: type[Optimizer], groups: list[dict[str, Any]], device: torch.device, *, lr: float, **options: Any
) -> Optimizer:
    """`kind(groups, lr, …)`; on a CUDA GPU fused, with rates that are tensors, so that its step can be recorded."""
    if device.type == "cuda":
        options["fused"] = True
        if kind is not torch.optim.SGD:
            options["capturable"] = True
        for group in groups:
            group["lr"] = torch.tensor(group.get("lr", lr), device=device)
    return kind(groups, lr=lr, **options)  # type: ignore[call-arg]
