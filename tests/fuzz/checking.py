"""What a target is, and how an input is checked."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddkit.errors import DdkitError
from fuzz.mutations import Mutate


class Finding(AssertionError):
    """What was accepted is not what it must be."""


def agree(holds: bool, what: str) -> None:
    if not holds:
        raise Finding(what)


@dataclass(frozen=True)
class Target:
    """A reader.

    Attributes:
        read: Reads an input.
        refuses: The errors by which it refuses one.
        inputs: Makes valid inputs.
        mutate: Changes an input and keeps what surrounds the change valid.
        weight: Share of the time of a fuzzing run, relative to the others.
    """

    read: Callable[[bytes], None]
    refuses: tuple[type[Exception], ...]
    inputs: Callable[[], list[bytes]]
    mutate: Mutate
    weight: float = 1.0

    def check(self, data: bytes) -> bool:
        """Read an input; returns whether it was accepted. Raises Finding, or what the reader should not raise."""
        try:
            self.read(data)
        except self.refuses as error:
            if isinstance(error, DdkitError):
                agree(
                    str(error).isprintable() and 0 < len(str(error)) <= 4000,
                    f"a message of several lines: {str(error)[:200]!r}",
                )
            return False
        return True


TARGETS: dict[str, Target] = {}


def target(
    name: str, *refuses: type[Exception], inputs: Callable[[], list[bytes]], mutate: Mutate, weight: float = 1.0
) -> Any:
    """Register a reader under a name."""

    def keep(read: Callable[[bytes], None]) -> Callable[[bytes], None]:
        TARGETS[name] = Target(read, refuses, inputs, mutate, weight)
        return read

    return keep


@contextlib.contextmanager
def file_of(data: bytes, name: str = "x") -> Iterator[Path]:
    """A file with these bytes in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        path = Path(folder) / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        yield path
