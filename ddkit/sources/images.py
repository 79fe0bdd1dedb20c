"""A source: labelled images by index, decoded on demand, with a content fingerprint and a seeded holdout."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import PIL
import torch
from torch import Tensor

from ddkit import hub
from ddkit.core.console import note
from ddkit.core.device import available_memory
from ddkit.core.files import cache_dir, read_sealed, read_sealed_json, stamp, write_sealed
from ddkit.core.worker_state import STATE
from ddkit.errors import ClassesError, ImagesUnreadable, first_few
from ddkit.format.images import LARGEST_PIXELS
from ddkit.sources.classes import class_subset, name_classes
from ddkit.sources.decoding import LARGEST_BYTES, Unreadable, centre_square, decode_rgb, image_extent, whole_image
from ddkit.sources.online import is_online, look_up
from ddkit.sources.reading import KEPT_BYTES, KEPT_PART, Squares, side_by_side
from ddkit.sources.tables import Table, open_table, splits_of
from ddkit.specs import ClassName, DatasetSpec, EvalTransform

SIZES = (32, 64, 128, 224)
NAMED = 20  # images that an error message names


@dataclass(frozen=True, kw_only=True)
class SourceRef:
    """How to open a source, as plain data, for worker processes and the record of a run.

    Attributes:
        data: The source, as in `open_source`.
        split: The split.
        image_column: Column of the images in a table.
        label_column: Column of the labels in a table.
        classes: Choice of classes, as in `class_subset`.
        holdout: Share of the images that is held out.
        part: `all` of the split, or what the holdout leaves (`train`) or takes (`holdout`).
        skip: Rows of the split that are left out because they do not decode.
    """

    data: str
    split: str = "train"
    image_column: str | None = None
    label_column: str | None = None
    classes: str | None = None
    holdout: float | None = None
    part: str = "all"
    skip: tuple[int, ...] = ()


class Source:
    """Labelled images.

    Args:
        ref: How the source is opened.
        table: The opened split.

    Attributes:
        labels: int64 [n].
        classes: Classes in label order.
        rows: int64 [n], row numbers in the split as opened (before `classes`, `skip` and holdout); recorded as origins.
    """

    def __init__(self, ref: SourceRef, table: Table) -> None:
        self.ref = ref
        self._table = table
        self._stamps = self._stamped()
        everything = name_classes(table.names)
        keep = np.arange(len(everything)) if ref.classes is None else class_subset(ref.classes, everything)
        new_label = np.full(len(everything) + 1, -1)
        new_label[keep] = np.arange(len(keep))
        labels = new_label[table.labels]
        chosen = labels >= 0
        chosen[list(ref.skip)] = False
        self.rows = np.flatnonzero(chosen)
        self.labels = labels[self.rows]
        self.classes: list[ClassName] = [everything[i] for i in keep]
        if ref.part != "all":
            held = self._held_out(ref.holdout or 0.0)
            part = held if ref.part == "holdout" else ~held
            self.rows, self.labels = self.rows[part], self.labels[part]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, in label order."""
        return [c.name for c in self.classes]

    @functools.cached_property
    def counts(self) -> np.ndarray:
        """Number of images of each class, int64 [C]."""
        return np.bincount(self.labels, minlength=len(self.classes))

    def members(self, label: int) -> np.ndarray:
        """Return the ascending indices of the images with label `label`, int64."""
        return np.flatnonzero(self.labels == label)

    def read(self, i: int) -> np.ndarray:
        """Return image `i` at full resolution: uint8 [3, H, W], RGB, upright. Raises ImagesUnreadable, naming it."""
        try:
            return self._decode(self.rows[i])
        except Unreadable as error:
            name = self._table.row_name(self.rows[i])
            raise ImagesUnreadable(
                f"{self.ref.data}: {name} does not decode ({error}); --skip-bad leaves it out"
            ) from error

    def encoded(self, i: int) -> bytes | np.ndarray:
        """Return image `i` as stored: the bytes of its file, or pixels. Raises ImagesUnreadable."""
        try:
            return self._raw(int(self.rows[i]))
        except Unreadable as error:
            name = self._table.row_name(self.rows[i])
            raise ImagesUnreadable(f"{self.ref.data}: {name} cannot be read ({error}); repair or remove it") from error

    def _decode(self, row: int) -> np.ndarray:
        raw = self._raw(row)
        return raw if isinstance(raw, np.ndarray) else decode_rgb(raw)

    def _raw(self, row: int) -> bytes | np.ndarray:
        """Return the encoded bytes of a row, or its pixels. Raises Unreadable if the file cannot be read."""
        try:
            return self._table.raw(row)
        except OSError as error:
            raise Unreadable(error.strerror or str(error)) from error

    def whole(self, i: int, size: int) -> Tensor:
        """Return image `i` as a square: shorter side to `size`, centre crop; uint8 [3, size, size]."""
        return whole_image(self.read(i), size)

    def squares(self, images: np.ndarray, transform: EvalTransform) -> Tensor:
        """Resize and crop some images; returns uint8 [n, 3, crop, crop].

        Args:
            images: Indices of the images, int64 [n].
            transform: Sizes of resize and centre crop.
        """
        if (kept := self._kept(transform)) is not None:
            return kept.take(images)
        read = self._read_square(transform)
        return torch.stack(list(side_by_side(lambda i: read(int(images[i])), len(images), None)))

    def resident(self, transform: EvalTransform) -> Tensor:
        """Resize and crop all images by `transform`; returns uint8 [n, 3, crop, crop], in memory, not to be changed."""
        squares = self._kept(transform) or Squares(len(self), transform.crop, self._read_square(transform))
        return squares.all(f"reading {self.ref.split}")

    def _read_square(self, transform: EvalTransform) -> Callable[[int], Tensor]:
        return lambda i: centre_square(torch.from_numpy(self.read(i)), transform.resize, transform.crop)

    def _kept(self, transform: EvalTransform) -> Squares | None:
        """Return the squares that this process keeps of a small source, for several networks read the same images.

        None without files: nothing would show that an image has changed.
        """
        size_bytes = len(self) * 3 * transform.crop**2
        if size_bytes > KEPT_BYTES or not self._table.files:
            return None

        def room() -> Squares | None:
            fits = size_bytes <= available_memory() // KEPT_PART
            return Squares(len(self), transform.crop, self._read_square(transform)) if fits else None

        return STATE.keep("squares", (self._identity, transform.resize, transform.crop), room, most=2)

    @functools.cached_property
    def _identity(self) -> str:
        """A hash of what determines the images: the files, and the rows that are chosen."""
        return hashlib.sha256(json.dumps([asdict(self.ref), self._stamps, self.rows.tolist()]).encode()).hexdigest()

    # -------------------------------------------------------------- content

    @functools.cached_property
    def hashes(self) -> np.ndarray:
        """The sha256 of every image of the split as opened, in its encoded form: uint8 [N, 32].

        Cached on disk by the names, sizes, inodes and times of the files, since computing them reads every file.
        """
        cached, key, n = *self._cached_hashes(), len(self._table.labels)
        kept = read_sealed(cached, key) if self._table.files else None
        if kept is not None and len(kept) == 32 * n:
            return np.frombuffer(kept, np.uint8).reshape(n, 32)

        def digest(row: int) -> bytes:
            try:
                raw = self._raw(row)
            except Unreadable:
                raw = b""
            return hashlib.sha256(raw.tobytes() if isinstance(raw, np.ndarray) else raw).digest()

        joined = b"".join(side_by_side(digest, n, "fingerprinting"))
        if self._table.files:
            write_sealed(cached, joined, key)
        return np.frombuffer(joined, np.uint8).reshape(n, 32)

    def _stamped(self) -> list[tuple[str, ...]]:
        """The stamps of the files and of the folders that contain them, which show whether they have changed."""
        folders = sorted({file.parent for file in self._table.files})
        return [stamp(path) for path in (*self._table.files, *folders)]

    def is_stale(self) -> bool:
        """Return whether a file was changed, added or removed since the source was opened."""
        try:
            return self._stamped() != self._stamps
        except OSError:
            return True

    def _cached_hashes(self) -> tuple[Path, str]:
        """The cache file of the hashes, and its key.

        The key includes the ctime: a file edited in place with size and mtime restored still has a new one.
        """
        listing = [stamp(file) for file in self._table.files]
        key = hashlib.sha256(json.dumps([listing, self.ref.image_column]).encode()).hexdigest()
        return cache_dir() / "hashes" / f"{key}.bin", key

    def forget_hashes(self) -> None:
        """Delete the cached hashes (`--rehash`), for file systems that do not report changes."""
        self._cached_hashes()[0].unlink(missing_ok=True)

    @functools.cached_property
    def fingerprint(self) -> str:
        """The sha256 over class name and content of all rows of the split as opened, regardless of paths."""
        digest = hashlib.sha256()
        for label, content in zip(self._table.labels, self.hashes):
            digest.update((self._table.names[label] if label >= 0 else "").encode() + b"\0" + content.tobytes())
        return digest.hexdigest()

    def _held_out(self, share: float) -> np.ndarray:
        """bool [n]: the `share` of each class with the smallest content hashes; at least one of two or more images."""
        held = np.zeros(len(self.rows), bool)
        for label in range(len(self.classes)):
            mine = np.flatnonzero(self.labels == label)
            take = max(round(share * len(mine)), 1) if len(mine) > 1 else 0
            keys = [hashlib.sha256(b"holdout" + self.hashes[self.rows[i]].tobytes()).digest() for i in mine]
            held[mine[sorted(range(len(mine)), key=keys.__getitem__)[:take]]] = True
        return held

    def spec(self) -> DatasetSpec:
        """Return the metadata of this source for the manifest."""
        held = self.ref.holdout if self.ref.part != "all" else None
        spec = DatasetSpec(id=self.ref.data, split=self.ref.split, fingerprint=self.fingerprint, holdout=held)
        if not is_online(self.ref.data):
            return spec
        online = look_up(self.ref.data)
        return replace(spec, id=online.repo, revision=online.commit, licence=hub.licence(online.repo, online.commit))

    def default_size(self) -> int:
        """Return the largest of SIZES up to the median shorter side (of up to 500 images), at least 32."""
        sides = []
        for i in np.linspace(0, len(self) - 1, min(len(self), 500)).astype(int):
            try:
                raw = self._raw(self.rows[i])
                sides.append(min(raw.shape[1:] if isinstance(raw, np.ndarray) else image_extent(raw)))
            except Unreadable:
                continue
        median = float(np.median(sides)) if sides else 0
        return max([size for size in SIZES if size <= median], default=SIZES[0])

    # -------------------------------------------------------------- images that do not decode

    def unreadable(self) -> dict[int, str]:
        """Return the rows of the split that do not decode, with the reason. Decodes everything once, then cached."""
        cached, key = self._checked()
        if (found := read_sealed_json(cached, key)) is not None:
            return {int(row): reason for row, reason in found.items()}

        def check(row: int) -> tuple[int, str] | None:
            try:
                self._decode(row)
            except Unreadable as error:
                return row, str(error)
            return None

        problems = side_by_side(check, len(self._table.labels), "checking that all decode")
        bad = dict(problem for problem in problems if problem)
        if self._table.files:
            write_sealed(cached, json.dumps(bad, indent=0).encode(), key)
        return bad

    def _checked(self) -> tuple[Path, str]:
        """The cache file of the unreadable rows, and its key: content of the source and version of the decoder."""
        decoder = [PIL.__version__, LARGEST_PIXELS, LARGEST_BYTES]
        key = hashlib.sha256(json.dumps([self.fingerprint, decoder]).encode()).hexdigest()
        return cache_dir() / "checked" / f"{key}.json", key

    def without_unreadable(self, skip_bad: bool) -> Source:
        """Check that every image decodes; returns this source, or a copy without the images that do not.

        Args:
            skip_bad: Whether to leave out images that do not decode.

        Raises:
            ImagesUnreadable: Images do not decode and `skip_bad` is false; the message lists them.
        """
        if self.ref.data == "digits":
            return self
        bad = self.unreadable()
        if not bad:
            return self
        names, reason = [self._table.row_name(row) for row in bad], next(iter(bad.values()))
        total = f"{len(bad)} of {len(self._table.labels)} images of {self.ref.data}"
        if not skip_bad:
            place = self._checked()[0]
            listed = f"; all are in {place}" if len(bad) > NAMED and place.is_file() else ""
            raise ImagesUnreadable(
                f"{total} do not decode: {first_few(names, NAMED)} ({reason}){listed}; repair or remove them, "
                "or leave them out with --skip-bad"
            )
        message = f"left out {total} that do not decode: {first_few(names)} ({reason})"
        STATE.keep(
            "unreadable noted", (self.fingerprint, message), lambda: note(message)
        )  # once, although the source is opened several times
        return Source(replace(self.ref, skip=tuple(sorted(bad))), self._table)

    def name_rows(self, rows: Sequence[int]) -> list[str]:
        """Return names of the rows `rows` of the split, for messages and logs."""
        return [self._table.row_name(row) for row in rows]

    def part(self, name: str, share: float) -> Source:
        """Return what a holdout of `share` leaves (`name` is `train`) or takes (`holdout`)."""
        return Source(replace(self.ref, part=name, holdout=share), self._table)


