"""How many random real images take the bytes of a set."""

from __future__ import annotations

import bisect
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ddkit.core.device import cores
from ddkit.distillers import random as random_images
from ddkit.format.damage import row_records
from ddkit.format.entries import shard_rows, shard_sizes
from ddkit.format.images import encode_image
from ddkit.format.manifest import Manifest
from ddkit.format.tars import tar_bytes
from ddkit.pipeline.record import RunRecord, work_dir
from ddkit.sources.images import Source, open_source

IMAGE_FORMAT = "jpg"  # at format.images.JPEG_QUALITY
BLOCK = 512  # images that are encoded side by side


def source_of(record: RunRecord) -> Source:
    """Open the source of a run as the run used it: without unreadable and held-out images.

    Args:
        record: The record of the run.

    Raises:
        SourceError, ImagesUnreadable.
    """
    source = open_source(
        record.data, split=record.split, image_column=record.image_column, label_column=record.label_column,
        classes=record.classes,
    ).without_unreadable(record.skip_bad)  # fmt: skip
    return source if record.holdout is None else source.part("train", record.holdout)


def encoded_sizes(source: Source, *, seed: int, size: int, most: int) -> np.ndarray:
    """Return the bytes of the images that method `random` takes, encoded as IMAGE_FORMAT: int64 [n,C], by rank.

    Images are encoded rank by rank until they take more than `most` bytes or the smallest class has no more, so the
    work is bounded by the result and not by the size of the source.

    Args:
        source: The source.
        seed: Seed of the run.
        size: Side of the images, pixels.
        most: Bytes.
    """
    classes = len(source.classes)
    orders = [random_images.order(source, seed, label) for label in range(classes)]
    available, step = int(source.counts.min()), max(BLOCK // classes, 1)

    def encoded(image: int) -> int:
        return len(encode_image(source.whole(image, size).numpy(), IMAGE_FORMAT))

    found: list[list[int]] = []
    with ThreadPoolExecutor(cores()) as pool:
        while len(found) < available and sum(map(sum, found)) <= most:
            ranks = range(len(found), min(len(found) + step, available))
            lengths = list(pool.map(encoded, [int(order[rank]) for rank in ranks for order in orders]))
            found += [lengths[i : i + classes] for i in range(0, len(lengths), classes)]
    return np.array(found, np.int64).reshape(-1, classes)


def packed_bytes(images: np.ndarray, views: int, side: int) -> int:
    """Return the bytes of the shards of a set.

    Args:
        images: Bytes of its encoded images, int64 [n,C].
        views: Bytes of each `views.safetensors`.
        side: Side of the images, pixels.
    """
    total, flat = 0, images.ravel()
    for rows in shard_sizes(len(flat), shard_rows(side)):
        members = np.full((rows, 3), views, np.int64)
        members[:, 0], members[:, 1] = 1, flat[:rows]  # a class index fills a block, however many digits it has
        total, flat = total + tar_bytes(members.ravel()), flat[rows:]
    return total


def largest_packed(probe: Manifest, sizes: np.ndarray, budget: int, make: Callable[[int], Manifest]) -> Manifest | None:
    """Make the largest set of random images with stored labels that is within a budget.

    Its IPC follows from the sizes of the images and of the probe's views. The set is made and its bytes compared with
    the budget; where the prediction is off by an image per class, the next smaller or larger set is made.

    Args:
        probe: Such a set with one image per class.
        sizes: Bytes of the encoded images by rank, int64 [n,C].
        budget: Bytes.
        make: IPC -> the set.

    Returns:
        The set; None if one image per class is above the budget.
    """
    lengths = [record.views.length for shard in probe.shards for record in row_records(probe, shard)]
    beside = probe.total_bytes() - sum(shard.bytes for shard in probe.shards)  # what does not grow with the images

    def predicted(ipc: int, views: int) -> int:
        return beside + packed_bytes(sizes[:ipc], views, probe.image.size)

    ipcs = range(1, len(sizes) + 1)
    ipc = bisect.bisect_right(ipcs, budget, key=lambda n: predicted(n, max(lengths)))
    best, tried = None, {0}
    ipc = max(ipc, 1)
    while ipc not in tried and ipc in ipcs:
        tried.add(ipc)
        made = make(ipc)
        fits = made.total_bytes() <= budget
        if fits and best is not None:
            discard(best)
        if fits:
            best = made
        else:
            discard(made)
        if fits and (ipc + 1 not in ipcs or predicted(ipc + 1, min(lengths)) > budget):
            break
        ipc += 1 if fits else -1
    return best


def discard(made: Manifest) -> None:
    """Delete a set that was made to measure its bytes, and its work."""
    shutil.rmtree(made.root)
    shutil.rmtree(work_dir(made.root), ignore_errors=True)
