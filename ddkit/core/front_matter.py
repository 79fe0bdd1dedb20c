"""YAML front matter of cards, read within limits."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

LARGEST_CARD = 4 * 2**20  # bytes of a card (README.md)
DEEPEST_YAML, MOST_YAML = 40, 1_000_000  # nesting levels; values after alias expansion
LONGEST_NUMBER = 1000  # characters of a number: the time to read one grows with the square of its length
_NUMBER = re.compile(r"[-+]?[0-9.][-+0-9a-fA-FxX_:.]*")
_FRONT = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.*?)(?:\r?\n|(?<=\n))---[ \t]*(?:\r?\n|\Z)", re.DOTALL)


def load_yaml(text: str) -> Any:
    """Parse an untrusted YAML document.

    Args:
        text: The document.

    Raises:
        ValueError: It is not YAML, is nested more than DEEPEST_YAML levels deep, holds more than MOST_YAML values after
            its aliases are expanded, or a number of more than LONGEST_NUMBER characters.
    """
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        _check_yaml(yaml, yaml.parse(text, Loader=loader))
        return yaml.load(text, Loader=loader)  # noqa: S506 (a safe loader)
    except (yaml.YAMLError, RecursionError, TypeError, OverflowError, AttributeError, LookupError) as error:
        raise ValueError(" ".join(str(error).split())[:120]) from error


def _check_yaml(yaml: Any, events: Iterable[Any]) -> None:
    sizes: dict[str, int] = {}  # number of values below each anchor
    open_: list[tuple[str | None, int]] = [(None, 0)]
    for event in events:
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise ValueError("an alias that refers to itself or to nothing")
            anchor, size = None, sizes[event.anchor]
        elif isinstance(event, yaml.ScalarEvent):
            if len(event.value) > LONGEST_NUMBER and _NUMBER.fullmatch(event.value):
                raise ValueError(f"it holds a number of {len(event.value)} characters")
            anchor, size = event.anchor, 1
        elif isinstance(event, yaml.CollectionStartEvent):
            open_.append((event.anchor, 1))
            if len(open_) > DEEPEST_YAML:
                raise ValueError(f"it is nested more than {DEEPEST_YAML} levels deep")
            continue
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size = open_.pop()
        else:
            continue
        if anchor:
            sizes[anchor] = size
        open_[-1] = open_[-1][0], open_[-1][1] + size
        if open_[-1][1] > MOST_YAML:
            raise ValueError(f"it holds more than {MOST_YAML} values")


def front_matter(card: str) -> tuple[dict[str, Any], str]:
    """Split a card into front matter and text.

    Args:
        card: The content of README.md.

    Returns:
        (front matter, text); the front matter is {} if the card has none.

    Raises:
        ValueError: The front matter is not a mapping, or as in `load_yaml`.
    """
    found = _FRONT.match(card)
    if found is None:
        return {}, card.removeprefix("\ufeff")
    matter = load_yaml(found[1]) or {}
    if not isinstance(matter, dict):
        raise ValueError("it is no table")
    return {str(key): value for key, value in matter.items()}, card[found.end() :]
