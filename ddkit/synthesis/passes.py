"""Passes of a network over a source: predictions, features and statistics of each class. `Context` caches them.

How long a pass takes is measured here too.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ddkit.core.device import keep_freed_memory, threads
from ddkit.labelling.labels import FORWARD
from ddkit.synthesis.moments import Measured

if TYPE_CHECKING:
    from ddkit.sources.images import Source
    from ddkit.teachers.teacher import Teacher

CHUNK = 256  # images per forward pass; fixed, because results depend on it in the last bits
STEPS = 20  # of a measurement
Report = Callable[[], None]  # called after each chunk


def seconds_a_pass(net: Teacher, size: int, cpu_threads: int = 1) -> float:
    """Measure the seconds that a network's forward pass takes per image, from 20 steps.

    Args:
        net: The network.
        size: Side of the images, pixels.
        cpu_threads: CPU threads.
    """
    keep_freed_memory()  # as where units run
    inputs = torch.zeros(8 if net.device.type == "cpu" else FORWARD, 3, size, size)
    with threads(cpu_threads):
        net.logits(inputs).cpu()
        began = time.perf_counter()
        for _ in range(STEPS):
            last = net.logits(inputs)
        last.cpu()  # synchronises with the device
    return (time.perf_counter() - began) / (STEPS * len(inputs))


def chunks(images: int) -> int:
    """Return the number of chunks in a pass over `images` images."""
    return -(-images // CHUNK)


def _each(source: Source, net: Teacher, work: Callable[[Tensor], Tensor], report: Report) -> Tensor:
    """Apply `work` to the evaluation view of every image, in chunks; returns [n,...] on the CPU."""
    parts, images = [], np.arange(len(source))
    for start in range(0, len(images), CHUNK):
        pixels = source.squares(images[start : start + CHUNK], net.spec.transform)
        parts.append(work(net.normalise(pixels)).cpu())
        report()
    return torch.cat(parts)


def predictions(source: Source, net: Teacher, report: Report) -> dict[str, np.ndarray]:
    """Compute the predictions of a network on a source.

    Args:
        source: The source.
        net: The network.
        report: Called after each chunk.

    Returns:
        Named arrays:
        top1: predicted class, int64 [n].
        own: log-probability of the true class, float32 [n].
        margin: logit of the true class minus the highest other logit, float32 [n].
    """
    logits = _each(source, net, net.logits, report)
    labels = torch.from_numpy(source.labels)[:, None]
    own = logits.gather(1, labels)
    other = logits.scatter(1, labels, -torch.inf).amax(1)
    return {
        "top1": logits.argmax(1).numpy(),
        "own": logits.log_softmax(1).gather(1, labels)[:, 0].numpy(),
        "margin": (own[:, 0] - other).numpy(),
    }


def features(source: Source, net: Teacher, report: Report) -> dict[str, np.ndarray]:
    """Compute the inputs of a network's last linear layer on a source.

    Args:
        source: The source.
        net: The network.
        report: Called after each chunk.

    Returns:
        Named arrays: features, float32 [n,F].
    """
    return {"features": _each(source, net, net.features, report).numpy()}


@torch.inference_mode()
def class_moments(source: Source, net: Teacher) -> dict[str, np.ndarray]:
    """Compute mean and biased variance of every BatchNorm input over the images of each class (LPLD's targets).

    Args:
        source: The source.
        net: The network.

    Returns:
        Named arrays: mean.L and var.L for layer L, float32 [classes,C] each.

    Raises:
        TeacherError: The network has no BatchNorm.
    """
    measured = Measured(net.network)
    sums: dict[int, list[tuple[Tensor, Tensor]]] = {}
    for label in range(len(source.classes)):
        images, count = source.members(label), 0
        total: dict[int, tuple[Tensor, Tensor]] = {}
        for start in range(0, len(images), CHUNK):
            pixels = source.squares(images[start : start + CHUNK], net.spec.transform)
            with measured.watch() as seen:
                measured.network(net.normalise(pixels).contiguous(memory_format=torch.channels_last))
            for layer, (mean, var) in seen.items():
                first, second = total.get(layer, (torch.zeros_like(mean[0]), torch.zeros_like(mean[0])))
                total[layer] = first + len(pixels) * mean[0], second + len(pixels) * (var[0] + mean[0] ** 2)
            count += len(pixels)
        for layer, (first, second) in total.items():
            mean = first / count
            sums.setdefault(layer, []).append((mean, second / count - mean**2))
    found = {}
    for layer, each in sums.items():
        found[f"mean.{layer}"] = torch.stack([mean for mean, _ in each]).cpu().numpy()
        found[f"var.{layer}"] = torch.stack([var for _, var in each]).cpu().numpy()
    return found
