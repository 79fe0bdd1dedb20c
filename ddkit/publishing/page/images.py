"""The images that the page shows: which ones, and what the teacher said of their first views."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ddkit.format.images import encode_image
from ddkit.format.manifest import Manifest
from ddkit.format.view_pixels import ViewPixels
from ddkit.replay.opening import Request, open_store
from ddkit.replay.soft_labels import SoftLabels
from ddkit.replay.stores.interface import RowBatch, RowStore

PER_CLASS, MOST_IMAGES = 10, 2000  # images that the page shows, of a class and of all sets
VIEWS = 4  # views of each image
TOP = 3  # classes of a soft label
BATCH = 256  # views whose soft labels are decoded at a time
HEAVY = 6_000_000  # bytes of encoded images above which they are shown as WebP
WEBP_QUALITY = 80
TYPES = {"png": "image/png", "jpg": "image/jpeg", "webp": "image/webp"}


@dataclass(frozen=True)
class Mixed:
    """What is mixed into a view.

    Attributes:
        c: Class of the other image.
        image: Position of the other image among the shown ones, whose view of the same number is mixed in; None: it is
            not shown.
        region: CutMix: top, left, height and width of the region that shows the other image, in pixels of the view;
            None: Mixup.
        share: Share of the other image: of the area, or of every pixel.
    """

    c: int
    image: int | None
    region: tuple[int, ...] | None
    share: float


@dataclass(frozen=True)
class ClassProbability:
    """One class of a soft label.

    Attributes:
        c: The class.
        sharp: Its probability at temperature 1.
        soft: Its probability at the temperature of the labels.
    """

    c: int
    sharp: float
    soft: float


@dataclass(frozen=True)
class PageView:
    """One view of an image.

    Attributes:
        patches: Order of the patches before the crop: patch j is patch patches[j] of the image; (): not shuffled.
        box: The crop: top, left, height, width in pixels of the image.
        flip: Whether it is mirrored left to right.
        mixed: What is mixed in; None: nothing.
        top: The most likely classes.
    """

    patches: tuple[int, ...]
    box: tuple[int, ...]
    flip: bool
    mixed: Mixed | None
    top: tuple[ClassProbability, ...]


@dataclass(frozen=True)
class PageImage:
    """One shown image.

    Attributes:
        c: Its class.
        src: The image as a data URI.
        views: Its first views.
    """

    c: int
    src: str
    views: tuple[PageView, ...]


@dataclass(frozen=True)
class ShownImages:
    """The images of a set that are shown, the first ones of each class.

    Attributes:
        labels: Class of each image.
        encoded: The images as PNG.
        views: The first views of each image.
    """

    labels: list[int]
    encoded: list[bytes]
    views: list[tuple[PageView, ...]]

    @classmethod
    def of(cls, manifest: Manifest, sets: int) -> ShownImages:
        """Choose the images of a set and read them.

        Args:
            manifest: The set.
            sets: Number of sets on the page, which share MOST_IMAGES.
        """
        nothing = Request(manifest=None, ipc=None, revision=None, store="auto", classes=None)
        _, store = open_store(manifest, nothing)
        labels, share = store.labels_of(np.arange(len(store))), max(MOST_IMAGES // sets, 1)
        most = min(PER_CLASS, max(share // len(store.classes), 1))
        chosen = [np.flatnonzero(labels == label)[:most] for label in range(min(len(store.classes), share))]
        rows = np.concatenate(chosen)[:share]
        encoded = [encode_image(store.stored(row)[0], "png") for row in rows.tolist()]
        reader = _Reader(manifest, store, rows)
        views = list(zip(*(reader.views(view) for view in range(min(VIEWS, store.views)))))
        return cls(labels[rows].tolist(), encoded, views)

    def page_images(self, *, heavy: bool) -> list[PageImage]:
        """Return the images as the page holds them.

        Args:
            heavy: Whether to show them as WebP, which is smaller.
        """
        contents = [as_uri("webp", _webp(png)) if heavy else as_uri("png", png) for png in self.encoded]
        return [PageImage(*parts) for parts in zip(self.labels, contents, self.views)]


@dataclass(frozen=True)
class _Reader:
    """Reads the views of the shown rows of a set: positions int64 [n]."""

    manifest: Manifest
    store: RowStore
    rows: np.ndarray

    def views(self, view: int) -> list[PageView]:
        """Return one view of every shown image. Soft labels are decoded by BATCH and not kept."""
        temperature = label_temperature(self.manifest)
        soft = SoftLabels(self.store.decoder, self.manifest, temperature, torch.device("cpu"), self.store.columns)
        place = {row: position for position, row in enumerate(self.rows.tolist())}
        found: list[PageView] = []
        for start in range(0, len(self.rows), BATCH):
            rows = self.rows[start : start + BATCH]
            batch = self.store.batch(rows, np.full(len(rows), view))
            inputs = batch.pixels.network_input(self.store.mean, self.store.std)
            top = _top(soft.logits(batch.labels, inputs, batch.rows), temperature)
            mixed = self._mixed(rows, view, batch.pixels)
            found += [_page_view(batch, i, mixed.get(i), top[i], place) for i in range(len(rows))]
        return found

    def _mixed(self, rows: np.ndarray, view: int, pixels: ViewPixels) -> dict[int, tuple[int, int]]:
        """Return position and class of the row that is mixed into each view, by index of the view."""
        partners = self.store.partners_of(rows)
        if partners is None or not len(pixels.mixed):
            return {}
        others = partners[pixels.mixed, view]
        pairs = zip(others.tolist(), self.store.labels_of(others).tolist())
        return dict(zip(pixels.mixed.tolist(), pairs))


def _page_view(
    batch: RowBatch,
    i: int,
    other: tuple[int, int] | None,
    top: tuple[ClassProbability, ...],
    place: dict[int, int],
) -> PageView:
    """Return the view `i` of a batch.

    Args:
        batch: The batch.
        i: Index of the view in it.
        other: Position and class of the row that is mixed in; None: none.
        top: The most likely classes.
        place: Position among the shown images by position of the row.
    """
    own, mixed = batch.pixels.own, None
    if other is not None:
        region, share = None, 0.0
        position = int(np.searchsorted(batch.pixels.mixed, i))
        if batch.pixels.regions is not None:
            region = tuple(batch.pixels.regions[position].tolist())
            share = region[2] * region[3] / batch.pixels.size**2
        elif batch.pixels.weights is not None:
            share = 1 - float(batch.pixels.weights[position])
        mixed = Mixed(other[1], place.get(other[0]), region, round(share, 4))
    return PageView(
        patches=() if own.patches is None else tuple(own.patches[i].tolist()), box=tuple(own.boxes[i]),
        flip=bool(own.flip[i]), mixed=mixed, top=top,
    )  # fmt: skip


def label_temperature(manifest: Manifest) -> float:
    """Return the temperature of the labels of a set.

    Args:
        manifest: The set.
    """
    return manifest.labels.temperature or 20.0


def _top(logits: Tensor, temperature: float) -> list[tuple[ClassProbability, ...]]:
    """Return the most likely classes of each row of float32 [B,C]."""
    sharp, soft = logits.softmax(1), (logits / temperature).softmax(1)
    best = sharp.sort(dim=1, descending=True, stable=True).indices[:, :TOP]
    columns = [best, sharp.gather(1, best), soft.gather(1, best)]
    return [
        tuple(ClassProbability(c, round(p, 4), round(q, 4)) for c, p, q in zip(*row))
        for row in zip(*(column.tolist() for column in columns))
    ]


def _webp(png: bytes) -> bytes:
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(png)) as image:
        image.save(buffer, format="WEBP", quality=WEBP_QUALITY, method=4)
    return buffer.getvalue()


def as_uri(kind: str, content: bytes) -> str:
    """Return the content of an image as a data URI.

    Args:
        kind: A key of TYPES.
        content: The encoded image.
    """
    return f"data:{TYPES[kind]};base64,{base64.b64encode(content).decode()}"


def are_heavy(shown: Sequence[ShownImages]) -> bool:
    """Return whether the images of all sets together have more than HEAVY bytes.

    Args:
        shown: The shown images of each set.
    """
    return sum(len(image) for one in shown for image in one.encoded) > HEAVY
