"""Units on disk: the result of each is one sealed file in OUT.work, so that a finished one is never done again, and a
damaged one or another run's is seen and made again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from ddkit.core.files import read_sealed, read_sealed_json, write_sealed
from ddkit.errors import IntegrityError


@dataclass(frozen=True)
class UnitFile:
    """The result of one unit, or the state of a training: named tensors and metadata.

    key: stands for all that decides it; a file that was written under another key, or whose bytes are no longer what
    was written, does not count. None: only to look at it, whatever its key.
    """

    path: Path
    key: str | None

    def is_good(self) -> bool:
        """Whether the unit is done: its file is there and whole."""
        return read_sealed(self.path, self.key) is not None

    def write(self, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> None:
        """Write the result, atomically. (safetensors writes the buffer of a strided array as if it were contiguous.)

        metadata: JSON values. Raises DiskError.
        """
        whole = {name: np.asarray(array, order="C") for name, array in tensors.items()}
        write_sealed(self.path, save(whole, {"ddkit": json.dumps(metadata, sort_keys=True)}), self.key or "-")

    def read(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """(tensors, metadata). Raises IntegrityError, naming the file, where it is damaged or not there."""
        payload = read_sealed(self.path, self.key)
        if payload is None:
            raise IntegrityError(
                f"{self.path} is damaged or not of this run; run the same command again, it is made anew"
            )
        return load(payload), _metadata(payload[8 : 8 + int.from_bytes(payload[:8], "little")])

    def tensors(self) -> dict[str, np.ndarray]:
        """The named tensors; raises as `read`."""
        return self.read()[0]

    def metadata(self) -> dict[str, Any]:
        """The metadata alone, without comparing all bytes: for times and other facts that decide nothing.

        Raises IntegrityError where the file is not there or its beginning is damaged.
        """
        try:
            with open(self.path, "rb") as file:
                file.readline(1000)
                length = int.from_bytes(file.read(8), "little")
                return _metadata(file.read(min(length, 100_000_000)))
        except (OSError, ValueError, KeyError) as error:
            raise IntegrityError(f"{self.path} cannot be read ({error}); run the same command again") from error

    def write_json(self, value: Any) -> None:
        """Write a result that is one JSON value, atomically. Raises DiskError."""
        write_sealed(self.path, json.dumps(value, sort_keys=True).encode(), self.key or "-")

    def read_json(self) -> Any:
        """The JSON value, None where the unit is not done."""
        return read_sealed_json(self.path, self.key)


def _metadata(header: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.loads(header)["__metadata__"]["ddkit"])
    return found


@dataclass(frozen=True)
class UnitStore:
    """The units of one set: the only code that knows where they lie. work: OUT.work."""

    work: str

    def unit(self, name: str, key: str) -> UnitFile:
        """The result of a unit. key: stands for all that decides it."""
        return UnitFile(Path(self.work) / "units" / f"{name}.unit", key)

    def losses(self, name: str, key: str | None) -> UnitFile:
        """The loss curves of a unit: name -> float32 per step."""
        return UnitFile(Path(self.work) / "losses" / f"{name}.unit", key)

    def pass_over_source(self, name: str, key: str) -> UnitFile:
        """Tensors of one pass of a network over the source, shared by units."""
        return UnitFile(Path(self.work) / "once" / f"{name}-{key[:12]}.unit", key)

    def synthesised(self) -> list[UnitFile]:
        """The images that a method made, with what they began as, in the order of prefixes: only to look at."""
        return [UnitFile(path, None) for path in _by_numbers(Path(self.work) / "units", "recover-*.unit")]

    def all_losses(self) -> dict[str, UnitFile]:
        """The loss curves there are, by unit, in the order of prefixes: only to look at."""
        return {path.stem: UnitFile(path, None) for path in _by_numbers(Path(self.work) / "losses", "*.unit")}


def _by_numbers(folder: Path, pattern: str) -> list[Path]:
    """Files `KIND-PREFIX-NUMBER.unit`, sorted by prefix and number."""

    def numbers(path: Path) -> list[int]:
        return [int(part) for part in path.stem.split("-") if part.isdigit()]

    return sorted(folder.glob(pattern), key=numbers)
