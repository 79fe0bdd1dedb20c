"""Published soft labels in the layout of FKD (arXiv 2112.01528) as SRe2L, CDA and CUDD write it.

A directory holds `epoch_E/batch_B.tar`, each written by `torch.save` (no tar, despite the name): for the images of one
batch the crops, flips, mixing and teacher's logits. Which images they are is in no file. It follows from the sampler
of those trainings: torch's RandomSampler with a seeded generator over the images, sorted by class folder and name.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, TypeGuard

import numpy as np
import torch

from ddkit.core.console import note, progress
from ddkit.core.files import read_limited
from ddkit.core.serialization import fingerprint
from ddkit.errors import IntegrityError, OptionError, SourceError, first_few
from ddkit.sources.torch_files import LARGEST_FILE, read_torch_list

Mix: TypeAlias = Literal["none", "cutmix", "mixup"]

SEED = 42  # of the sampler, in all three repositories

_EPOCH, _BATCH = re.compile(r"epoch_(0|[1-9]\d{0,5})"), re.compile(r"batch_(0|[1-9]\d{0,6})\.tar")


@dataclass(frozen=True)
class LabelledBatch:
    """One file: a view of each of B images.

    Attributes:
        where: The file, for messages.
        crops: float32 or float16 [B,4], top, left, height, width as shares of the image's height and width.
        flips: uint8 [B], 1: mirrored left to right after the crop.
        mix: How a second image is mixed in.
        partners: int64 [B], position in the batch of the image that is mixed in; without mixing, the own one.
        region: CutMix: first and last + 1 row, first and last + 1 column of the view that show the partner, in pixels.
        weight: Mixup: weight of the own image.
        logits: float32 or float16 [B,C], the teacher's logits of the mixed view.
    """

    where: str
    crops: np.ndarray
    flips: np.ndarray
    mix: Mix
    partners: np.ndarray
    region: tuple[int, int, int, int]
    weight: float
    logits: np.ndarray

    def __len__(self) -> int:
        return len(self.flips)

    def boxes(self, height: int, width: int) -> np.ndarray:
        """Return the crops in pixels: int64 [B,4], top, left, height, width.

        Args:
            height: Height of the images in pixels.
            width: Width of the images in pixels.

        Raises:
            SourceError: A crop does not consist of whole pixels of such an image, or is not inside it.
        """
        extent = np.array([height, width, height, width])
        if ((self.crops < 0) | (self.crops > 1)).any():
            raise SourceError(f"{self.where}: a crop is not inside the image; ddkit reads RandomResizedCrop only")
        exact = self.crops.astype(np.float64) * extent
        boxes: np.ndarray = np.rint(exact).astype(np.int64)
        rounding = float(np.finfo(self.crops.dtype).eps) * max(height, width) + 1e-4
        if rounding >= 0.5:
            raise SourceError(
                f"{self.where}: crops in {self.crops.dtype} do not determine the pixels of images of {width}x{height}"
            )
        if (np.abs(exact - boxes) > rounding).any():
            raise SourceError(
                f"{self.where}: its crops are not whole pixels of images of {width}x{height}; give the images as they "
                "were labelled, in their size"
            )
        ends = boxes[:, :2] + boxes[:, 2:]
        if (boxes[:, 2:] < 1).any() or (ends > extent[:2]).any():
            raise SourceError(f"{self.where}: a crop is empty or not inside the image; fetch the labels again")
        return boxes


def read_batch(data: bytes, where: str) -> LabelledBatch:
    """Read one file of published labels.

    Args:
        data: Its bytes.
        where: Its name in messages.

    Raises:
        SourceError: It is damaged or has another layout.
    """
    found = read_torch_list(data, where)
    if len(found) != 6:
        raise SourceError(
            f"{where} holds {len(found)} parts; ddkit reads the 6 of SRe2L, CDA and CUDD (crops, flips, partners, "
            "weight, region, logits)"
        )
    crops, flips, partners, weight, region, logits = found
    if not _is_tensor(crops, "f", 2) or not _is_tensor(flips, "u", 1) or not _is_tensor(logits, "f", 2):
        raise SourceError(f"{where}: its crops, flips and logits are not tensors of the layout of FKD")
    count = len(flips)
    if crops.shape != (count, 4) or logits.shape[0] != count or logits.shape[1] < 2:
        shapes = f"{list(crops.shape)}, {list(flips.shape)} and {list(logits.shape)}"
        raise SourceError(f"{where}: its crops, flips and logits have shapes {shapes}, not [B, 4], [B] and [B, C]")
    if not np.isfinite(crops).all() or not np.isfinite(logits).all() or (flips > 1).any():
        raise SourceError(f"{where}: its crops or logits are not finite, or its flips are neither 0 nor 1")
    corners = _corners(region, where) if partners is not None else ()
    mix: Mix = "none" if partners is None else "cutmix" if corners else "mixup"
    share = _number(weight)
    if mix == "mixup" and (share is None or not 0 <= share <= 1):
        raise SourceError(f"{where}: its Mixup weight is not between 0 and 1")
    return LabelledBatch(
        where=where, crops=crops, flips=flips, mix=mix, partners=_partners(partners, count, where),
        region=corners or (0, 0, 0, 0), weight=1.0 if share is None else float(share), logits=logits,
    )  # fmt: skip


def _partners(found: object, count: int, where: str) -> np.ndarray:
    """Check the mixing partners of a batch of `count` images; without mixing, each image is its own."""
    own = np.arange(count)
    if found is None:
        return own
    if not _is_tensor(found, "iu", 1) or not np.array_equal(np.sort(found), own):
        raise SourceError(f"{where}: its mixing partners are not a permutation of the batch of {count}")
    return found.astype(np.int64)


def _corners(region: object, where: str) -> tuple[int, int, int, int] | tuple[()]:
    """Return first and last + 1 row, first and last + 1 column of a CutMix region; () if the file has none.

    The files hold (x1, y1, x2, y2), but x counts along dimension 2 of the images [B,3,H,W], which is the rows.
    """
    if region is None or region == []:
        return ()
    found = [_number(corner) for corner in region] if isinstance(region, list) else []
    whole = [corner for corner in found if isinstance(corner, int) and 0 <= corner <= 10**4]
    if len(found) != 4 or len(whole) != 4:
        raise SourceError(f"{where}: its CutMix region is not four numbers of pixels")
    x1, y1, x2, y2 = whole
    return x1, x2, y1, y2


def _is_tensor(value: object, kinds: str, dimensions: int) -> TypeGuard[np.ndarray]:
    """Whether a value is an array of one of the kinds of dtype (as in `dtype.kind`) and the number of dimensions."""
    return isinstance(value, np.ndarray) and value.dtype.kind in kinds and value.ndim == dimensions


def _number(value: object) -> int | float | None:
    """A number, or the number in a tensor without dimensions; else None."""
    found = value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else value
    return found if type(found) in (int, float) else None  # type: ignore[return-value]


def sampler_orders(images: int, epochs: int, seed: int) -> Iterator[np.ndarray]:
    """Yield the order of the images in each epoch, int64 [images], as torch's RandomSampler draws it.

    The sampler draws a second permutation at the end of each epoch, of which it uses nothing.

    Args:
        images: Number of images.
        epochs: Number of epochs.
        seed: Seed of the sampler's generator.
    """
    generator = torch.Generator()
    generator.manual_seed(seed)
    for _ in range(epochs):
        yield torch.randperm(images, generator=generator).numpy()
        torch.randperm(images, generator=generator)


@dataclass(frozen=True)
class PublishedLabels:
    """A directory of published labels.

    Attributes:
        root: The directory.
        epochs: Number of epochs that are used; epoch e gives view e of each image.
        batches: Number of files of an epoch.
        batch: Number of images in all files but the last of an epoch.
        images: Number of images.
        classes: Number of logits.
        single: Whether logits are in single precision, else in half.
        mix: How a second image is mixed in.
        seed: Seed of the sampler.
        hashes: sha256 of each file, by (epoch, batch).
    """

    root: Path
    epochs: int
    batches: int
    batch: int
    images: int
    classes: int
    single: bool
    mix: Mix
    seed: int
    hashes: dict[tuple[int, int], str]

    @property
    def sha256(self) -> str:
        """The sha256 over a line `epoch_E/batch_B.tar SHA256` for each file, in order."""
        lines = (f"epoch_{e}/batch_{b}.tar {digest}\n" for (e, b), digest in sorted(self.hashes.items()))
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    @property
    def key(self) -> str:
        """Hash of the files and the seed, which determine views and logits."""
        return fingerprint([self.sha256, self.seed])

    def each_epoch(self, epochs: Collection[int]) -> Iterator[Iterator[tuple[np.ndarray, LabelledBatch]]]:
        """Yield the batches of some epochs in ascending order, each with the numbers of its images, int64 [B].

        Images are numbered in the order of the sampler's files: by class folder, then by name.

        Args:
            epochs: The epochs.

        Raises:
            SourceError: A file has another layout than the first.
            IntegrityError: A file has changed since the directory was opened.
        """
        for epoch, order in enumerate(sampler_orders(self.images, self.epochs, self.seed)):
            if epoch in epochs:
                yield self._epoch(epoch, order)

    def _epoch(self, epoch: int, order: np.ndarray) -> Iterator[tuple[np.ndarray, LabelledBatch]]:
        for number in range(self.batches):
            images = order[number * self.batch : (number + 1) * self.batch]
            yield images, self._batch(epoch, number, len(images))

    def _batch(self, epoch: int, number: int, images: int) -> LabelledBatch:
        """Read one file, which must be the one that was hashed and be like the first one."""
        path = _path(self.root, epoch, number)
        data = _bytes(path)
        if hashlib.sha256(data).hexdigest() != self.hashes[epoch, number]:
            raise IntegrityError(f"{path} has changed during the import; run the same command again")
        found = read_batch(data, str(path))
        if len(found) != images:
            raise SourceError(f"{path} labels {len(found)} images, not {images}; fetch the labels again")
        kind = (found.logits.shape[1], found.logits.dtype == np.float32, found.mix)
        if kind != (self.classes, self.single, self.mix):
            raise SourceError(
                f"{path} has {kind[0]} logits in {found.logits.dtype} and mixing {kind[2]}, unlike the first file; "
                "they are of different runs"
            )
        return found


def open_published(root: str, *, images: int, epochs: int | None = None, seed: int = SEED) -> PublishedLabels:
    """Open a directory of published labels: find and hash its files and compare their number with the images.

    Args:
        root: The directory.
        images: Number of images that it must label.
        epochs: Number of epochs to use; None: all.
        seed: Seed of the sampler.

    Raises:
        OptionError: The seed or the number of epochs is not possible.
        SourceError: It is no such directory, files are missing, or they label another number of images.
    """
    folder = Path(root)
    if not -(2**63) <= seed < 2**63:
        raise OptionError(f"--labels-seed is {seed}; it must be between -2^63 and 2^63")
    if not folder.is_dir():
        raise SourceError(f"--labels {root}: no such directory; give the one that holds epoch_0/batch_0.tar")
    there = _numbered(folder, _EPOCH)
    if there == 0:
        raise SourceError(f"--labels {root} has no epoch_0; give the directory that holds epoch_0/batch_0.tar")
    used = there if epochs is None else epochs
    if used > there:
        raise OptionError(f"--views is {used}, but --labels {root} has {there} epochs, which give a view each")
    batches = _numbered(folder / "epoch_0", _BATCH)
    if batches == 0:
        raise SourceError(f"--labels {root}: epoch_0 has no batch_0.tar; fetch the labels again")
    first = read_batch(_bytes(_path(folder, 0, 0)), str(_path(folder, 0, 0)))
    if math.ceil(images / len(first)) != batches:
        raise SourceError(
            f"--labels {root} has {batches} batches of {len(first)} an epoch, which is not {images} images; give the "
            "images that were labelled, all of them"
        )
    hashes = {}
    with progress("hashing labels", used * batches, "files") as advance:
        for epoch in range(used):
            if (found := _numbered(folder / f"epoch_{epoch}", _BATCH)) != batches:
                raise SourceError(f"--labels {root}: epoch_{epoch} has {found} batches, epoch_0 has {batches}")
            for number in range(batches):
                hashes[epoch, number] = hashlib.sha256(_bytes(_path(folder, epoch, number))).hexdigest()
                advance(1)
    return PublishedLabels(
        root=folder, epochs=used, batches=batches, batch=len(first), images=images, classes=first.logits.shape[1],
        single=first.logits.dtype == np.float32, mix=first.mix, seed=seed, hashes=hashes,
    )  # fmt: skip


def _path(root: Path, epoch: int, number: int) -> Path:
    return root / f"epoch_{epoch}" / f"batch_{number}.tar"


def _numbered(folder: Path, pattern: re.Pattern[str]) -> int:
    """Return how many children match a pattern; they must be numbered from 0. Others are ignored, with a note."""
    names = [child.name for child in folder.iterdir() if not child.name.startswith(".")] if folder.is_dir() else []
    numbers = sorted(int(match[1]) for name in names if (match := pattern.fullmatch(name)))
    if odd := sorted(name for name in names if not pattern.fullmatch(name)):
        note(f"{folder}: ignored: {first_few(odd)}")
    if numbers and numbers[-1] >= len(numbers):
        missing = min(set(range(numbers[-1])) - set(numbers))
        raise SourceError(f"{folder}: number {missing} is missing, but {numbers[-1]} is there; fetch the labels again")
    return len(numbers)


def _bytes(path: Path) -> bytes:
    """The bytes of one file. Raises SourceError if it is missing, too large or no regular file."""
    try:
        data = read_limited(path, LARGEST_FILE) if path.is_file() else b""
    except OSError as error:
        raise SourceError(f"{path} cannot be read ({error.strerror or error}); fetch the labels again") from error
    if not data:
        why = f"has more than {LARGEST_FILE} bytes" if data is None else "is no file, or an empty one"
        raise SourceError(f"{path} {why}; fetch the labels again")
    return data