def open_ref(ref: SourceRef) -> Source:
    """Open the source that `ref` describes."""
    return Source(ref, open_table(ref.data, ref.split, ref.image_column, ref.label_column))


def reopen(ref: SourceRef) -> Source:
    """Return the source that `ref` describes, cached in this process unless one of its files or folders has changed."""
    kept = STATE.keep("source", ref, lambda: open_ref(ref), most=4)
    if kept.is_stale():
        STATE.drop("source")
    return STATE.keep("source", ref, lambda: open_ref(ref), most=4)


def open_source(
    data: str,
    *,
    split: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    classes: str | None = None,
    rehash: bool = False,
) -> Source:
    """Open the images to distil.

    Args:
        data: `digits`, a folder of class folders, parquet files, WebDataset shards, zip files, a set, or `ORG/NAME`.
        split: The split; default: `train`, else the first.
        image_column: Column of the images in a table; default: determined from types and names.
        label_column: Column of the labels, likewise.
        classes: Choice of classes, as in `class_subset`.
        rehash: Whether to hash files again instead of using cached hashes.

    Raises:
        SourceError: The source cannot be opened.
        ClassesError: There are fewer than two classes, or a class has no images.
    """
    STATE.drop("source", "unreadable noted")  # files may have changed since they were opened
    splits = splits_of(data)
    if split is None:
        split = "train" if "train" in splits else next(iter(splits))
    if rehash:
        STATE.drop("squares")
        open_table(data, split, image_column, label_column, again=True)
    source = reopen(
        SourceRef(data=data, split=split, image_column=image_column, label_column=label_column, classes=classes)
    )
    if rehash:
        source.forget_hashes()
    if unlabelled := int((source._table.labels < 0).sum()):
        note(f"{data}: {unlabelled} images of split {split!r} have no label and are left out")
    if len(source.classes) < 2:
        found = f"one class ({source.class_names[0]})" if source.classes else "no labelled images"
        raise ClassesError(f"{data} has {found} in split {split!r}; a classifier needs at least two classes")
    if empty := [source.class_names[c] for c in np.flatnonzero(source.counts == 0)]:
        raise ClassesError(
            f"{data} has no images of {first_few(empty)} in split {split!r}; choose others with --classes"
        )
    return source
