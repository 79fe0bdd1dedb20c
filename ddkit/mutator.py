"""Damages a set at random, for tests and measurements of what `ddkit verify` finds and `ddkit repair` restores."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from ddkit.core.serialization import canonical
from ddkit.format.manifest import Manifest
from ddkit.format.manifest_file import FILE, read_manifest
from ddkit.format.row_records import member
from ddkit.format.surviving_members import find_members
from ddkit.format.tars import BLOCK, RECORD, headers

Row = list[tuple[str, bytes]]  # suffix and data of each member of a row
Edit = Callable[[Any, np.random.Generator], Any]


@dataclass(frozen=True)
class Damage:
    """What was done to a set.

    Attributes:
        kind: One of KINDS.
        paths: The files that have other bytes now or are missing, relative to the set.
        detail: What exactly, for messages.
    """

    kind: str
    paths: tuple[str, ...]
    detail: str


def damage(directory: str | Path, kind: str, rng: np.random.Generator) -> Damage:
    """Damage an intact set in a directory; it always differs from the intact one afterwards.

    Args:
        directory: The set; its files are changed in place.
        kind: One of KINDS.
        rng: Chooses the file and the place in it.

    Raises:
        ValueError: The kind is unknown, or the set is too small for it: kinds of shards need two, of rows two in a
            shard.
    """
    manifest = read_manifest(directory)
    if kind in BYTES:
        return _rewritten(manifest, kind, sorted(manifest.files()), BYTES[kind], rng)
    if kind in ROWS:
        return _rewritten(manifest, kind, _tars(manifest, 2), _on_rows(ROWS[kind]), rng)
    if kind in MANIFEST:
        return _rewritten(manifest, kind, [FILE], _on_manifest(MANIFEST[kind]), rng)
    if kind in SHARDS:
        return SHARDS[kind](manifest, kind, rng)
    raise ValueError(f"unknown kind of damage {kind!r}; valid: {', '.join(KINDS)}")


def _rewritten(manifest: Manifest, kind: str, paths: Sequence[str], edit: Edit, rng: np.random.Generator) -> Damage:
    """Edit the bytes of one of some files; edits that change nothing are drawn again."""
    if not paths:
        raise ValueError(f"{manifest.root} is too small for damage of kind {kind!r}")
    while True:
        path = paths[int(rng.integers(len(paths)))]
        data = (manifest.root / path).read_bytes()
        edited, detail = edit(data, rng)
        if edited != data:
            (manifest.root / path).write_bytes(edited)
            return Damage(kind, (path,), f"{path}: {detail}")


# ------------------------------------------------------------------ bytes of any file


def _bit(data: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    at, bit = int(rng.integers(len(data))), int(rng.integers(8))
    return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :], f"bit {bit} of byte {at} flipped"


def _byte(data: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    at, value = int(rng.integers(len(data))), int(rng.integers(256))
    return data[:at] + bytes([value]) + data[at + 1 :], f"byte {at} set to {value}"


def _truncated(data: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    at = int(rng.integers(len(data)))
    return data[:at], f"{at} of {len(data)} bytes left"


def _zeroed_block(data: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    at = int(rng.integers(len(data))) // BLOCK * BLOCK
    block = data[at : at + BLOCK]
    return data[:at] + bytes(len(block)) + data[at + BLOCK :], f"block at {at} zeroed"


def _swapped_halves(data: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    unit = BLOCK if len(data) >= 2 * BLOCK else 1
    half = len(data) // (2 * unit) * unit
    return data[half:] + data[:half], f"halves swapped at {half}"


def _swapped_blocks(data: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    blocks = [data[at : at + BLOCK] for at in range(0, len(data), BLOCK)]
    a, b = (int(i) for i in rng.integers(len(blocks), size=2))
    blocks[a], blocks[b] = blocks[b], blocks[a]
    return b"".join(blocks), f"blocks {a} and {b} swapped"


# ------------------------------------------------------------------ rows of a tar


def _tars(manifest: Manifest, least: int) -> list[str]:
    """Shards and `images/` tars of at least so many rows."""
    shards = [shard for shard in manifest.shards if shard.rows >= least]
    return [shard.path for shard in shards] + [shard.images.path for shard in shards if shard.images]


def _on_rows(edit: Callable[[list[str], list[Row], np.random.Generator], str]) -> Edit:
    """Edit keys and rows of a tar, and write it again with headers as they should be."""

    def on_bytes(data: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
        keys: list[str] = []
        rows: list[Row] = []
        for key, members in groupby(find_members(data), lambda found: found[0].partition(".")[0]):
            keys.append(key)
            rows.append([(name.partition(".")[2], member(data, place)) for name, place in members])
        detail = edit(keys, rows, rng)
        named = [(f"{key}.{suffix}", part) for key, row in zip(keys, rows) for suffix, part in row]
        heads = headers([name for name, _ in named], np.array([len(part) for _, part in named]))
        tar = b"".join(head.tobytes() + part + bytes(-len(part) % BLOCK) for head, (_, part) in zip(heads, named))
        tar += bytes(2 * BLOCK)
        return tar + bytes(-len(tar) % RECORD), detail

    return on_bytes


def _swap_rows(keys: list[str], rows: list[Row], rng: np.random.Generator) -> str:
    a, b = (int(i) for i in rng.choice(len(rows), 2, replace=False))
    rows[a], rows[b] = rows[b], rows[a]
    return f"contents of rows {keys[a]} and {keys[b]} swapped"


def _duplicate_row(keys: list[str], rows: list[Row], rng: np.random.Generator) -> str:
    a = int(rng.integers(len(rows)))
    keys.insert(a, keys[a])
    rows.insert(a, rows[a])
    return f"row {keys[a]} is there twice"


def _reorder_rows(keys: list[str], rows: list[Row], rng: np.random.Generator) -> str:
    order = rng.permutation(len(rows))
    keys[:], rows[:] = [keys[i] for i in order], [rows[i] for i in order]
    return "rows reordered"


def _delete_row(keys: list[str], rows: list[Row], rng: np.random.Generator) -> str:
    a = int(rng.integers(len(rows)))
    del rows[a]
    return f"row {keys.pop(a)} deleted"


# ------------------------------------------------------------------ whole shards


def _two_shards(manifest: Manifest, kind: str, rng: np.random.Generator) -> tuple[str, str]:
    if len(manifest.shards) < 2:
        raise ValueError(f"{manifest.root} has one shard; {kind!r} needs two")
    a, b = rng.choice(len(manifest.shards), 2, replace=False)
    return manifest.shards[a].path, manifest.shards[b].path


def _delete_shard(manifest: Manifest, kind: str, rng: np.random.Generator) -> Damage:
    path = manifest.shards[int(rng.integers(len(manifest.shards)))].path
    (manifest.root / path).unlink()
    return Damage(kind, (path,), f"{path} deleted")


def _swap_shards(manifest: Manifest, kind: str, rng: np.random.Generator) -> Damage:
    a, b = _two_shards(manifest, kind, rng)
    first, second = (manifest.root / path for path in (a, b))
    data = first.read_bytes()
    shutil.copyfile(second, first)
    second.write_bytes(data)
    return Damage(kind, (a, b), f"{a} and {b} swapped")


def _duplicate_shard(manifest: Manifest, kind: str, rng: np.random.Generator) -> Damage:
    a, b = _two_shards(manifest, kind, rng)
    shutil.copyfile(manifest.root / a, manifest.root / b)
    return Damage(kind, (b,), f"{a} copied over {b}")


# ------------------------------------------------------------------ the manifest


def _on_manifest(edit: Callable[[dict[str, Any], np.random.Generator], str]) -> Edit:
    """Edit the JSON of a manifest. Its own hash `self` is not made true again."""

    def on_bytes(data: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
        value = json.loads(data)
        detail = edit(value, rng)
        return (canonical(value) + "\n").encode(), detail

    return on_bytes


def _places(value: Any, path: str = "") -> list[tuple[Any, Any, str]]:
    """Container, key and path of every value that is not a container itself."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found: list[tuple[Any, Any, str]] = []
    for key, item in items:
        name = f"{path}.{key}"
        found += _places(item, name) if isinstance(item, dict | list) else [(value, key, name[1:])]
    return found


