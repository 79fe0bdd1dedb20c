"""Annotated types of the values in an untrusted manifest: names, texts, counts, numbers."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any

from ddkit.core.serialization import Check, between, matching, one_of
from ddkit.format.images import IMAGE_FORMATS, LARGEST_PIXELS

LONGEST_TEXT = 10_000  # characters
NAME = re.compile(r"\w[\w.-]{0,199}")  # also used in file names: no path separators, no control characters
FILE = re.compile(r"(data|images)/train-ipc\d{3,}-\d{5}\.(tar|rows)")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e15  # False for NaN


def _is_setting(value: Any) -> bool:
    """Whether a value can be a setting of a method: a scalar, or a list or table of settings."""
    if isinstance(value, list):
        return all(_is_setting(item) for item in value)
    if isinstance(value, dict):
        return all(len(key) <= LONGEST_TEXT and _is_setting(item) for key, item in value.items())
    if isinstance(value, str):
        return len(value) <= LONGEST_TEXT
    return value is None or type(value) is bool or _is_number(value)


def _is_log(value: Any) -> bool:
    """Whether a value can be a method's log of a prefix; the card reads its list `crops_kept`."""
    kept = value.get("crops_kept", []) if isinstance(value, dict) else None
    return isinstance(kept, list) and _is_setting(value) and all(type(k) is int and 0 <= k <= 10**9 for k in kept)


NOT_EMPTY = Check(lambda value: len(value) > 0)

Words = Annotated[str, Check(lambda text: len(text) <= LONGEST_TEXT)]
Line = Annotated[str, matching(r"[^\x00-\x1f\x7f-\x9f]*")]
Name = Annotated[str, Check(lambda text: NAME.fullmatch(text) is not None and ".." not in text)]
CodecName = Annotated[str, matching(r"[a-z0-9][a-z0-9:+.]{0,99}")]
Sha256 = Annotated[str, matching(r"[0-9a-f]{64}")]
FileName = Annotated[str, Check(lambda text: FILE.fullmatch(text) is not None)]
Install = Annotated[str, matching(r"pip install (-U )?ddkit(\[[\w,-]+\])?(==[\w.]+)?")]
Repository = Annotated[str, matching(r"(?!.*\.\.)[A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*")]
Link = Annotated[str, matching(r"https?://\S{1,2000}|[\w./ -]{1,200}")]  # a URL, or a file in the repository
Architecture = Annotated[str, matching(r"[\w.:/@+-]{1,200}")]
ProtocolName = Annotated[str, matching(r"[^/\\\x00-\x1f\x7f-\x9f]{1,200}")]  # never a path
PrefixText = Annotated[str, matching(r"[0-9]{1,9}")]

Count = Annotated[int, between(1, 10**9)]
Side = Annotated[int, between(1, math.isqrt(LARGEST_PIXELS))]
ViewSide = Annotated[int, between(1, 2048)]  # limits the memory that a batch of views takes
ViewCount = Annotated[int, between(1, 10**6)]
Group = Annotated[int, between(0, 10**6)]
Seed = Annotated[int, between(-(2**63), 2**63)]
StudentSeed = Annotated[int, between(0, 2**63)]
Number = Annotated[float, Check(_is_number)]
Seconds = Annotated[float, between(0, 1e15)]
Share = Annotated[float, between(0, 1)]
Percent = Annotated[float, between(0, 100)]
Setting = Annotated[Any, Check(_is_setting)]
Log = Annotated[Any, Check(_is_log)]

ImageCodec = Annotated[str, one_of(*IMAGE_FORMATS)]
RealPixels = Annotated[str, one_of("whole", "crops", "initial", "none", "unknown")]
