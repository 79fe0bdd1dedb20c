"""The exact bytes of a shard's tar outside the data of its members.

A tar may contain features that readers treat differently: long names, links, devices, sparse files, a second archive
after the first. None of them is parsed here. The names and sizes in the row records determine every header, all
padding and the end of the archive, so these are computed and compared. Every tar reader reads a shard that passes in
the same way.
"""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from typing import Any

import numpy as np

BLOCK = tarfile.BLOCKSIZE  # 512 bytes: size of a header; data is padded to whole blocks
RECORD = tarfile.RECORDSIZE  # 10240 bytes: an archive is padded to whole records
_NAME, _SIZE, _CHECKSUM = slice(0, 100), slice(124, 136), slice(148, 156)


def padded(sizes: np.ndarray) -> np.ndarray:
    """Return `sizes` rounded up to whole blocks."""
    return -(-sizes // BLOCK) * BLOCK


def data_offsets(sizes: np.ndarray) -> np.ndarray:
    """Return where the data of consecutive members of these `sizes` begins, int64 [m]."""
    ends = np.cumsum(BLOCK + padded(sizes))
    found: np.ndarray = ends - padded(sizes)
    return found


def tar_bytes(sizes: np.ndarray) -> int:
    """Return the size of a tar with members of these `sizes`: two zero blocks at the end, padded to whole records."""
    end = int((BLOCK + padded(sizes)).sum()) + 2 * BLOCK
    return -(-end // RECORD) * RECORD


def headers(names: Sequence[str], sizes: np.ndarray) -> np.ndarray:
    """Return the ustar headers of regular files as `shards.write_shard` writes them, uint8 [m,512].

    The mode is 0644; owner and modification time are 0.

    Args:
        names: Names of the members.
        sizes: Bytes of their data, int64 [m].
    """
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
    """Return the first difference between a tar and the one that ddkit would write, or None.

    Headers, padding, the end and the size of the file are compared, but not the data of the members.

    Args:
        tar: The mapped tar.
        names: Names of the members.
        sizes: Bytes of their data, int64 [m].
    """
    if len(tar) != tar_bytes(sizes):
        return f"{len(tar)} bytes instead of {tar_bytes(sizes)}"
    at = data_offsets(sizes)
    blocks = np.frombuffer(tar, np.uint8).reshape(-1, BLOCK)
    differing = (blocks[at // BLOCK - 1] != headers(names, sizes)).any(axis=1)
    if differing.any():
        return f"the header of {names[int(differing.argmax())]} is not as ddkit writes it"
    rest = sizes % BLOCK  # bytes of data in each member's last block, 0 if it is full
    last = (at + padded(sizes)) // BLOCK - 1
    partial = np.flatnonzero(rest)
    padding = np.arange(BLOCK)[None, :] >= rest[partial][:, None]
    dirty = ((blocks[last[partial]] != 0) & padding).any(axis=1)
    if dirty.any():
        return f"there are bytes after {names[int(partial[dirty.argmax()])]}"
    end = int(at[-1] + padded(sizes)[-1]) if len(sizes) else 0
    if blocks[end // BLOCK :].any():
        return "there are bytes after the last member"
    return None
