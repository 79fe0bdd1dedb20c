"""One training loop for teachers and students: resumable, counter-seeded, logged by epoch, last epoch = the result."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ddkit.core import signals
from ddkit.core.console import Advance, note
from ddkit.core.device import has_bfloat16
from ddkit.core.files import write_bytes
from ddkit.core.seeds import torch_seed
from ddkit.engine.cuda_graphs import Captured, recordable, set_learning_rate
from ddkit.engine.interleaving import Turns, in_turns
from ddkit.engine.units import UnitFile
from ddkit.errors import Diverged
from ddkit.format.views import normalise
from ddkit.networks.registry import forward
from ddkit.specs import TrainSpec

Batch = tuple[Tensor, Tensor]
Log = list[dict[str, float]]  # an entry an epoch
SAVE_EVERY_S = 20.0
PROBE_STEPS = 20


def seeded_network(build: Callable[[], nn.Module], seed: int, *path: str | int) -> nn.Module:
    """`build()` with initial weights from (seed, path); the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed(seed, *path))
        return build()


def learning_rate(spec: TrainSpec, step: int, steps: int, steps_an_epoch: int) -> float:
    """The factor on `spec.lr` at a step (0-based) of `steps`."""
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
    """AdamW or SGD with Nesterov momentum; no weight decay on one-dimensional parameters.

    Each group holds its peak learning rate as `peak`: head_lr for the last linear layer where the spec has one.
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


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What `fit` needs besides the network. Batches and their order are a function of the epoch alone, so a training
    that was killed goes on from its last saved epoch to the same weights.

    batches: epoch -> (input float [B,3,S,S], target [B,…]) pairs; loss: (logits, target) -> scalar; state: where to
    resume from; key: stands for all that decides the weights, a state saved under another one is not continued; log:
    metrics.jsonl, a line an epoch; measure: accuracy in percent, logged every `measure_every` epochs and never used to
    choose; on_estimate: told the expected seconds of the whole after 20 steps.
    """

    spec: TrainSpec
    epochs: int
    steps_an_epoch: int
    batches: Callable[[int], Iterable[Batch]]
    loss: Callable[[Tensor, Tensor], Tensor]
    seed: int
    device: torch.device
    state: Path | None = None
    key: str = "-"
    log: Path | None = None
    measure: Callable[[nn.Module], float] | None = None
    measure_every: int = 0
    on_epoch: Advance | None = None
    on_estimate: Callable[[float], None] | None = None


def fit(network: nn.Module, job: Fit) -> Log:
    """Train `network` in place; returns the log: per epoch epoch, loss, lr, seconds and, where measured, accuracy.

    Raises Diverged when a loss is not finite, naming the epoch.
    """
    return in_turns([fitting(network, job)], job.device)[0]


def fitting(network: nn.Module, job: Fit) -> Turns[Log]:
    """`fit`, stopping after the launch of every epoch's work. SIGINT and SIGTERM save the state before they end it,
    SIGUSR1 saves it and the training goes on."""
    with signals.deferred():
        return (yield from _epochs(network, job))


