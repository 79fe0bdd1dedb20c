"""Damage to one shard of a set: what may happen to files on disks, in transfers and by hand."""

from __future__ import annotations

import io
import random
import tarfile
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

Files = dict[Path, bytes]


def _bit(data: bytes, rng: random.Random) -> bytes:
    new = bytearray(data)
    new[rng.randrange(len(new))] ^= 1 << rng.randrange(8)
    return bytes(new)


def _byte(data: bytes, rng: random.Random) -> bytes:
    new = bytearray(data)
    new[rng.randrange(len(new))] = rng.randrange(256)
    return bytes(new)


def _truncated(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return data[: at // 512 * 512 if rng.random() < 0.5 else at]


def _zeroed(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data)) // 512 * 512
    return data[:start] + bytes(len(data[start : start + 512])) + data[start + 512 :]


def _rows(data: bytes) -> tuple[list[bytes], bytes]:
    """The bytes of each row of a tar, and what follows the last one."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = tar.getmembers()
    starts = [next(iter(row)).offset for _, row in groupby(members, key=lambda member: member.name.split(".")[0])]
    end = members[-1].offset_data + -(-members[-1].size // 512) * 512
    edges = [*starts, end]
    return [data[a:b] for a, b in zip(edges, edges[1:])], data[end:]


def _of_rows(change: Callable[[list[bytes], random.Random], None]) -> Callable[[bytes, random.Random], bytes]:
    def changed(data: bytes, rng: random.Random) -> bytes:
        rows, rest = _rows(data)
        change(rows, rng)
        return b"".join(rows) + rest

    return changed


def _repeat(rows: list[bytes], rng: random.Random) -> None:
    rows.insert(rng.randrange(len(rows) + 1), rng.choice(rows))


def _overwrite(rows: list[bytes], rng: random.Random) -> None:
    rows[rng.randrange(len(rows))] = rng.choice(rows)


def _delete(rows: list[bytes], rng: random.Random) -> None:
    del rows[rng.randrange(len(rows))]


KINDS: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "bit": _bit,
    "byte": _byte,
    "truncated": _truncated,
    "zeroed block": _zeroed,
    "row repeated": _of_rows(_repeat),
    "row overwritten by another": _of_rows(_overwrite),
    "rows reordered": _of_rows(lambda rows, rng: rng.shuffle(rows)),
    "row deleted": _of_rows(_delete),
}
SWAPPED = "shards swapped"


def damaged(kind: str, files: Files, tar: Path, other: Path, rng: random.Random) -> Files:
    """Files with other bytes than before.

    Args:
        kind: One of KINDS or SWAPPED.
        files: The bytes of the set's files.
        tar: A shard; of the kinds that are not of rows, its row records are damaged one time in five.
        other: Another shard, of the same size.
        rng: Draws the damage.
    """
    if kind == SWAPPED:
        pairs = [(tar, other), (tar.with_suffix(".rows"), other.with_suffix(".rows"))]
        return {a: files[b] for a, b in pairs} | {b: files[a] for a, b in pairs}
    path = tar.with_suffix(".rows") if "row" not in kind and rng.random() < 0.2 else tar
    while (new := KINDS[kind](files[path], rng)) == files[path]:
        pass
    return {path: new}