def _edit_value(manifest: dict[str, Any], rng: np.random.Generator) -> str:
    places = _places(manifest)
    inside, key, name = places[int(rng.integers(len(places)))]
    old = inside[key]
    if isinstance(old, bool) or old is None:
        inside[key] = not old
    else:
        inside[key] = f"{old}x" if isinstance(old, str) else old + 1
    return f"{name} is {inside[key]!r:.60} instead of {old!r:.60}"


def _remove_key(manifest: dict[str, Any], rng: np.random.Generator) -> str:
    key = sorted(manifest)[int(rng.integers(len(manifest)))]
    del manifest[key]
    return f"{key} removed"


def _edit_hash(manifest: dict[str, Any], rng: np.random.Generator) -> str:
    shard = manifest["shards"][int(rng.integers(len(manifest["shards"])))]
    shard["sha256"] = rng.bytes(32).hex()
    return f"another sha256 for {shard['path']}"


BYTES: dict[str, Edit] = {
    "bit": _bit, "byte": _byte, "truncation": _truncated, "zeroed block": _zeroed_block,
    "swapped halves": _swapped_halves, "swapped blocks": _swapped_blocks,
}  # fmt: skip
ROWS = {
    "swapped rows": _swap_rows, "duplicated row": _duplicate_row, "reordered rows": _reorder_rows,
    "deleted row": _delete_row,
}  # fmt: skip
SHARDS = {"deleted shard": _delete_shard, "swapped shards": _swap_shards, "duplicated shard": _duplicate_shard}
MANIFEST = {"edited manifest": _edit_value, "key of the manifest": _remove_key, "hash in the manifest": _edit_hash}
KINDS = (*BYTES, *ROWS, *SHARDS, *MANIFEST)
