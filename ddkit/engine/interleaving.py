"""Interleaves jobs that yield after launching kernels, so that small networks and batches share a GPU."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import nullcontext
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")
Interleaved = Generator[None, None, Result]  # yields where its work so far is launched
PIXELS_TOGETHER = 2**18  # of the batches that a GPU works on together: sixteen of 16 images at 32 pixels
MOST = 16  # jobs together: torch has 32 streams, and each job and its recording take one


def interleave(jobs: Sequence[Interleaved[Result]], device: torch.device) -> list[Result]:
    """Run jobs one step of each after the other; returns their results in order.

    On a CUDA device each has a stream of its own. Raises what a job raises, which ends the others too.
    """
    cuda = device.type == "cuda" and len(jobs) > 1
    streams = [torch.cuda.Stream(device) if cuda else None for _ in jobs]
    for stream in streams:
        if stream is not None:  # what they share was made before
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
        if device.type == "cuda":  # a failed job frees memory that the others may still write to
            torch.cuda.synchronize(device)
    return [results[number] for number in range(len(jobs))]


def group_jobs(items: Sequence[Item], pixels: Sequence[float], device: str) -> list[list[Item]]:
    """Items in groups to interleave: on a CUDA device as many as leave it room, elsewhere each by itself.

    pixels: of the batch of each item.
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
