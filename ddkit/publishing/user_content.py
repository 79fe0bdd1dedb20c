"""What people wrote on a card beside ddkit's part of it: kept over every rendering and every push."""

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
    """Text before and after ddkit's part, front matter that is not ddkit's, and what `--card-extra` put inside.

    edited: whether it is no longer what it was when the card was rendered; overwritten: whether ddkit's own part was
    written in; broken: why the card could not be taken apart, so that all of it has to be kept elsewhere.
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
        """Stands on the card, so that a later look tells whether somebody wrote there since."""
        return digest(f"{self.before.strip()}\0{self.after.strip()}\0{yaml.safe_dump(self.matter, sort_keys=True)}")

    @property
    def empty(self) -> bool:
        return not (self.before.strip() or self.after.strip() or self.matter)


def digest(text: str) -> str:
    """Twelve hex digits that stand for a text."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:12]


def with_digest(card: str) -> str:
    """A rendered card with the digest of ddkit's part filled in, where the template left `inside`."""
    start, end = _START.search(card), _END.search(card)
    assert start and end
    return card.replace(" inside -->", f" inside {_inside(card[start.end() : end.start()])} -->", 1)


def _inside(part: str) -> str:
    return digest(_EXTRA.sub("", _RECORDED.sub("", part, count=1)).strip())


def user_content_of(card: str | None, theirs: Callable[[dict[str, Any]], dict[str, Any]]) -> UserContent:
    """What is not ddkit's of a README.md. theirs: of the front matter, what ddkit does not write.

    A card without any of ddkit's marks is all somebody's own.
    """
    if card is None:
        return UserContent()
    if len(card) > LARGEST_CARD:
        return UserContent(broken=f"it is larger than any card ({LARGEST_CARD} bytes)")
    card = card.replace("\r\n", "\n")
    try:
        matter, body = front_matter(card)
    except ValueError as error:
        return UserContent(broken=f"its front matter is not usable ({error})")
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
    """One text of the local card and the Hub's: whichever was written since it was rendered; both where both were."""
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
    """The paragraphs of both, in order, those they share once."""
    theirs, ours = (re.split(r"\n{2,}", text.strip()) if text.strip() else [] for text in (there, here))
    joined: list[str] = []
    for _, a, b, c, d in difflib.SequenceMatcher(None, theirs, ours, autojunk=False).get_opcodes():
        joined += theirs[a:b]
        joined += [paragraph for paragraph in ours[c:d] if paragraph not in theirs]
    return _lines("\n\n".join(joined))
