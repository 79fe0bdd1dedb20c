"""User content of a card, outside ddkit's part: kept by every rendering and every push."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import yaml

from ddkit.core.front_matter import LARGEST_CARD, front_matter

_START = re.compile(r"<!--\s{0,9}ddkit:start[^>\n]{0,200}-->[^\S\n]{0,9}\n?")
_END = re.compile(r"<!--\s{0,9}ddkit:end\s{0,9}-->[^\S\n]{0,9}\n?")
_EXTRA = re.compile(r"<!-- ddkit:extra:start -->\n(.*?)\n?<!-- ddkit:extra:end -->", re.DOTALL)
_RECORDED = re.compile(r"<!-- content \S{1,80} outside (\w{1,64})(?: inside ?(\w{0,64}))? -->\n?")
MARKS = ("ddkit:start", "ddkit:end", "ddkit:extra")


@dataclass(frozen=True, kw_only=True)
class UserContent:
    """User content of a card.

    Attributes:
        before: Text before ddkit's part.
        after: Text after ddkit's part.
        extra: Text of `--card-extra`, inside ddkit's part.
        matter: Front matter that ddkit does not write.
        edited: Whether it has changed since the card was rendered.
        overwritten: Whether ddkit's own part was edited.
        broken: Why the card could not be parsed, so that it has to be kept elsewhere; None if it was.
    """

    before: str = ""
    after: str = ""
    extra: str = ""
    matter: dict[str, Any] = field(default_factory=dict)
    edited: bool = False
    overwritten: bool = False
    broken: str | None = None

    @property
    def digest(self) -> str:
        """Digest recorded on the card, by which later edits are detected."""
        return digest(f"{self.before.strip()}\0{self.after.strip()}\0{yaml.safe_dump(self.matter, sort_keys=True)}")

    @property
    def empty(self) -> bool:
        """Whether there is no text around ddkit's part and no front matter."""
        return not (self.before.strip() or self.after.strip() or self.matter)


def digest(text: str) -> str:
    """Return the first 12 hex digits of a text's sha256.

    Args:
        text: Any text.
    """
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:12]


def with_digest(card: str) -> str:
    """Fill in the digest of ddkit's part of a rendered card, at the template's `inside` placeholder.

    Args:
        card: The rendered card.
    """
    start, end = _START.search(card), _END.search(card)
    assert start and end
    return card.replace(" inside -->", f" inside {_inside(card[start.end() : end.start()])} -->", 1)


def _inside(part: str) -> str:
    return digest(_EXTRA.sub("", _RECORDED.sub("", part, count=1)).strip())


def user_content_of(card: str | None, theirs: Callable[[dict[str, Any]], dict[str, Any]]) -> UserContent:
    """Parse the user content of a README.md. A card without any of ddkit's marks is user content as a whole.

    Args:
        card: Text of the card, or None.
        theirs: Selects the front matter that ddkit does not write.
    """
    if card is None:
        return UserContent()
    if len(card) > LARGEST_CARD:
        return UserContent(broken=f"it is larger than a card can be ({LARGEST_CARD} bytes)")
    card = card.replace("\r\n", "\n")
    try:
        matter, body = front_matter(card)
    except ValueError as error:
        return UserContent(broken=f"its front matter cannot be read ({error})")
    matter = theirs(matter)
    starts, ends = list(_START.finditer(body)), list(_END.finditer(body))
    if not starts and not ends and not _RECORDED.search(body):
        return UserContent(after=_lines(body), matter=matter, edited=True)
    if len(starts) != 1 or len(ends) != 1 or starts[0].end() > ends[0].start():
        return UserContent(matter=matter, broken=f"it has {len(starts)} start and {len(ends)} end marks of ddkit")
    part = body[starts[0].end() : ends[0].start()]
    extra, recorded = _EXTRA.search(part), _RECORDED.search(part)
    found = UserContent(
        before=_lines(body[: starts[0].start()]),
        after=_lines(body[ends[0].end() :]),
        extra=extra[1] if extra else "",
        matter=matter,
    )
    if recorded is None:
        return replace(found, edited=True)
    overwritten = recorded[2] is not None and recorded[2] != _inside(part)
    return replace(found, edited=recorded[1] != found.digest, overwritten=overwritten)


def _lines(text: str) -> str:
    return f"{text.strip()}\n\n" if text.strip() else ""


def merged(here: UserContent, there: UserContent) -> UserContent:
    """Merge the user content of the local card and the Hub's: the edited one, or both if both were edited.

    Args:
        here: User content of the local card.
        there: User content of the card on the Hub.
    """
    extra = here.extra or there.extra
    if there.empty or (here.edited and not there.edited):
        return replace(here, extra=extra)
    if here.empty or not here.edited or here.digest == there.digest:
        return replace(there, extra=extra)
    return UserContent(
        before=_joined(there.before, here.before),
        after=_joined(there.after, here.after),
        extra=extra,
        matter=there.matter | here.matter,
        edited=True,
    )


def _joined(there: str, here: str) -> str:
    """Return the paragraphs of both texts in order, shared ones once."""
    theirs, ours = (re.split(r"\n{2,}", text.strip()) if text.strip() else [] for text in (there, here))
    joined: list[str] = []
    for _, a, b, c, d in difflib.SequenceMatcher(None, theirs, ours, autojunk=False).get_opcodes():
        joined += theirs[a:b]
        joined += [paragraph for paragraph in ours[c:d] if paragraph not in theirs]
    return _lines("\n\n".join(joined))
