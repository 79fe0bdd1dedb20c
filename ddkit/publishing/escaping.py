"""Words of others on a card and in pictures: shown as what they are, never as Markdown, HTML, YAML or mathematics.

On terminals `text.printable` does the same.
"""

from __future__ import annotations

import re

from ddkit.text import one_printable_line

_SPECIAL = re.compile(r"[&<>`*\\\[\]|$]|~~|://|(?<!\w)_|_(?!\w)|\bwww\.")


def markdown(text: object) -> str:
    """Text inside a paragraph or a table cell of a card: one line, in which nothing is markup."""
    return _SPECIAL.sub(lambda found: "".join(f"&#{ord(c)};" for c in found[0]), one_printable_line(str(text)))


def code(text: object, table: bool = False) -> str:
    """A code span of a card: one line between as many backticks as it takes. table: inside a table cell."""
    line = one_printable_line(str(text))
    line = line.replace("|", "\\|") if table else line
    fence = "`" * (max((len(run) for run in re.findall("`+", line)), default=0) + 1)
    space = " " if not line or line[0] in "` " or line[-1] in "` " else ""
    return f"{fence}{space}{line}{space}{fence}"


def fenced(text: object) -> str:
    """A line inside a fenced block of a card."""
    return one_printable_line(str(text)).replace("```", "` ` `")


def web_address(text: object) -> str | None:
    """An address that a card may link to; None for anything else."""
    found = re.fullmatch(r"https?://[\w.-]+(:\d+)?(/[\w./~%+=&?#,@:;-]*)?", str(text), re.ASCII)
    return None if found is None else found[0]
