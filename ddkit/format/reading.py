"""Reading the rows of a set, each compared with the format and the manifest before anybody uses it."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import NoReturn, TypeVar

import numpy as np

from ddkit.core.device import cores
from ddkit.core.files import file_sha256
from ddkit.errors import IntegrityError
from ddkit.format.damage import damage, open_images, open_layout
from ddkit.format.entries import RowRecord, ShardEntry, row_key
from ddkit.format.images import check_image, decode_image
from ddkit.format.manifest import Manifest
from ddkit.format.row_format import RowFormat, ranks_problem
from ddkit.format.row_records import Tar, member
from ddkit.format.views import Views
from ddkit.format.views_member import DecodedRow

Item = TypeVar("Item")
Result = TypeVar("Result")

PART_ROWS = 32  # rows of a shard that one thread reads together
AHEAD = 4  # parts that are read or wait while one is used


@dataclass(frozen=True)
class Part:
    """Some rows of a shard, from position `start` on. pixels: uint8 [3,S,S] each; labels, ranks: int64 [n]; views: of
    these rows; soft: the codec's tensors [n,V,…]. Of images alone ranks are 0, views None and soft empty."""

    start: int
    rows: list[int]
    pixels: list[np.ndarray]
    labels: np.ndarray
    ranks: np.ndarray
    views: Views | None
    soft: dict[str, np.ndarray]


