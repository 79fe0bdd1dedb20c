"""Training loop of teachers and students: resumable and seeded by epoch; the result is the last epoch's network."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ddkit.core import signals
from ddkit.core.console import Advance, progress
from ddkit.core.distributed import ALONE, Group
from ddkit.core.seeds import torch_seed
from ddkit.engine.interleaving import Interleaved, interleave
from ddkit.engine.units import UnitFile
from ddkit.errors import DiskError, Diverged, OptionError
from ddkit.format.view_pixels import normalise
from ddkit.networks.registry import forward
from ddkit.networks.steps import StepExecutor, TimeEstimate, learning_rate, make_optimiser
from ddkit.networks.training_state import Example, Log, PartialEpoch, load_state, save_state
from ddkit.specs import TrainSpec

SAVE_EVERY_S = 20.0
MANY_IMAGES = 1000  # above this, measuring an accuracy shows a progress bar


def seeded_network(build: Callable[[], nn.Module], seed: int, *path: str | int) -> nn.Module:
    """Build a network with initial weights determined by a seed; the global random generator is left as it was.

    Args:
        build: Builds the network, with weights from the global generator.
        seed: Seed of the run.
        *path: Names the network; networks of one run with different paths have different weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed(seed, *path))
        return build()


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Arguments of `fit` besides the network.

    Batches and their order depend on the epoch alone, so that an interrupted training resumes from its saved state to
    the same weights.

    Attributes:
        spec: Hyperparameters of the training.
        epochs: Number of epochs.
        steps_an_epoch: Steps per epoch.
        batches: epoch -> (inputs float [B,3,S,S], target [B,...]) pairs.
        loss: (logits, target) -> scalar, the mean over the rows.
        seed: Seed of layers that draw random numbers.
        device: The device.
        state: File of the training state to resume from; None: no state is saved.
        key: Hash of everything that determines the weights. A state saved under another key is not resumed.
        log: The metrics file (JSON Lines), one line per epoch.
        measure: network -> accuracy in percent. It is logged, never used to choose an epoch.
        measure_every: Epochs between two accuracies, the last epoch included; 0: none is measured.
        on_epoch: Called with the number of epochs done since the last call.
        on_estimate: Called once, after 20 measured steps, with the expected remaining seconds.
        group: The ranks that train the network together. Each has its part of every batch; rank 0 writes the files.
    """

    spec: TrainSpec
    epochs: int
    steps_an_epoch: int
    batches: Callable[[int], Iterable[Example]]
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
    group: Group = ALONE

    @property
    def state_file(self) -> UnitFile | None:
        """The file of the training state with its key; None if no state is saved."""
        return None if self.state is None else UnitFile(self.state, self.key)


def fit(network: nn.Module, job: Fit) -> Log:
    """Train a network in place.

    Args:
        network: The network; it is moved to the device of `job` and left in evaluation mode.
        job: Data, loss, hyperparameters and files.

    Returns:
        The log. Each epoch has an entry with epoch (from 1), loss, lr, seconds and, where measured, accuracy.

    Raises:
        Diverged: The mean loss of an epoch is not finite; the message names the epoch.
    """
    return interleave([fitting(network, job)], job.device)[0]


def fitting(network: nn.Module, job: Fit) -> Interleaved[Log]:
    """Train as `fit` does, yielding after the work of every epoch is launched.

    SIGINT and SIGTERM save the state before they end the training. SIGUSR1 saves the state and the training continues.

    Args:
        network: As in `fit`.
        job: As in `fit`.

    Returns:
        The log, as `fit`.

    Raises:
        Diverged: As `fit`.
    """
    with signals.deferred():
        return (yield from _epochs(network, job))


def _epochs(network: nn.Module, job: Fit) -> Interleaved[Log]:
    network = network.to(job.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser, group = make_optimiser(job.spec, network), job.group
    history, partial = _resumed(network, optimiser, job)
    if job.on_epoch and history:
        job.on_epoch(len(history), earlier=True)
    train_step = StepExecutor(network, optimiser, job.loss, job.spec, job.device, group)
    steps, first = job.epochs * job.steps_an_epoch, len(history)
    told = job.on_estimate
    report = None if told is None else lambda seconds: told(group.of_leader(seconds))  # all ranks decide alike
    estimate = TimeEstimate(report, first=first * job.steps_an_epoch, rehearsals=train_step.rehearsals, steps=steps)
    cuda = [job.device] if job.device.type == "cuda" else []
    saved = time.monotonic()
    for epoch in range(first, job.epochs):
        network.train()
        train_step.total.zero_()
        began, start, factor = time.monotonic(), epoch * job.steps_an_epoch, 0.0
        with torch.random.fork_rng(devices=cuda):
            stream = (group.rank, partial.step) if group.rank else ()  # the state holds the generators of rank 0 alone
            torch.manual_seed(torch_seed(job.seed, "dropout", epoch, *stream))  # for dropout layers
            batches = iter(job.batches(epoch))
            step = start + partial.restore(batches, train_step.total)
            factor = learning_rate(job.spec, max(step - 1, 0), steps, job.steps_an_epoch)
            for inputs, target in batches:
                factor = learning_rate(job.spec, step, steps, job.steps_an_epoch)
                train_step(inputs, target, factor)
                step += 1
                estimate.after(step, train_step.total)
                if arrived := group.highest(signals.pending()):
                    here = PartialEpoch.at(step - start, train_step.total, cuda)
                    _save(network, optimiser, job, history, arrived, here)
        partial, launching = PartialEpoch(), time.monotonic() - began
        yield
        began = time.monotonic()
        loss = _finite(
            float(train_step.total) / job.steps_an_epoch, epoch + 1, job.spec
        )  # synchronises with the device
        seconds = round(launching + time.monotonic() - began, 4)
        entry = {"epoch": epoch + 1, "loss": loss, "lr": job.spec.lr * factor, "seconds": seconds}
        history.append(_logged(job, network, entry))
        arrived = group.highest(signals.pending())
        if arrived or epoch + 1 == job.epochs or time.monotonic() - saved >= SAVE_EVERY_S:
            _save(network, optimiser, job, history, arrived)
            saved = time.monotonic()
        if job.on_epoch:
            job.on_epoch(1)
    network.eval()
    return history


def _resumed(network: nn.Module, optimiser: torch.optim.Optimizer, job: Fit) -> tuple[Log, PartialEpoch]:
    """Load the saved state, on every rank; return the log and the position within the interrupted epoch.

    Raises:
        OptionError: The ranks train different networks.
        DiskError: The ranks read different states.
    """
    group = job.group
    if not group.same(job.key):
        raise OptionError(
            "the ranks were given different trainings; under torchrun all ranks train one network: give them the same "
            "data, options and seed"
        )
    history, partial = load_state(job.state_file, network, optimiser, job.log if group.leads else None)
    if not group.same(f"{len(history)} {partial.step}"):
        raise DiskError(f"{job.state} is not the same on all ranks; put the checkpoint on a disk that they share")
    return history, replace(partial, random={}) if group.rank else partial


def _save(
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    job: Fit,
    history: Log,
    arrived: int,
    partial: PartialEpoch | None = None,
) -> None:
    """Save the state; then perform a signal that arrived on any rank, on all of them."""
    if job.group.leads:
        save_state(job.state_file, network, optimiser, history, partial, threads=job.group.alone)
    if arrived:
        job.group.wait()  # torchrun stops rank 0 when another rank ends
        signals.obey(arrived)


def _finite(loss: float, epoch: int, spec: TrainSpec) -> float:
    """Return `loss`. Raises Diverged if it is not finite."""
    if not math.isfinite(loss):
        raise Diverged(f"the loss became {loss} in epoch {epoch}; lower the learning rate (now {spec.lr})")
    return loss


def _logged(job: Fit, network: nn.Module, entry: dict[str, float]) -> dict[str, float]:
    """Return the log entry of an epoch, with its accuracy where one is due, after appending it to the metrics file."""
    epoch = int(entry["epoch"])
    if job.measure and job.measure_every and (epoch % job.measure_every == 0 or epoch == job.epochs):
        entry["accuracy"] = job.measure(network)
    if job.log and job.group.leads:
        with open(job.log, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
    return entry


@torch.inference_mode()
def accuracy(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device,
    title: str = "",
    group: Group = ALONE,
) -> float:
    """Measure the top-1 accuracy in percent. The network is left in evaluation mode.

    Args:
        network: The network, on `device`.
        images: uint8 [n,3,S,S].
        labels: int64 [n].
        mean: Mean per channel of the network's normalisation.
        std: Standard deviation per channel of the network's normalisation.
        device: The device.
        title: Title of the progress bar. No bar is shown if it is empty or there are at most 1000 images.
        group: The ranks that each measure their part of the images.
    """
    network.eval()
    right, mine, own = 0, images[group.part(len(images))], labels[group.part(len(images))]
    with progress(title, len(mine) if title and len(images) > MANY_IMAGES else 0, "images") as advance:
        for start in range(0, len(mine), 256):
            batch = normalise(mine[start : start + 256].to(device), mean, std)
            logits = forward(network, batch)
            right += int((logits.argmax(1).cpu() == own[start : start + 256]).sum())
            advance(len(batch))
    return 100.0 * int(group.sum(torch.tensor(right))) / len(images)
