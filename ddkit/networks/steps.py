"""Parts of the training loop: the step (a CUDA graph where possible), the learning rate and the time estimate."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ddkit.core.device import has_bfloat16, threads
from ddkit.core.distributed import ALONE, Group
from ddkit.engine.cuda_graphs import Captured, recordable, set_learning_rate
from ddkit.networks.batch_norm import GlobalBatchNorm, check_batch_norms
from ddkit.specs import TrainSpec

PROBE_STEPS = 20


def learning_rate(spec: TrainSpec, step: int, steps: int, steps_an_epoch: int) -> float:
    """Return the factor on `spec.lr` at one step.

    Args:
        spec: The schedule and its warm-up.
        step: Index of the step, from 0.
        steps: Steps of the whole training.
        steps_an_epoch: Steps per epoch.
    """
    warm = round(spec.warmup * steps)
    if step < warm:
        return (step + 1) / warm
    if spec.schedule == "cosine":
        return (1 + math.cos(math.pi * (step - warm) / max(steps - warm, 1))) / 2
    if spec.schedule == "half-cosine":
        return (1 + math.cos(math.pi * (step // steps_an_epoch) / (2 * steps / steps_an_epoch))) / 2
    if spec.schedule == "onecycle":
        return 1 - (step - warm) / max(steps - warm, 1)
    return 1.0


def make_optimiser(spec: TrainSpec, network: nn.Module) -> torch.optim.Optimizer:
    """Build AdamW, or SGD with Nesterov momentum, without weight decay on one-dimensional parameters.

    Each parameter group holds its peak learning rate as `peak`: `spec.head_lr`, where set, for the last linear layer,
    else `spec.lr`.

    Args:
        spec: The optimiser and its hyperparameters.
        network: The network whose parameters are optimised.
    """
    linear = [module for module in network.modules() if isinstance(module, nn.Linear)][-1:] if spec.head_lr else []
    head = {id(p) for module in linear for p in module.parameters()}
    groups: list[dict[str, Any]] = []
    for peak, mine in ((spec.lr, False), (spec.head_lr or spec.lr, True)):
        part = [p for p in network.parameters() if p.requires_grad and (id(p) in head) == mine]
        groups.append({"params": [p for p in part if p.ndim > 1], "weight_decay": spec.weight_decay, "peak": peak})
        groups.append({"params": [p for p in part if p.ndim <= 1], "weight_decay": 0.0, "peak": peak})
    groups = [group for group in groups if group["params"]]
    device = next(network.parameters()).device
    if spec.optimiser == "sgd":
        momentum = spec.momentum
        return recordable(torch.optim.SGD, groups, device, lr=spec.lr, momentum=momentum, nesterov=momentum > 0)
    return recordable(torch.optim.AdamW, groups, device, lr=spec.lr, betas=(0.9, 0.999))


class StepExecutor:
    """One training step: forward, loss, backward, optimiser.

    On a CUDA device the step is captured as a CUDA graph and replayed, unless the network draws random numbers or
    several ranks train it. Ranks have the same weights; each computes the gradients of its rows, and their sum over the
    ranks, divided by the number of rows, is the gradient of the mean loss of the global batch.

    Args:
        network: The network, on `device`.
        optimiser: As `make_optimiser` builds it.
        loss: (logits float32 [B,C], target) -> scalar, the mean over the rows.
        spec: Holds the precision of the forward pass.
        device: The device.
        group: The ranks that train the network together.

    Raises:
        OptionError: Several ranks cannot train this network.

    Attributes:
        total: Sum of the losses, float32 scalar. Every step adds its loss.
        rehearsals: Steps to run before the time of a step can be measured: warm-up and graph capture.
    """

    def __init__(
        self,
        network: nn.Module,
        optimiser: torch.optim.Optimizer,
        loss: Callable[[Tensor, Tensor], Tensor],
        spec: TrainSpec,
        device: torch.device,
        group: Group = ALONE,
    ) -> None:
        self._network, self._optimiser, self._loss, self._device = network, optimiser, loss, device
        self._group = group
        if not group.alone:
            check_batch_norms(network)
        self._half = spec.precision == "bfloat16" and has_bfloat16(device)
        self.total = torch.zeros((), device=device)
        self._captured = Captured(self._step, device, records=group.alone and not _draws_random_numbers(network))
        self.rehearsals = self._captured.rehearsals

    def __call__(self, inputs: Tensor, target: Tensor, factor: float) -> None:
        """Run one step.

        Args:
            inputs: float [B,3,S,S].
            target: As the loss takes it.
            factor: Factor on the peak learning rate of every parameter group.
        """
        for group in self._optimiser.param_groups:
            set_learning_rate(group, group["peak"] * factor)
        self._captured(inputs, target)

    def _step(self, inputs: Tensor, target: Tensor) -> None:
        precision = torch.autocast(self._device.type, torch.bfloat16) if self._half else nullcontext()
        with precision, nullcontext() if self._group.alone else GlobalBatchNorm(self._group):
            logits = self._network(inputs.contiguous(memory_format=torch.channels_last)).float()
        self._optimiser.zero_grad(set_to_none=True)
        if self._group.alone:
            loss = self._loss(logits, target)
            loss.backward()
        else:
            loss = self._shared_gradients(logits, target)
        self._optimiser.step()
        self.total.add_(loss.detach())

    def _shared_gradients(self, logits: Tensor, target: Tensor) -> Tensor:
        """Compute the gradients of the mean loss over the rows of all ranks; return that loss."""
        rows = len(logits)
        loss = rows * self._loss(logits, target) if rows else logits.sum()  # the mean of no rows would be NaN
        loss.backward()
        held = [p.grad for p in self._network.parameters() if p.grad is not None]
        sums = self._group.sum(torch.cat([*(g.flatten() for g in held), loss.detach()[None], loss.new_tensor([rows])]))
        *gradients, mean = (sums[:-1] / sums[-1]).split([*(g.numel() for g in held), 1])
        for gradient, shared in zip(held, gradients):
            gradient.copy_(shared.view_as(gradient))
        found: Tensor = mean[0]
        return found


def _draws_random_numbers(network: nn.Module) -> bool:
    """Return whether a training step of a network draws random numbers (dropout, stochastic depth)."""
    return any(
        (isinstance(m, nn.modules.dropout._DropoutNd) and m.p > 0)
        or getattr(m, "drop_prob", 0)
        or type(m).__name__ == "StochasticDepth"
        for m in network.modules()
    )


class TimeEstimate:
    """Measures 20 training steps and reports the expected seconds of the remaining ones, once.

    Args:
        report: Called with the seconds; None: nothing is measured.
        first: Index of the step at which the training starts or resumes.
        rehearsals: Steps to run before measuring.
        steps: Steps of the whole training.
    """

    def __init__(self, report: Callable[[float], None] | None, *, first: int, rehearsals: int, steps: int) -> None:
        self._report, self._from, self._steps = report, first + rehearsals, steps
        self._began = time.monotonic()

    def after(self, step: int, total: Tensor) -> None:
        """Record that a step was launched; call it after every step.

        Args:
            step: Number of steps done.
            total: A tensor whose value depends on the step; reading it synchronises with the device.
        """
        if self._report is None or step not in (self._from, self._from + PROBE_STEPS):
            return
        total.item()
        if step > self._from:
            self._report((time.monotonic() - self._began) / PROBE_STEPS * (self._steps - step))
        self._began = time.monotonic()


def best_threads(build: Callable[[], nn.Module], spec: TrainSpec, batch: int, size: int, most: int) -> int:
    """Measure whether a training on this machine, with its present load, is faster with one or with `most` CPU threads.

    Args:
        build: Builds the network.
        spec: How the network is trained.
        batch: Images per step.
        size: Side of the images, pixels.
        most: The larger number of threads.

    Returns:
        `most` if a step then takes less than 0.8 of the time with one thread, else 1.
    """
    if most <= 1:
        return 1
    cpu, taken = torch.device("cpu"), {}
    for n in (1, most):
        with threads(n):
            taken[n] = seconds_a_step(build(), spec, batch, size, cpu, at_most_s=1.0)
    return most if taken[most] < 0.8 * taken[1] else 1


def seconds_a_step(
    network: nn.Module, spec: TrainSpec, batch: int, size: int, device: torch.device, at_most_s: float = 3.0
) -> float:
    """Measure the seconds of a training step on up to 20 steps with dummy images and class labels.

    Args:
        network: The network; its weights change.
        spec: How the network is trained.
        batch: Images per step.
        size: Side of the images, pixels.
        device: The device.
        at_most_s: Approximate limit of the measurement in seconds; at least two steps are measured.
    """
    network = network.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    step = StepExecutor(network, make_optimiser(spec, network), nn.functional.cross_entropy, spec, device)
    inputs, target = torch.zeros(batch, 3, size, size, device=device), torch.zeros(batch, dtype=torch.int64).to(device)
    for _ in range(step.rehearsals):
        step(inputs, target, 1e-6)
    step.total.item()
    began, done = time.monotonic(), 0
    while done < PROBE_STEPS and (done < 2 or time.monotonic() - began < at_most_s):
        step(inputs, target, 1e-6)
        done += 1
    step.total.item()
    return (time.monotonic() - began) / done
