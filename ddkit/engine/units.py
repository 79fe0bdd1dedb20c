"""Where finished units lie: one sealed file each, so that a damaged or a stranger's one is seen and made again."""

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

    key: stands for all that decides it; a file written under another key, or whose bytes are no longer what was
    written, is none. None: only to look at it, whatever its key.
    """

    path: Path
    key: str | None

    def is_good(self) -> bool:
        """Whether the unit is done: its file is there and whole."""
        return read_sealed(self.path, self.key) is not None

    def write(self, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> None:
        """Write the result, atomically. (safetensors writes the buffer of a strided array as if it were contiguous.)"""
        whole = {name: np.asarray(array, order="C") for name, array in tensors.items()}
        write_sealed(self.path, save(whole, {"ddkit": json.dumps(metadata, sort_keys=True)}), self.key or "-")

    def read(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """(tensors, metadata). Raises IntegrityError, naming the file, where it is damaged or not there."""
        payload = read_sealed(self.path, self.key)
        if payload is None:
            raise IntegrityError(
                f"{self.path} is damaged or not of this run; run the same command again, it is made anew"
            )
        header = json.loads(payload[8 : 8 + int.from_bytes(payload[:8], "little")])
        return load(payload), json.loads(header["__metadata__"]["ddkit"])

    def write_json(self, value: Any) -> None:
        """Write a result that is one JSON value, atomically."""
        write_sealed(self.path, json.dumps(value, sort_keys=True).encode(), self.key or "-")

    def read_json(self) -> Any:
        """The JSON value, None where the unit is not done."""
        return read_sealed_json(self.path, self.key)

    def tensors(self) -> dict[str, np.ndarray]:
        """The named tensors; raises as `read`."""
        return self.read()[0]


def unit_path(work: str | Path, unit: str) -> Path:
    """Where the result of a unit lies."""
    return Path(work) / "units" / f"{unit}.unit"
