"""What people wrote on a card beside ddkit's part of it: kept over every rendering and every push."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field, replace
from typing import Any

import yaml

from ddkit.plain import canonical

_FRONT = re.compile(r"\A---\n(.*?)\n?---\n(.*)\Z", re.DOTALL)
_OURS = re.compile(r"\A(.*?)<!-- ddkit:start[^>]*-->\n(.*?)<!-- ddkit:end -->\n?(.*)\Z", re.DOTALL)
_EXTRA = re.compile(r"<!-- ddkit:extra:start -->\n(.*?)\n?<!-- ddkit:extra:end -->", re.DOTALL)
_RECORDED = re.compile(r"<!-- content \S+ outside (\w+) -->")


@dataclass(frozen=True, kw_only=True)
class Outside:
    """Text before and after ddkit's part, front matter that is not ddkit's, and what `--card-extra` put inside.

    edited: whether it is no longer what it was when the card was rendered.
    """

    before: str = ""
    after: str = ""
    extra: str = ""
    matter: dict[str, Any] = field(default_factory=dict)
    edited: bool = False

    @property
    def digest(self) -> str:
        """Stands on the card, so that a later look tells whether somebody wrote there since."""
        text = canonical([self.before.strip(), self.after.strip(), _dates_as_text(self.matter)])
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def empty(self) -> bool:
        return not (self.before.strip() or self.after.strip() or self.matter)


def _dates_as_text(matter: Any) -> Any:
    return yaml.safe_load(yaml.dump(matter, Dumper=yaml.SafeDumper)) if not matter else yaml.safe_dump(matter)


def outside_of(card: str | None, ours: set[str]) -> Outside:
    """What is not ddkit's of a README.md. ours: keys of the front matter that ddkit writes.

    A card without ddkit's marks is all somebody's own; front matter that is no YAML counts as none.
    """
    if card is None:
        return Outside()
    front = _FRONT.match(card)
    matter: Any = {}
    if front:
        try:
            matter = yaml.safe_load(front[1]) or {}
        except yaml.YAMLError:
            matter = {}
    body = front[2] if front else card
    matter = {k: v for k, v in matter.items() if k not in ours} if isinstance(matter, dict) else {}
    parts = _OURS.match(body)
    if parts is None:
        return Outside(after=_lines(body), matter=matter, edited=True)
    extra, recorded = _EXTRA.search(parts[2]), _RECORDED.search(parts[2])
    found = Outside(before=_lines(parts[1]), after=_lines(parts[3]), extra=extra[1] if extra else "", matter=matter)
    return replace(found, edited=recorded is not None and recorded[1] != found.digest)


def _lines(text: str) -> str:
    return f"{text.strip()}\n\n" if text.strip() else ""


def merged(here: Outside, there: Outside) -> Outside:
    """One text of the local card and the Hub's: whichever was written since it was rendered; both where both were."""
    extra = here.extra or there.extra
    if there.empty or (here.edited and not there.edited):
        return replace(here, extra=extra)
    if here.empty or not here.edited or here.digest == there.digest:
        return replace(there, extra=extra)
    return Outside(
        before=_joined(there.before, here.before),
        after=_joined(there.after, here.after),
        extra=extra,
        matter=there.matter | here.matter,
        edited=True,
    )


def _joined(there: str, here: str) -> str:
    return there if here.strip() in there else here if there.strip() in here else there + here
