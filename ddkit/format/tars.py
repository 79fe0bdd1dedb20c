"""The tar of a shard, byte for byte: what our writer writes around the members, and nothing else.

A tar may hold much that a reader does not expect: long names, links, devices, holes, a second archive behind the first.
None of it is parsed here. From the names and sizes that the row records give, every header, every padding and the end
follow, so they are computed and compared: a shard that passes reads alike in every tar reader.
"""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from typing import Any

import numpy as np

BLOCK = tarfile.BLOCKSIZE  # 512: a header takes one, data is padded to whole ones
RECORD = tarfile.RECORDSIZE  # 10240: an archive is padded to whole ones
_NAME, _SIZE, _CHECKSUM = slice(0, 100), slice(124, 136), slice(148, 156)


def padded(sizes: np.ndarray) -> np.ndarray:
    """Bytes that data of these sizes takes in a tar."""
    return -(-sizes // BLOCK) * BLOCK


def data_offsets(sizes: np.ndarray) -> np.ndarray:
    """Where the data of members of these sizes begins, int64 [m], when they follow one another from the start."""
    ends = np.cumsum(BLOCK + padded(sizes))
    found: np.ndarray = ends - padded(sizes)
    return found


def tar_bytes(sizes: np.ndarray) -> int:
    """Bytes of a tar of members of these sizes: two zero blocks at the end, padded to whole records."""
    end = int((BLOCK + padded(sizes)).sum()) + 2 * BLOCK
    return -(-end // RECORD) * RECORD


def headers(names: Sequence[str], sizes: np.ndarray) -> np.ndarray:
    """The ustar headers of regular members, uint8 [m,512]: mode 0644, no owner, mtime 0, as `shards.write_shard`."""
    info = tarfile.TarInfo("")
    info.mode = 0o644
    blank = np.frombuffer(info.tobuf(tarfile.USTAR_FORMAT), np.uint8)
    made = np.tile(blank, (len(names), 1))
    made[:, _NAME] = np.array([name.encode() for name in names], "S100").view(np.uint8).reshape(len(names), 100)
    digits = (sizes[:, None] >> (3 * np.arange(10, -1, -1))) & 7
    made[:, _SIZE] = 0
    made[:, _SIZE.start : _SIZE.stop - 1] = digits + ord("0")
    made[:, _CHECKSUM] = ord(" ")
    sums = made.sum(axis=1, dtype=np.int64)
    octal = (sums[:, None] >> (3 * np.arange(5, -1, -1))) & 7
    made[:, _CHECKSUM.start : _CHECKSUM.start + 6] = octal + ord("0")
    made[:, _CHECKSUM.start + 6] = 0
    return made


def layout_problem(tar: Any, names: Sequence[str], sizes: np.ndarray) -> str | None:
    """What differs between a mapped tar and the one that our writer makes of members of these names and sizes, or None.

    Compares all but the members' data: headers, padding, the end, and the size of the file.
    """
    if len(tar) != tar_bytes(sizes):
        return f"{len(tar)} bytes instead of {tar_bytes(sizes)}"
    at = data_offsets(sizes)
    blocks = np.frombuffer(tar, np.uint8).reshape(-1, BLOCK)
    differing = (blocks[at // BLOCK - 1] != headers(names, sizes)).any(axis=1)
    if differing.any():
        return f"the header of {names[int(differing.argmax())]} is not as it is written"
    rest = sizes % BLOCK  # bytes of data in a member's last block
    last = (at + padded(sizes)) // BLOCK - 1
    partial = np.flatnonzero(rest)
    padding = np.arange(BLOCK)[None, :] >= rest[partial][:, None]
    dirty = ((blocks[last[partial]] != 0) & padding).any(axis=1)
    if dirty.any():
        return f"there is something behind {names[int(partial[dirty.argmax()])]}"
    end = int(at[-1] + padded(sizes)[-1]) if len(sizes) else 0
    if blocks[end // BLOCK :].any():
        return "there is something behind the last member"
    return None
