"""A source: labelled images by number, decoded on demand, with a fingerprint of their content and a seeded holdout."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import PIL
import torch
from torch import Tensor

from ddkit import hub
from ddkit.core.console import note, progress
from ddkit.core.device import cores
from ddkit.core.files import cache_dir, read_sealed, read_sealed_json, stamp, write_sealed
from ddkit.core.worker_state import STATE
from ddkit.errors import ClassesError, ImagesUnreadable, first_few
from ddkit.format.images import LARGEST_PIXELS
from ddkit.sources.classes import class_subset, name_classes
from ddkit.sources.decoding import LARGEST_BYTES, Unreadable, centre_square, decode_rgb, image_extent, whole_image
from ddkit.sources.online import is_online, look_up
from ddkit.sources.tables import Table, open_table, splits_of
from ddkit.specs import ClassName, DatasetSpec, EvalTransform

Result = TypeVar("Result")

SIZES = (32, 64, 128, 224)
NAMED = 20  # images that a refusal names


@dataclass(frozen=True, kw_only=True)
class SourceRef:
    """How a source is opened, as plain data: travels to worker processes and into the record of a run.

    part: `all` of the split, or what a holdout of share `holdout` leaves (`train`) or takes (`holdout`), by `seed`.
    skip: rows of the split left out because they do not decode.
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
    """Labelled images. `labels` int64 [n]; `classes` in label order; `rows` int64 [n]: row numbers in the split as
    opened (before `classes`, `skip` and holdout), which is what origins record."""

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
        return [c.name for c in self.classes]

    @functools.cached_property
    def counts(self) -> np.ndarray:
        """Images of each class, int64 [C]."""
        return np.bincount(self.labels, minlength=len(self.classes))

    def members(self, label: int) -> np.ndarray:
        """Positions of one class's images, int64, ascending."""
        return np.flatnonzero(self.labels == label)

    def read(self, i: int) -> np.ndarray:
        """Image i at full resolution: uint8 [3,H,W], RGB, upright. Raises ImagesUnreadable naming it."""
        try:
            return self._decode(self.rows[i])
        except Unreadable as error:
            name = self._table.row_name(self.rows[i])
            raise ImagesUnreadable(
                f"{self.ref.data}: {name} does not decode ({error}); --skip-bad leaves it out"
            ) from error

    def encoded(self, i: int) -> bytes | np.ndarray:
        """Image i as it is stored: its file's bytes, or pixels. Raises ImagesUnreadable."""
        try:
            return self._raw(int(self.rows[i]))
        except Unreadable as error:
            name = self._table.row_name(self.rows[i])
            raise ImagesUnreadable(f"{self.ref.data}: {name} cannot be read ({error}); repair or remove it") from error

    def _decode(self, row: int) -> np.ndarray:
        raw = self._raw(row)
        return raw if isinstance(raw, np.ndarray) else decode_rgb(raw)

    def _raw(self, row: int) -> bytes | np.ndarray:
        """The encoded bytes of a row (or its pixels). Raises Unreadable where the file cannot be read."""
        try:
            return self._table.raw(row)
        except OSError as error:
            raise Unreadable(error.strerror or str(error)) from error

    def whole(self, i: int, size: int) -> Tensor:
        """Image i as a square: shorter side to `size`, centre crop; uint8 [3,size,size]."""
        return whole_image(self.read(i), size)

    def squares(self, images: np.ndarray, transform: EvalTransform) -> Tensor:
        """Some images through resize and centre crop: uint8 [n,3,crop,crop]."""
        with ThreadPoolExecutor(cores()) as pool:
            read = pool.map(
                lambda i: centre_square(torch.from_numpy(self.read(int(i))), transform.resize, transform.crop), images
            )
            return torch.stack(list(read))

    def resident(self, transform: EvalTransform) -> Tensor:
        """All images through resize and centre crop: uint8 [n,3,crop,crop], in memory."""
        result = torch.empty((len(self), 3, transform.crop, transform.crop), dtype=torch.uint8)

        def fill(i: int) -> None:
            result[i] = centre_square(torch.from_numpy(self.read(i)), transform.resize, transform.crop)

        for _ in _side_by_side(fill, len(self), f"reading {self.ref.split}"):
            pass
        return result

    # -------------------------------------------------------------- content

    @functools.cached_property
    def hashes(self) -> np.ndarray:
        """sha256 of every image of the split as opened, as encoded: uint8 [N,32]. Kept in the cache by the files'
        names, sizes, inodes and times, since it reads everything once."""
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

        joined = b"".join(_side_by_side(digest, n, "fingerprinting"))
        if self._table.files:
            write_sealed(cached, joined, key)
        return np.frombuffer(joined, np.uint8).reshape(n, 32)

    def _stamped(self) -> list[tuple[str, ...]]:
        """What tells that its files, and the folders they lie in, are still those that were opened."""
        folders = sorted({file.parent for file in self._table.files})
        return [stamp(path) for path in (*self._table.files, *folders)]

    def is_stale(self) -> bool:
        """Whether a file was changed, added or removed since it was opened."""
        try:
            return self._stamped() != self._stamps
        except OSError:
            return True

    def _cached_hashes(self) -> tuple[Path, str]:
        """Where the hashes are kept, and what they are kept by. A file that is edited in place, its size and time put
        back, still has another time of change."""
        listing = [stamp(file) for file in self._table.files]
        key = hashlib.sha256(json.dumps([listing, self.ref.image_column]).encode()).hexdigest()
        return cache_dir() / "hashes" / f"{key}.bin", key

    def forget_hashes(self) -> None:
        """Have every file read again (`--rehash`): for file systems that do not tell of a change."""
        self._cached_hashes()[0].unlink(missing_ok=True)

    @functools.cached_property
    def fingerprint(self) -> str:
        """sha256 over class name and content of every row of the split as opened; paths do not count."""
        digest = hashlib.sha256()
        for label, content in zip(self._table.labels, self.hashes):
            digest.update((self._table.names[label] if label >= 0 else "").encode() + b"\0" + content.tobytes())
        return digest.hexdigest()

    def _held_out(self, share: float) -> np.ndarray:
        """bool [n]: stratified, seeded by content: of each class the `share` (at least one of two) with least hash."""
        held = np.zeros(len(self.rows), bool)
        for label in range(len(self.classes)):
            mine = np.flatnonzero(self.labels == label)
            take = max(round(share * len(mine)), 1) if len(mine) > 1 else 0
            keys = [hashlib.sha256(b"holdout" + self.hashes[self.rows[i]].tobytes()).digest() for i in mine]
            held[mine[sorted(range(len(mine)), key=keys.__getitem__)[:take]]] = True
        return held

    def spec(self) -> DatasetSpec:
        """What the manifest says of this source."""
        held = self.ref.holdout if self.ref.part != "all" else None
        spec = DatasetSpec(id=self.ref.data, split=self.ref.split, fingerprint=self.fingerprint, holdout=held)
        if not is_online(self.ref.data):
            return spec
        online = look_up(self.ref.data)
        return replace(spec, id=online.repo, revision=online.commit, licence=hub.licence(online.repo, online.commit))

    def default_size(self) -> int:
        """The largest of 32, 64, 128, 224 not above the median shorter side (of up to 500 images), at least 32."""
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
        """Rows (of the split) that do not decode, with the reason: everything is decoded once, the answer is cached."""
        cached, key = self._checked()
        if (found := read_sealed_json(cached, key)) is not None:
            return {int(row): reason for row, reason in found.items()}

        def check(row: int) -> tuple[int, str] | None:
            try:
                self._decode(row)
            except Unreadable as error:
                return row, str(error)
            return None

        problems = _side_by_side(check, len(self._table.labels), "checking that all decode")
        bad = dict(problem for problem in problems if problem)
        if self._table.files:
            write_sealed(cached, json.dumps(bad, indent=0).encode(), key)
        return bad

    def _checked(self) -> tuple[Path, str]:
        """Where it is kept which images do not decode, and by which content and decoder."""
        decoder = [PIL.__version__, LARGEST_PIXELS, LARGEST_BYTES]
        key = hashlib.sha256(json.dumps([self.fingerprint, decoder]).encode()).hexdigest()
        return cache_dir() / "checked" / f"{key}.json", key

    def without_unreadable(self, skip_bad: bool) -> Source:
        """This source, after every image was seen to decode.

        Raises ImagesUnreadable listing all that do not, unless `skip_bad`: then they are left out.
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
        )  # once, though it is opened twice
        return Source(replace(self.ref, skip=tuple(sorted(bad))), self._table)

    def name_rows(self, rows: Sequence[int]) -> list[str]:
        """Rows of the split in words, for messages and logs."""
        return [self._table.row_name(row) for row in rows]

    def part(self, name: str, share: float) -> Source:
        """What a holdout of `share` leaves (`train`) or takes (`holdout`)."""
        return Source(replace(self.ref, part=name, holdout=share), self._table)


def _side_by_side(work: Callable[[int], Result], n: int, title: str) -> Iterator[Result]:
    """work(0) … work(n-1) in order, on all cores, shown as progress where it takes long; a few thousand at a time,
    so that a million rows do not become a million waiting tasks."""
    with ThreadPoolExecutor(cores()) as pool, progress(title, n if n > 5000 else 0, "images") as advance:
        for start in range(0, n, 4096):
            for result in pool.map(work, range(start, min(start + 4096, n))):
                yield result
                advance(1)


def open_ref(ref: SourceRef) -> Source:
    """The source a reference names, opened anew."""
    return Source(ref, open_table(ref.data, ref.split, ref.image_column, ref.label_column))


def reopen(ref: SourceRef) -> Source:
    """The source a reference names, kept open in this process, unless a file or folder of it has changed since."""
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
    """Open the images to distil: `digits`, a folder of class folders, parquet files, WebDataset shards, or a set.

    split: default `train`, else the only one; rehash: do not take hashes of files from the cache. Raises SourceError,
    ClassesError (fewer than two classes, or without images).
    """
    STATE.drop("source", "unreadable noted")  # the files may have changed since this process opened them
    splits = splits_of(data)
    if split is None:
        split = "train" if "train" in splits else next(iter(splits))
    if rehash:
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
