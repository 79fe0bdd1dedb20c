"""Results of units on disk: one sealed file each in OUT.work.

A finished unit is not run again; a file that is damaged or belongs to another run is detected and recreated.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from ddkit.core.files import read_sealed, read_sealed_json, sealed_key, write_sealed
from ddkit.core.serialization import Mismatch, read_dataclass
from ddkit.errors import IntegrityError

Record = TypeVar("Record")
_DAMAGED = (ValueError, KeyError, TypeError, RecursionError)  # raised for a header or tensors that ddkit did not write


@dataclass(frozen=True)
class UnitFile:
    """The result of one unit, or the state of a training: named tensors and metadata.

    Attributes:
        path: The file.
        key: Hash of everything that determines the result. A file with another key or a wrong checksum counts as
            missing. None accepts any key, for inspection.
    """

    path: Path
    key: str | None

    def is_good(self) -> bool:
        """Return whether the unit is done: its file exists, and its key and checksum match."""
        return read_sealed(self.path, self.key) is not None

    def exists(self) -> bool:
        """Return whether the file exists and has the key. Its checksum is not verified."""
        found = sealed_key(self.path)
        return found is not None and self.key in (None, found)

    def discard_if_damaged(self) -> None:
        """Delete the file if it has the key and a wrong checksum, so that no process takes it for a result."""
        if self.exists() and not self.is_good():
            self.path.unlink(missing_ok=True)

    def write(self, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> None:
        """Write the result atomically.

        Arrays are made contiguous first: safetensors writes the buffer of a strided array as if it were contiguous.

        Args:
            tensors: Arrays by name.
            metadata: JSON values by name.

        Raises:
            DiskError: The file cannot be written.
        """
        whole = {name: np.asarray(array, order="C") for name, array in tensors.items()}
        write_sealed(self.path, save(whole, {"ddkit": json.dumps(metadata, sort_keys=True)}), self.key or "-")

    def read(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Return (tensors, metadata).

        Raises:
            IntegrityError: The file is missing, damaged or of another run; the message names it.
        """
        payload = read_sealed(self.path, self.key)
        with contextlib.suppress(SafetensorError, *_DAMAGED):
            if payload is not None:
                return load(payload), _metadata(payload[8 : 8 + int.from_bytes(payload[:8], "little")])
        raise IntegrityError(
            f"{self.path} is damaged or belongs to another run; run the same command again to recreate it"
        )

    def tensors(self) -> dict[str, np.ndarray]:
        """Return the arrays by name; raises as `read`."""
        return self.read()[0]

    def metadata(self) -> dict[str, Any]:
        """Return the metadata without verifying the checksum, for timings and other values that do not affect results.

        Raises:
            IntegrityError: The file is missing or its header is damaged.
        """
        try:
            with open(self.path, "rb") as file:
                file.readline(1000)
                length = int.from_bytes(file.read(8), "little")
                return _metadata(file.read(min(length, 100_000_000)))
        except (OSError, *_DAMAGED) as error:
            raise IntegrityError(f"{self.path} cannot be read ({error}); run the same command again") from error

    def write_json(self, value: Any) -> None:
        """Write a result that is one JSON value, atomically.

        Args:
            value: The value.

        Raises:
            DiskError: The file cannot be written.
        """
        write_sealed(self.path, json.dumps(value, sort_keys=True).encode(), self.key or "-")

    def read_json(self) -> Any:
        """Return the JSON value, or None if the unit is not done."""
        return read_sealed_json(self.path, self.key)

    def read_record(self, cls: type[Record]) -> Record | None:
        """Return the JSON value as a dataclass; None if the unit is not done, or a version with other fields wrote it.

        Args:
            cls: The dataclass.
        """
        found = self.read_json()
        try:
            return None if found is None else read_dataclass(cls, found)
        except Mismatch:
            return None


def _metadata(header: bytes) -> dict[str, Any]:
    """The metadata of safetensors bytes. Raises one of _DAMAGED."""
    found = json.loads(json.loads(header)["__metadata__"]["ddkit"])
    if not isinstance(found, dict):
        raise ValueError("metadata is no table")
    return found


@dataclass(frozen=True)
class UnitStore:
    """The units of one set, and the layout of their files.

    Attributes:
        work: The directory OUT.work.
    """

    work: str

    def unit(self, name: str, key: str) -> UnitFile:
        """Return the file of a unit's result.

        Args:
            name: Name of the unit.
            key: Hash of everything that determines the result.
        """
        return UnitFile(Path(self.work) / "units" / f"{name}.unit", key)

    def losses(self, name: str, key: str | None) -> UnitFile:
        """Return the file of a unit's loss curves: float32 per step, by name.

        Args:
            name: Name of the unit.
            key: Key of the unit; None accepts any.
        """
        return UnitFile(Path(self.work) / "losses" / f"{name}.unit", key)

    def pass_over_source(self, name: str, key: str) -> UnitFile:
        """Return the file of the tensors of one pass of a network over the source, which units share.

        Args:
            name: Name of the pass.
            key: Hash of everything that determines the tensors.
        """
        return UnitFile(Path(self.work) / "once" / f"{name}-{key[:12]}.unit", key)

    def passes(self) -> tuple[Path, ...]:
        """Return the existing files of passes over the source."""
        return tuple(sorted((Path(self.work) / "once").glob("*.unit")))

    def synthesised(self) -> list[UnitFile]:
        """Return the files of synthesised images and their initialisations, by prefix, for inspection."""
        return [UnitFile(path, None) for path in _by_numbers(Path(self.work) / "units", "recover-*.unit")]

    def all_losses(self) -> dict[str, UnitFile]:
        """Return the existing files of loss curves by unit, in the order of prefixes, for inspection."""
        return {path.stem: UnitFile(path, None) for path in _by_numbers(Path(self.work) / "losses", "*.unit")}


def _by_numbers(folder: Path, pattern: str) -> list[Path]:
    """Files `KIND-PREFIX-NUMBER.unit`, sorted by prefix and number."""

    def numbers(path: Path) -> list[int]:
        return [int(part) for part in path.stem.split("-") if part.isdigit()]

    return sorted(folder.glob(pattern), key=numbers)
