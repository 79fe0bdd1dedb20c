"""What a plan needs of a source: its classes, their numbers of images, and its size.

The datasets of the papers are known without having them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ddkit.errors import unknown
from ddkit.sources.images import Source
from ddkit.specs import ClassName

SAMPLE = 32  # images of `Outline.sample`


@dataclass(frozen=True, kw_only=True)
class Outline:
    """A source without its images.

    Attributes:
        data: The source, by the name under which recipes know it.
        classes: Its classes, in label order.
        counts: Number of images of each class that a method may use.
        size: Side of the images that are made from it by default, pixels.
        source: The opened source; None: it is not at hand.
    """

    data: str
    classes: Sequence[ClassName]
    counts: Sequence[int]
    size: int
    source: Source | None = None

    @classmethod
    def of(cls, source: Source, holdout: float | None) -> Outline:
        """Return the outline of an opened source.

        Args:
            source: The source. Whether its images decode is not checked.
            holdout: Share of each class that is held out, as `Source.part` does; None: nothing.
        """
        left = [int(n) - _held_out(int(n), holdout) for n in source.counts]
        return cls(data=source.ref.data, classes=source.classes, counts=left, size=source.default_size(), source=source)

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, in label order."""
        return [c.name for c in self.classes]

    def default_size(self) -> int:
        """Return `size`."""
        return self.size

    def sample(self, size: int) -> list[np.ndarray]:
        """Return some images of an opened source, whole, uint8 [3,size,size] each; none if it is not at hand.

        Args:
            size: Side of the images, pixels.
        """
        if self.source is None:
            return []
        chosen = np.unique(np.linspace(0, len(self.source) - 1, SAMPLE).astype(int))
        return [self.source.whole(int(i), size).numpy() for i in chosen]


def _held_out(images: int, share: float | None) -> int:
    """The number of images of a class that a holdout takes (`Source._held_out`)."""
    return max(round(share * images), 1) if share is not None and images > 1 else 0


@dataclass(frozen=True)
class _Known:
    """A dataset of the papers: its name in recipes, classes, training images and size in pixels."""

    data: str
    classes: int
    images: int
    size: int


# Numbers of classes and training images: the datasets' own pages and papers. Images of ImageNet at the papers' size.
_KNOWN = {
    "cifar10": _Known("uoft-cs/cifar10", 10, 50_000, 32),  # Krizhevsky 2009
    "cifar100": _Known("uoft-cs/cifar100", 100, 50_000, 32),  # Krizhevsky 2009
    "tinyimagenet": _Known("zh-plus/tiny-imagenet", 200, 100_000, 64),  # Le and Yang 2015
    "imagenet-1k": _Known("ILSVRC/imagenet-1k", 1000, 1_281_167, 224),  # arXiv 1409.0575
    "imagenet-21k-p": _Known("imagenet-21k-p", 10_450, 11_060_223, 224),  # arXiv 2104.10972
}


def known_dataset(name: str) -> Outline:
    """Return the outline of a dataset of the papers, with equally large classes.

    All have a labelled split for evaluation, so nothing is held out.

    Args:
        name: cifar10, cifar100, tinyimagenet, imagenet-1k or imagenet-21k-p.

    Raises:
        OptionError: The name is another.
    """
    if name not in _KNOWN:
        raise unknown("dataset", name, _KNOWN)
    found = _KNOWN[name]
    ends = np.linspace(0, found.images, found.classes + 1).astype(int)
    return Outline(
        data=found.data, classes=[ClassName(name=str(i)) for i in range(found.classes)],
        counts=[int(n) for n in np.diff(ends)], size=found.size,
    )  # fmt: skip


def known_names() -> list[str]:
    """Return the names that `known_dataset` takes."""
    return list(_KNOWN)