@dataclass
class SetReader:
    """Reads shards one by one, in order; `prefix_problem` then tells whether their rows make whole prefixes.

    thorough: for `verify`: compare each member with its record's hash, too, and look at every line of an
    image and every view's labels; pixels are not decoded then. IntegrityErrors name shard, row and member.
    """

    manifest: Manifest
    thorough: bool = False
    _seen: dict[int, list[tuple[np.ndarray, np.ndarray]]] = field(default_factory=dict)
    _mean: set[bool] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.form = RowFormat.of(self.manifest)

    def shard(self, shard: ShardEntry, first: int, pool: ThreadPoolExecutor) -> Iterator[Part]:
        """The rows of a shard, whose first is row number `first`; the last part comes after all its bytes were
        compared with the manifest. Raises IntegrityError."""
        opened = open_layout(self.manifest, shard)
        if isinstance(opened, str):
            self._refuse(opened)
        hashed: Future[str] = pool.submit(file_sha256, self.manifest.root / shard.path)
        tar, records = opened[0], self._numbered(shard, first, opened[1])
        groups = self.manifest.views.mix_groups
        of_row = None if groups is None else np.array(groups)[[record.label for record in records]]
        parts = [records[start : start + PART_ROWS] for start in range(0, len(records), PART_ROWS)]

        def read(part: list[RowRecord]) -> Part:
            return self._part(shard, first, part, part[0].row - first, len(records), tar, of_row)

        try:
            done = _ahead(pool, read, parts)
            for _ in parts[1:]:
                yield self._noted(shard, next(done))
            last = self._noted(shard, next(done))
        except IntegrityError:
            self._compare(shard, hashed)  # damage has a better name than what it does to a row
            raise
        self._compare(shard, hashed)
        yield last

    def images(self, shard: ShardEntry, first: int, pool: ThreadPoolExecutor) -> Iterator[Part]:
        """As `shard`, images and classes alone, from the tar without labels where there is one."""
        entries = open_images(self.manifest, shard)
        self._numbered(shard, first, [record for record, _ in entries])
        for start in range(0, len(entries), PART_ROWS):
            mine = entries[start : start + PART_ROWS]
            pixels = list(pool.map(lambda entry: self._pixels(shard, entry[0], entry[1]), mine))
            labels = np.array([record.label for record, _ in mine], np.int64)
            yield Part(start, [record.row for record, _ in mine], pixels, labels, np.zeros_like(labels), None, {})

    def prefix_problem(self, prefix: int) -> str | None:
        """Whether the rows read of a prefix are its ranks of every class, each once; asked after its last shard."""
        ends = (0, *self.manifest.prefixes)
        labels, ranks = (np.concatenate(arrays) for arrays in zip(*self._seen.pop(prefix)))
        low = ends[ends.index(prefix) - 1]
        problem = ranks_problem(labels, ranks, len(self.manifest.classes), low, prefix)
        return None if problem is None else f"ipc {prefix}: {problem}"

    def _numbered(self, shard: ShardEntry, first: int, records: list[RowRecord]) -> list[RowRecord]:
        """The row records, seen to be the rows that are due, of classes that there are."""
        last, classes = first + shard.rows - 1, len(self.manifest.classes)
        if [record.row for record in records] != list(range(first, last + 1)):
            self._refuse(f"{shard.path}: its rows are not {first} to {last}")
        most = self.form.largest_image, self.form.largest_views
        for record in records:
            if record.label >= classes:
                self._refuse(f"{_place(shard, record)}: class {record.label} is not one of the {classes}")
            if record.image.length > most[0] or record.views.length > most[1]:
                self._refuse(
                    f"{_place(shard, record)}: {record.image.length} and {record.views.length} bytes, at most {most}"
                )
        return records

    def _part(
        self, shard: ShardEntry, first: int, records: list[RowRecord], start: int, rows: int, tar: Tar,
        groups: np.ndarray | None,
    ) -> Part:  # fmt: skip
        """The rows of `records`, which begin at position `start` of a shard of `rows`."""
        read = [self._row(shard, first, record, tar) for record in records]
        views = Views.stack([row.views for row in read])
        position = np.arange(start, start + len(records))
        soft = {name: np.stack([row.labels[name] for row in read]) for name in self.form.codec.TENSORS}
        wrong = self.form.views_problem(views, position, rows, groups) or self.form.labels_problem(soft, self.thorough)
        if wrong:
            self._refuse(f"{_place(shard, records[wrong[0]])}: {wrong[1]}")
        have_mean = {"mean" in row.labels for row in read}
        if len(have_mean | self._mean) > 1:
            self._refuse(f"{shard.path}: some rows have a tensor mean and some have none")
        self._mean |= have_mean
        labels = np.array([record.label for record in records], np.int64)
        ranks = np.array([row.metadata.rank for row in read], np.int64)
        pixels = [row.pixels for row in read if row.pixels is not None]
        return Part(start, [r.row for r in records], pixels, labels, ranks, views, soft)

    def _noted(self, shard: ShardEntry, part: Part) -> Part:
        self._seen.setdefault(shard.prefix, []).append((part.labels, part.ranks))
        return part

    def _row(self, shard: ShardEntry, first: int, record: RowRecord, tar: Tar) -> DecodedRow:
        place, image, blob = _place(shard, record), member(tar, record.image), member(tar, record.views)
        for what, data, sha256 in (("image", image, record.image.sha256), ("views", blob, record.views.sha256)):
            if self.thorough and hashlib.sha256(data).hexdigest() != sha256:
                raise IntegrityError(f"{place}: its {what} is not what its row record says; fetch the set again")
        pixels = None if self.thorough else self._pixels(shard, record, image)
        if pixels is None:
            check_image(image, self.manifest.image.codec, place, self.manifest.image.size)
        row = self.form.unpack(blob, place, labels=False)
        stage, meta = self.manifest.prefixes.index(shard.prefix) + 1, row.metadata
        if meta.first != first or meta.stage != stage:
            raise IntegrityError(
                f"{place}: metadata first {meta.first} and stage {meta.stage}, not {first} and {stage}; fetch the set "
                "again"
            )
        return replace(row, pixels=pixels)

    def _pixels(self, shard: ShardEntry, record: RowRecord, image: bytes) -> np.ndarray:
        codec, side = self.manifest.image.codec, self.manifest.image.size
        return decode_image(image, codec, _place(shard, record), side)

    def _compare(self, shard: ShardEntry, hashed: Future[str]) -> None:
        if hashed.result() != shard.sha256:
            self._refuse(damage(self.manifest, shard))

    def _refuse(self, problem: str) -> NoReturn:
        raise IntegrityError(f"{self.manifest.where}: {problem}; fetch or make the set again")


def _ahead(pool: ThreadPoolExecutor, work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """work(item) of each, in order, a few of them in other threads before they are asked for."""
    waiting: deque[Future[Result]] = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) > AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _place(shard: ShardEntry, record: RowRecord) -> str:
    return f"{shard.path} row {row_key(record.row)}"


def read_set(manifest: Manifest, ipc: int | None = None, *, labels: bool = True) -> Iterator[tuple[int, Part]]:
    """(number of the shard, part) of every shard of a prefix, each row seen to be as the format and the manifest say.

    labels: False reads images and classes alone. Raises IntegrityError naming shard, row and member.
    """
    reader, first = SetReader(manifest), 0
    shards = manifest.shards_of(ipc)
    with ThreadPoolExecutor(cores()) as pool:
        for number, shard in enumerate(shards):
            for part in (reader.shard if labels else reader.images)(shard, first, pool):
                yield number, part
            first += shard.rows
            last = number + 1 == len(shards) or shards[number + 1].prefix != shard.prefix
            if labels and last and (problem := reader.prefix_problem(shard.prefix)):
                raise IntegrityError(f"{manifest.where}: {problem}; fetch or make the set again")
