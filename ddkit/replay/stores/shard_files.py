"""The files of shards that are mapped: verified, decoded and opened when they are needed, a few at a time."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ddkit.core.device import cores
from ddkit.core.files import stamp
from ddkit.errors import DdkitError, IntegrityError
from ddkit.format.damage import REMEDY, mapped, open_layout
from ddkit.format.entries import RowRecord, ShardEntry, row_key
from ddkit.format.manifest import Manifest
from ddkit.format.reading import SetReader
from ddkit.format.row_format import RowFormat
from ddkit.format.row_records import Tar, member
from ddkit.format.views_member import tensor_starts
from ddkit.replay.stores.pixel_files import PixelFile

OPEN_SHARDS = 16  # shards mapped at a time: two groups of the replay order; each has two open files

Fetch = Callable[[Manifest, ShardEntry], None]


@dataclass(frozen=True)
class Place:
    """A shard of a store.

    Attributes:
        manifest: The set that it belongs to.
        number: Number of that set among the joined ones.
        shard: Its entry.
        first: Row number of its first row in that set.
        start: Position of its first row in the store.
    """

    manifest: Manifest
    number: int
    shard: ShardEntry
    first: int
    start: int


@dataclass(frozen=True)
class Known:
    """What is remembered of a verified shard: 8 bytes per row and tensor.

    Attributes:
        labels: Class indices, int64 [n].
        starts: Offset of each tensor of each row in the tar, int64 [n] by name.
        pixels: The decoded images.
        stamp: What the tar's file looked like before it was verified; another one is verified again.
    """

    labels: np.ndarray
    starts: dict[str, np.ndarray]
    pixels: PixelFile
    stamp: tuple[str, ...]


@dataclass(frozen=True)
class Opened:
    """A shard whose files are mapped: `known`, its `tar`, and its images `pixels`, uint8 [n,H,W,3]."""

    known: Known
    tar: Tar
    pixels: np.ndarray


@dataclass
class _State:
    """What a process holds; a forked process starts with its own.

    Attributes:
        known: The verified shards.
        opened: The mapped shards, the one used last at the end.
        wanted: Shards to prepare in the background, in order.
        ranks: Classes and ranks of verified shards of increments that are not complete, by shard.
        means: Whether rows have a tensor `mean`, by the set's content; all of them have one or none.
        lock: Held while a shard is prepared or opened.
        worker: The thread that prepares shards in the background.
        process: Id of the process.
    """

    known: dict[int, Known] = field(default_factory=dict)
    opened: OrderedDict[int, Opened] = field(default_factory=OrderedDict)
    wanted: deque[int] = field(default_factory=deque)
    ranks: dict[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    means: dict[str, set[bool]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    worker: threading.Thread | None = None
    process: int = field(default_factory=os.getpid)


class ShardFiles:
    """The shards of one or more sets: prepared at their first use, mapped while they are used.

    Args:
        manifests: The sets; they have equal row formats.
        ipc: The prefix of each set; None: all of it.
        fetch: Called with a manifest and a shard before the shard's files are opened for the first time.
    """

    def __init__(self, manifests: Sequence[Manifest], ipc: int | None, fetch: Fetch | None) -> None:
        self.places, start = list[Place](), 0
        for number, manifest in enumerate(manifests):
            first = 0
            for shard in manifest.shards_of(ipc):
                self.places.append(Place(manifest, number, shard, first, start))
                first, start = first + shard.rows, start + shard.rows
        self.rows, self.starts = start, np.array([place.start for place in self.places])
        self._form, self._fetch, self._state = RowFormat.of(manifests[0]), fetch, _State()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_state": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state | {"_state": _State()})

    def expect(self, numbers: Sequence[int]) -> None:
        """Prepare shards in a background thread.

        An error ends the thread; it is raised where the shard is needed.

        Args:
            numbers: Numbers of the shards in the order of their use; none cancels what has not begun.
        """
        state = self._of_this_process()
        state.wanted = deque(number for number in numbers if number not in state.known)
        if state.wanted and (state.worker is None or not state.worker.is_alive()):
            state.worker = threading.Thread(target=self._work, args=(state,), name="ddkit-shards", daemon=True)
            state.worker.start()

    def _work(self, state: _State) -> None:
        while True:
            try:
                number = state.wanted.popleft()
            except IndexError:
                return
            try:
                self.prepare(number)
            except DdkitError:
                return

    def _of_this_process(self) -> _State:
        if self._state.process != os.getpid():  # forked: threads, locks and half-done work are those of the parent
            self._state = _State(known=dict(self._state.known), ranks=dict(self._state.ranks))
        return self._state

    def open(self, number: int) -> Opened:
        """Return the mapped files of a shard, which is prepared first if it is not yet.

        Args:
            number: Number of the shard.

        Raises:
            IntegrityError, DiskError; and what `fetch` raises.
        """
        known, state = self.prepare(number), self._of_this_process()
        with state.lock:
            found = state.opened.pop(number, None)
            if found is None:
                place = self.places[number]
                seen = _stamp(place)
                if seen != known.stamp or not known.pixels.is_there():
                    self._verify(place, known.pixels, state)
                    state.known[number] = known = replace(known, stamp=seen)
                found = Opened(known, mapped(place.manifest.root / place.shard.path), known.pixels.open())
            state.opened[number] = found
            while len(state.opened) > OPEN_SHARDS:
                state.opened.popitem(last=False)
        return found

    def prepare(self, number: int) -> Known:
        """Fetch and verify a shard and decode its images, unless this process has done so; raises as `open`.

        Args:
            number: Number of the shard.
        """
        state = self._of_this_process()
        if number in state.known:
            return state.known[number]
        with state.lock:
            if number not in state.known:
                state.known[number] = self._prepare(number, state)
        return state.known[number]

    def _prepare(self, number: int, state: _State) -> Known:
        place = self.places[number]
        manifest, shard = place.manifest, place.shard
        if self._fetch is not None:
            self._fetch(manifest, shard)
        seen = _stamp(place)
        opened = open_layout(manifest, shard)
        if isinstance(opened, str):
            raise IntegrityError(f"{manifest.where}: {opened}; {REMEDY}")
        tar, records = opened
        for record in records:  # the cache is shared by sets: a file in it must not depend on what a record only claims
            if hashlib.sha256(member(tar, record.image)).hexdigest() != record.image.sha256:
                problem = f"{shard.path} row {row_key(record.row)}: its image is not what its row record says"
                raise IntegrityError(f"{manifest.where}: {problem}; {REMEDY}")
        pixels = PixelFile.of(records, manifest.image.codec, manifest.image.size)
        state.ranks[number] = self._verify(place, pixels, state)
        self._check_increment(place, state)
        starts = [_tensor_starts(tar, record) for record in records]
        return Known(
            labels=np.array([record.label for record in records], np.int64),
            starts={name: np.array([row[name] for row in starts]) for name in self._form.shapes | self._form.soft},
            pixels=pixels,
            stamp=seen,
        )

    def _verify(self, place: Place, pixels: PixelFile, state: _State) -> tuple[np.ndarray, np.ndarray]:
        """Check every byte of a shard, decode its images if that is still to do, and return its classes and ranks."""
        means = state.means.setdefault(place.manifest.content, set())
        reader = SetReader(place.manifest, decode=not pixels.is_there(), _mean=means)
        with ThreadPoolExecutor(cores()) as pool:
            if not reader.decode:
                parts = [(part.labels, part.ranks) for part in reader.shard(place.shard, place.first, pool)]
            else:
                with pixels.writing() as write:
                    reader = replace(reader, decode=write is not None)
                    parts = []
                    for part in reader.shard(place.shard, place.first, pool):
                        parts.append((part.labels, part.ranks))
                        for image in part.pixels:
                            assert write is not None
                            write(image)
        labels, ranks = (np.concatenate(arrays) for arrays in zip(*parts))
        return labels, ranks

    def _check_increment(self, place: Place, state: _State) -> None:
        """After the last shard of an increment: check that its rows have each rank of each class exactly once."""
        mine = [
            number for number, other in enumerate(self.places)
            if (other.number, other.shard.prefix) == (place.number, place.shard.prefix)
        ]  # fmt: skip
        if all(number in state.ranks for number in mine):
            seen = [state.ranks.pop(number) for number in mine]
            reader = SetReader(place.manifest, _seen={place.shard.prefix: seen})
            if problem := reader.prefix_problem(place.shard.prefix):
                raise IntegrityError(f"{place.manifest.where}: {problem}; {REMEDY}")


def _stamp(place: Place) -> tuple[str, ...]:
    """Shows whether a shard's tar has changed; empty if it is missing, which verifying it then says."""
    path = place.manifest.root / place.shard.path
    return stamp(path) if path.is_file() else ()


def _tensor_starts(tar: Tar, record: RowRecord) -> dict[str, int]:
    """Offset in the tar of each tensor of a row."""
    at = record.views.offset
    header = 8 + int.from_bytes(tar[at : at + 8], "little")
    return {name: at + start for name, start in tensor_starts(bytes(tar[at : at + header])).items()}
