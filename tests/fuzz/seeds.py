"""Inputs that a reader once failed on, or that lead far into one: `corpus/TARGET/NAME`."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent / "corpus"


def of(name: str) -> list[bytes]:
    """The committed inputs of a target, in the order of their names.

    Args:
        name: The target.
    """
    return [path.read_bytes() for path in sorted((FOLDER / name).glob("*"))]
