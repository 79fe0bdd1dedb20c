"""Interleaves jobs that yield after launching kernels, so that small networks and batches share a GPU."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import nullcontext
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")
Interleaved = Generator[None, None, Result]  # yields after launching kernels
PIXELS_TOGETHER = 2**18  # total over the batches of a group: sixteen batches of 16 images of 32 x 32 pixels
MOST = 16  # jobs in a group: torch has 32 streams, and each job needs one for itself and one for capture


def interleave(jobs: Sequence[Interleaved[Result]], device: torch.device) -> list[Result]:
    """Run jobs interleaved: one step of each in turn, until all have finished.

    On a CUDA device each job has its own stream.

    Args:
        jobs: Generators that yield after launching kernels and return a result.
        device: The device they run on.

    Returns:
        Results in the order of `jobs`.

    Raises:
        Exception: As raised by a job; the other jobs are not continued.
    """
    cuda = device.type == "cuda" and len(jobs) > 1
    streams = [torch.cuda.Stream(device) if cuda else None for _ in jobs]
    for stream in streams:
        if stream is not None:  # wait for shared tensors computed on the current stream
            stream.wait_stream(torch.cuda.current_stream(device))
    results: dict[int, Result] = {}
    try:
        while len(results) < len(jobs):
            for number, (job, stream) in enumerate(zip(jobs, streams)):
                if number not in results:
                    with nullcontext() if stream is None else torch.cuda.stream(stream):
                        try:
                            next(job)
                        except StopIteration as end:
                            results[number] = end.value
    finally:
        if device.type == "cuda":  # a failed job frees memory that running kernels may still write to
            torch.cuda.synchronize(device)
    return [results[number] for number in range(len(jobs))]


def group_jobs(items: Sequence[Item], pixels: Sequence[float], device: str) -> list[list[Item]]:
    """Group items whose jobs are interleaved: on a CUDA device up to PIXELS_TOGETHER and MOST, elsewhere one per group.

    Args:
        items: The items, in order.
        pixels: Pixels in the batch of each item.
        device: Name of the device.
    """
    groups: list[list[Item]] = []
    room = 0.0
    for item, size in zip(items, pixels, strict=True):
        if not device.startswith("cuda") or size > room or len(groups[-1]) == MOST:
            groups.append([])
            room = PIXELS_TOGETHER
        groups[-1].append(item)
        room -= size
    return groups
