"""Finds the members that a damaged tar still holds, and the row records of an intact one."""

from __future__ import annotations

import functools
import hashlib
import itertools
import re
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ddkit.errors import IntegrityError
from ddkit.format.damage import mapped
from ddkit.format.entries import ByteRange, RowRecord
from ddkit.format.row_records import Tar, member
from ddkit.format.tars import BLOCK

_MAGIC, _MAGIC_AT = b"ustar", 257
_CLASS = re.compile(r"(\d{8})\.cls")


class SurvivingMembers:
    """The members of some tars, which may be damaged, by their hashes.

    Args:
        paths: The tars; those that are missing or empty are skipped.
        most: Number of bytes of each tar that are searched for members that are not in their place.
    """

    def __init__(self, paths: Iterable[Path], most: int) -> None:
        self._most = most
        self._tars = [mapped(path) for path in paths if path.is_file() and path.stat().st_size]

    def find(self, *places: ByteRange) -> bytes | None:
        """Return the data of a member, or None if no tar holds it.

        Args:
            places: Where it should lie, in one tar or another; all have its hash. It is searched everywhere else too.
        """
        for tar, place in itertools.product(self._tars, places):
            data = member(tar, place)
            if hashlib.sha256(data).hexdigest() == place.sha256:
                return data
        found = self._anywhere.get(places[0].sha256)
        return None if found is None else member(*found)

    @functools.cached_property
    def _anywhere(self) -> dict[str, tuple[Tar, ByteRange]]:
        return {place.sha256: (tar, place) for tar in self._tars for _, place in find_members(tar, self._most)}


def find_members(tar: Tar, most: int | None = None) -> list[tuple[str, ByteRange]]:
    """Return name and byte range of each member that has an intact header, in a tar that may be damaged anywhere.

    Every block is looked at, so that a damaged size does not hide the members that follow.

    Args:
        tar: The tar.
        most: Number of bytes that are searched; None: all.
    """
    size = len(tar) if most is None else min(len(tar), most)
    blocks = np.frombuffer(tar, np.uint8, size // BLOCK * BLOCK).reshape(-1, BLOCK)
    magic = blocks[:, _MAGIC_AT : _MAGIC_AT + len(_MAGIC)] == np.frombuffer(_MAGIC, np.uint8)
    found = []
    for at in (np.flatnonzero(magic.all(axis=1)) * BLOCK).tolist():
        try:
            info = tarfile.TarInfo.frombuf(tar[at : at + BLOCK], "utf-8", "replace")
        except tarfile.HeaderError:  # among others, a wrong checksum
            continue
        offset = at + BLOCK
        if 0 <= info.size <= len(tar) - offset:
            digest = hashlib.sha256(tar[offset : offset + info.size]).hexdigest()
            found.append((info.name, ByteRange(offset, info.size, digest)))
    return found


def records_of(tar: Tar, where: str) -> list[RowRecord]:
    """Return the row records of an intact shard, made from its tar.

    Args:
        tar: The tar.
        where: Its name in messages.

    Raises:
        IntegrityError: The tar does not consist of rows.
    """
    records, members = [], find_members(tar)
    for (name, label), (_, image), (_, views) in zip(*[iter(members)] * 3):
        text, key = member(tar, label), _CLASS.fullmatch(name)
        if key is None or not text.isdigit() or len(text) > 9:
            raise IntegrityError(f"{where} does not consist of rows of three members; fetch the set again")
        records.append(RowRecord(int(key[1]), int(text), image, views))
    return records
