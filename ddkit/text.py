"""Words of others as text that can be shown: no control characters, no turned direction, no end of lines."""

from __future__ import annotations

import re
from pathlib import Path

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


def printable(text: str) -> str:
    """Text of others for a terminal: without control characters but line breaks and tabs, and without the marks that
    turn the direction of writing around; unpaired surrogates are spelt out."""
    return _CONTROL.sub("", text).encode("utf-8", "backslashreplace").decode()


def one_printable_line(text: str) -> str:
    """`printable`, with blanks for line breaks and tabs."""
    return re.sub(r"[\n\t]+", " ", printable(text))


LONGEST_NAME = 100  # characters of a source's name in the name of a set


def plain_name(source: str) -> str:
    """A source's name as part of a file or repository name: letters, digits, `-`, `_` and `.`."""
    name = re.sub(r"\.{2,}", ".", re.sub(r"[^\w.-]+", "-", Path(source).stem))
    return name[:LONGEST_NAME].strip("-.") or "images"