def _epochs(network: nn.Module, job: Fit) -> Turns[Log]:
    network = network.to(job.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = make_optimiser(job.spec, network)
    first, history, begun = _resume(network, optimiser, job)
    if job.on_epoch and first:
        job.on_epoch(first, earlier=True)
    steps = job.epochs * job.steps_an_epoch
    half = job.spec.precision == "bfloat16" and has_bfloat16(job.device)
    total = torch.zeros((), device=job.device)

    def one(inputs: Tensor, target: Tensor) -> None:
        with torch.autocast(job.device.type, torch.bfloat16) if half else nullcontext():
            logits = network(inputs.contiguous(memory_format=torch.channels_last))
        loss = job.loss(logits.float(), target)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        total.add_(loss.detach())

    captured = Captured(one, job.device, records=not _draws(network))
    generators = [job.device] if job.device.type == "cuda" else []
    probe_from = first * job.steps_an_epoch + captured.rehearsals
    saved = probe = time.monotonic()
    for epoch in range(first, job.epochs):
        network.train()
        began, step = time.monotonic(), epoch * job.steps_an_epoch
        total.zero_()
        with torch.random.fork_rng(devices=generators):
            torch.manual_seed(torch_seed(job.seed, "dropout", epoch))  # layers that drop use the global generator
            batches = iter(job.batches(epoch))
            if begun is not None:
                step += begun.restore(batches, total)
                begun = None
            factor = learning_rate(job.spec, max(step - 1, 0), steps, job.steps_an_epoch)
            for inputs, target in batches:
                factor = learning_rate(job.spec, step, steps, job.steps_an_epoch)
                for group in optimiser.param_groups:
                    set_learning_rate(group, group["peak"] * factor)
                captured(inputs, target)
                step += 1
                if job.on_estimate and step in (probe_from, probe_from + PROBE_STEPS):
                    total.item()  # waits for the device
                    if step > probe_from:
                        job.on_estimate((time.monotonic() - probe) / PROBE_STEPS * (steps - step))
                    probe = time.monotonic()
                if signals.pending():
                    done = step - epoch * job.steps_an_epoch
                    _save(network, optimiser, job, history, Begun.at(done, total, generators))
                    signals.obey()
        launching = time.monotonic() - began
        yield
        began = time.monotonic()
        mean_loss = float(total) / job.steps_an_epoch  # waits for the device
        if not math.isfinite(mean_loss):
            raise Diverged(f"the loss became {mean_loss} in epoch {epoch}; lower the learning rate (now {job.spec.lr})")
        entry = {"epoch": epoch + 1, "loss": mean_loss, "lr": job.spec.lr * factor}
        entry["seconds"] = round(launching + time.monotonic() - began, 4)
        history.append(_logged(job, network, entry))
        if signals.pending() or epoch + 1 == job.epochs or time.monotonic() - saved >= SAVE_EVERY_S:
            _save(network, optimiser, job, history)
            saved = time.monotonic()
            signals.obey()
        if job.on_epoch:
            job.on_epoch(1)
    network.eval()
    return history


def _logged(job: Fit, network: nn.Module, entry: dict[str, float]) -> dict[str, float]:
    """The entry of an epoch, with its accuracy where one is due, after it was written to the log."""
    epoch = int(entry["epoch"])
    if job.measure and job.measure_every and (epoch % job.measure_every == 0 or epoch == job.epochs):
        entry["accuracy"] = job.measure(network)
    if job.log:
        with open(job.log, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
    return entry


def _draws(network: nn.Module) -> bool:
    """Whether a training step of it draws random numbers: dropout, stochastic depth."""
    return any(
        (isinstance(m, nn.modules.dropout._DropoutNd) and m.p > 0)
        or getattr(m, "drop_prob", 0)
        or type(m).__name__ == "StochasticDepth"
        for m in network.modules()
    )


@dataclass(frozen=True)
class Begun:
    """An epoch that was left in the middle: steps done, the sum of their losses, and the states of the random
    generators that layers draw from."""

    step: int
    total: float
    random: dict[str, Tensor]

    @classmethod
    def at(cls, step: int, total: Tensor, generators: Sequence[torch.device]) -> Begun:
        """Where the current epoch stands."""
        random = {"cpu": torch.get_rng_state()} | {str(d): torch.cuda.get_rng_state(d) for d in generators}
        return cls(step, float(total), random)

    def restore(self, batches: Iterator[Batch], total: Tensor) -> int:
        """Skip the batches that were trained on and go on with their sum; returns how many they were."""
        for _ in range(self.step):
            next(batches)
        total.fill_(self.total)
        for name, state in self.random.items():
            torch.set_rng_state(state) if name == "cpu" else torch.cuda.set_rng_state(state, name)
        return self.step


def _save(
    network: nn.Module, optimiser: torch.optim.Optimizer, job: Fit, history: Log, begun: Begun | None = None
) -> None:
    """Write what `_resume` needs, sealed under the training's key; nothing where it keeps no state."""
    if job.state is None:
        return
    tensors = {f"network.{k}": v for k, v in network.state_dict().items()}
    for i, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{i}.{k}": torch.as_tensor(v) for k, v in state.items()}
    told: dict[str, Any] = {"history": history}
    if begun is not None:
        told |= {"step": begun.step, "total": begun.total}
        tensors |= {f"random.{name}": state for name, state in begun.random.items()}
    UnitFile(job.state, job.key).write({k: v.detach().cpu().numpy() for k, v in tensors.items()}, told)


def _resume(network: nn.Module, optimiser: torch.optim.Optimizer, job: Fit) -> tuple[int, Log, Begun | None]:
    """Load the state that was saved last under the training's key; the log is cut to it.

    Returns (epochs done, their log, the epoch that was left in the middle). A damaged state, or one of another
    training, is not continued.
    """
    history: Log = []
    begun = None
    file = None if job.state is None else UnitFile(job.state, job.key)
    if file is not None and file.is_good():
        arrays, told = file.read()
        history, tensors = told["history"], {name: torch.from_numpy(array) for name, array in arrays.items()}
        prefix = "network."
        network.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            if part == "optimiser":
                i, _, key = rest.partition(".")
                state.setdefault(int(i), {})[key] = tensor
        optimiser.load_state_dict(optimiser.state_dict() | {"state": state})
        for parameter, held in optimiser.state.items():  # files are contiguous, weights channels-last: fused wants one
            held |= {k: torch.empty_like(parameter).copy_(v) for k, v in held.items() if v.shape == parameter.shape}
        if "step" in told:
            prefix = "random."
            random = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            begun = Begun(told["step"], told["total"], random)
    elif file is not None and file.path.is_file():
        note(f"{file.path} is damaged or of another training; this one starts anew")
    if job.log:
        job.log.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(job.log, "".join(json.dumps(entry) + "\n" for entry in history).encode())
    return len(history), history, begun


@torch.inference_mode()
def accuracy(network: nn.Module, images: Tensor, labels: Tensor, mean: Any, std: Any, device: torch.device) -> float:
    """Top-1 in percent. images: uint8 [n,3,S,S]; labels: int64 [n]; the network is left in eval mode."""
    network.eval()
    right = 0
    for start in range(0, len(images), 256):
        batch = normalise(images[start : start + 256].to(device), mean, std)
        logits = forward(network, batch)
        right += int((logits.argmax(1).cpu() == labels[start : start + 256]).sum())
    return 100.0 * right / len(images)
