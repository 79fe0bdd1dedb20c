"""Untrusted text made safe for display, and file names derived from source names."""

from __future__ import annotations

import re
from pathlib import Path

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


def printable(text: str) -> str:
    """Return `text` without what can disturb a terminal.

    Removes control characters, except line breaks and tabs, and marks that change the writing direction; escapes
    unpaired surrogates.
    """
    return _CONTROL.sub("", text).encode("utf-8", "backslashreplace").decode()


def one_printable_line(text: str) -> str:
    """Return `printable(text)` with line breaks and tabs replaced by spaces."""
    return re.sub(r"[\n\t]+", " ", printable(text))


LONGEST_NAME = 100  # characters of a source's name within the name of a set


def plain_name(source: str) -> str:
    """Return the name of a source as part of a file or repository name: letters, digits, `-`, `_` and `.`.

    Args:
        source: Path or id of the source.

    Returns:
        At most LONGEST_NAME characters; "images" if none are left.
    """
    name = re.sub(r"\.{2,}", ".", re.sub(r"[^\w.-]+", "-", Path(source).stem))
    return name[:LONGEST_NAME].strip("-.") or "images"
