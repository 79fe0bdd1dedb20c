"""Work that takes turns on a device: it stops when steps are launched, and while it waits the others' run beside it."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import nullcontext
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")
Turns = Generator[None, None, Result]
PIXELS_TOGETHER = 2**18  # of the batches that a GPU works on together: sixteen of 16 images at 32 pixels
MOST = 16  # works together: torch has 32 streams, and each work and its recording take one


def in_turns(works: Sequence[Turns[Result]], device: torch.device) -> list[Result]:
    """The results of some works, a turn of each after the other. On a CUDA GPU each has a stream of its own: small
    networks and batches leave room there for others' kernels. Raises what a work raises; that ends the others too."""
    streams = [torch.cuda.Stream(device) if device.type == "cuda" and len(works) > 1 else None for _ in works]
    for stream in streams:
        if stream is not None:  # what they share was made before
            stream.wait_stream(torch.cuda.current_stream(device))
    results: dict[int, Result] = {}
    try:
        while len(results) < len(works):
            for number, (work, stream) in enumerate(zip(works, streams)):
                if number not in results:
                    with nullcontext() if stream is None else torch.cuda.stream(stream):
                        try:
                            next(work)
                        except StopIteration as over:
                            results[number] = over.value
    finally:
        if device.type == "cuda":  # one that failed gives back memory that the others may still write to
            torch.cuda.synchronize(device)
    return [results[number] for number in range(len(works))]


def together(items: Sequence[Item], pixels: Sequence[float], device: str) -> list[list[Item]]:
    """Items in groups that take turns: on a CUDA GPU as many as leave it room, elsewhere each by itself. pixels: of the
    batch of each."""
    groups: list[list[Item]] = []
    room = 0.0
    for item, size in zip(items, pixels, strict=True):
        if not device.startswith("cuda") or size > room or len(groups[-1]) == MOST:
            groups.append([])
            room = PIXELS_TOGETHER
        groups[-1].append(item)
        room -= size
    return groups
