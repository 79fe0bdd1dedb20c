"""Reading the rows of a set and checking each of them against the format and the manifest before use."""

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
from ddkit.format.damage import REMEDY, damage, open_images, open_layout
from ddkit.format.entries import RowRecord, ShardEntry, row_key
from ddkit.format.images import check_image, decode_image
from ddkit.format.manifest import Manifest
from ddkit.format.row_format import RowFormat, ranks_problem
from ddkit.format.row_records import Tar, member
from ddkit.format.views import Views
from ddkit.format.views_member import DecodedRow

Item = TypeVar("Item")
Result = TypeVar("Result")

PART_ROWS = 32  # rows that one thread reads as a unit, at most
PART_BYTES = 2**20  # bytes of images, views and labels in such a unit, if more than one row
AHEAD = 4  # parts that are read ahead


@dataclass(frozen=True)
class Part:
    """Some consecutive rows of a shard.

    Attributes:
        start: Position of the first of them in the shard.
        rows: Row numbers.
        pixels: The images, uint8 [3,S,S] each; empty in a thorough check and without decoding.
        labels: Class indices, int64 [n].
        ranks: IPC ranks within the class, int64 [n]; 0 if only images were read.
        views: Views of these rows; None if only images were read.
        soft: The codec's tensors [n,V,...]; empty if only images were read.
    """

    start: int
    rows: list[int]
    pixels: list[np.ndarray]
    labels: np.ndarray
    ranks: np.ndarray
    views: Views | None
    soft: dict[str, np.ndarray]


@dataclass
class SetReader:
    """Reads shards in order and checks their rows. `prefix_problem` then checks that the rows form complete prefixes.

    IntegrityErrors name shard, row and member.

    Attributes:
        manifest: The set to read.
        thorough: For `verify`: also compare each member with the hash in its row record, and check every line of each
            image and the labels of every view. Pixels are not decoded then.
        decode: Whether to decode the images; False where their pixels are known.
        form: What all rows of the set have in common.
    """

    manifest: Manifest
    thorough: bool = False
    decode: bool = True
    _seen: dict[int, list[tuple[np.ndarray, np.ndarray]]] = field(default_factory=dict)
    _mean: set[bool] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.form = RowFormat.of(self.manifest)

    def shard(self, shard: ShardEntry, first: int, pool: ThreadPoolExecutor) -> Iterator[Part]:
        """Yield the rows of a shard. The last part is yielded only after all bytes were compared with the manifest.

        Args:
            shard: The shard to read.
            first: Row number of its first row.
            pool: Threads that decode parts ahead of use.

        Raises:
            IntegrityError: The shard is damaged or not valid.
        """
        opened = open_layout(self.manifest, shard)
        if isinstance(opened, str):
            self._refuse(opened)
        hashed: Future[str] = pool.submit(file_sha256, self.manifest.root / shard.path)
        tar, records = opened[0], self._numbered(shard, first, opened[1])
        groups = self.manifest.views.mix_groups
        of_row = None if groups is None else np.array(groups)[[record.label for record in records]]
        row_bytes = self.form.tensor_bytes + 3 * self.form.height * self.form.width
        step = max(1, min(PART_ROWS, PART_BYTES // row_bytes))
        parts = [records[start : start + step] for start in range(0, len(records), step)]

        def read(part: list[RowRecord]) -> Part:
            return self._part(shard, first, part, part[0].row - first, len(records), tar, of_row)

        try:
            done = _ahead(pool, read, parts)
            for _ in parts[1:]:
                yield self._noted(shard, next(done))
            last = self._noted(shard, next(done))
        except IntegrityError:
            self._compare(shard, hashed)  # if the file is damaged, report that instead of its effect on a row
            raise
        self._compare(shard, hashed)
        yield last

    def images(self, shard: ShardEntry, first: int, pool: ThreadPoolExecutor) -> Iterator[Part]:
        """Yield images and classes of a shard, from its tar without labels if there is one.

        Args:
            shard: The shard to read.
            first: Row number of its first row.
            pool: Threads that decode images.

        Raises:
            IntegrityError: The shard is damaged or not valid.
        """
        entries = open_images(self.manifest, shard)
        self._numbered(shard, first, [record for record, _ in entries])
        for start in range(0, len(entries), PART_ROWS):
            mine = entries[start : start + PART_ROWS]
            pixels = list(pool.map(lambda entry: self._pixels(shard, entry[0], entry[1]), mine))
            labels = np.array([record.label for record, _ in mine], np.int64)
            yield Part(start, [record.row for record, _ in mine], pixels, labels, np.zeros_like(labels), None, {})

    def prefix_problem(self, prefix: int) -> str | None:
        """Return why the rows of an increment do not have each rank of each class exactly once, or None.

        To be called after the increment's last shard was read.

        Args:
            prefix: The increment's prefix.
        """
        ends = (0, *self.manifest.prefixes)
        labels, ranks = (np.concatenate(arrays) for arrays in zip(*self._seen.pop(prefix)))
        low = ends[ends.index(prefix) - 1]
        problem = ranks_problem(labels, ranks, len(self.manifest.classes), low, prefix)
        return None if problem is None else f"ipc {prefix}: {problem}"

    def _numbered(self, shard: ShardEntry, first: int, records: list[RowRecord]) -> list[RowRecord]:
        """Check the numbers, classes and sizes in the row records of a shard, and return the records."""
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
        """Read the rows of `records`, which begin at position `start` of a shard with `rows` rows."""
        read = [self._row(shard, first, record, tar) for record in records]
        views = Views.stack([row.views for row in read])
        position = np.arange(start, start + len(records))
        soft = {name: np.stack([row.labels[name] for row in read]) for name in self.form.codec.tensors}
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
        """Remember classes and ranks for `prefix_problem`."""
        self._seen.setdefault(shard.prefix, []).append((part.labels, part.ranks))
        return part

    def _row(self, shard: ShardEntry, first: int, record: RowRecord, tar: Tar) -> DecodedRow:
        place, image, blob = _place(shard, record), member(tar, record.image), member(tar, record.views)
        for what, data, sha256 in (("image", image, record.image.sha256), ("views", blob, record.views.sha256)):
            if self.thorough and hashlib.sha256(data).hexdigest() != sha256:
                raise IntegrityError(f"{place}: its {what} is not what its row record says; fetch the set again")
        pixels = self._pixels(shard, record, image) if self.decode and not self.thorough else None
        if self.thorough:
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
        """Compare the hash of a shard with the manifest."""
        if hashed.result() != shard.sha256:
            self._refuse(damage(self.manifest, shard))

    def _refuse(self, problem: str) -> NoReturn:
        raise IntegrityError(f"{self.manifest.where}: {problem}; {REMEDY}")


def _ahead(pool: ThreadPoolExecutor, work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """Yield work(item) for each item in order, computing a few of them ahead in other threads."""
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
    """Yield the checked rows of a set or a prefix as (number of the shard, part).

    Args:
        manifest: The set to read.
        ipc: The prefix to read; default: the whole set.
        labels: False reads only images and classes.

    Raises:
        SetError: `ipc` is not a prefix of the set.
        IntegrityError: A file is damaged or not valid; the message names shard, row and member.
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
                raise IntegrityError(f"{manifest.where}: {problem}; {REMEDY}")
