"""Escapes untrusted text on cards and in pictures, so that it is never read as Markdown, HTML, YAML or mathematics.

`text.printable` does the same for terminals.
"""

from __future__ import annotations

import re

from ddkit.text import one_printable_line

_SPECIAL = re.compile(r"[&<>`*\\\[\]|$]|~~|://|(?<!\w)_|_(?!\w)|\bwww\.")


def markdown(text: object) -> str:
    """Return text for a paragraph or table cell of a card: one line, all markup escaped.

    Args:
        text: A string, or an object whose `str` is used.
    """
    return _SPECIAL.sub(lambda found: "".join(f"&#{ord(c)};" for c in found[0]), one_printable_line(str(text)))


def code(text: object, table: bool = False) -> str:
    """Return a code span of a card: one line, delimited by as many backticks as needed.

    Args:
        text: A string, or an object whose `str` is used.
        table: Whether it is inside a table cell.
    """
    line = one_printable_line(str(text))
    line = line.replace("|", "\\|") if table else line
    fence = "`" * (max((len(run) for run in re.findall("`+", line)), default=0) + 1)
    space = " " if not line or line[0] in "` " or line[-1] in "` " else ""
    return f"{fence}{space}{line}{space}{fence}"


def fenced(text: object) -> str:
    """Return a line for a fenced block of a card.

    Args:
        text: A string, or an object whose `str` is used.
    """
    return one_printable_line(str(text)).replace("```", "` ` `")


def web_address(text: object) -> str | None:
    """Return an http(s) address that a card may link to, or None if `text` is not one.

    Args:
        text: The address, untrusted.
    """
    found = re.fullmatch(r"https?://[\w.-]+(:\d+)?(/[\w./~%+=&?#,@:;-]*)?", str(text), re.ASCII)
    return None if found is None else found[0]
