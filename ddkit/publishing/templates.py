"""Fills in the templates of cards (`cards/`)."""

from __future__ import annotations

import importlib.resources
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined

from ddkit.core.console import size_words
from ddkit.core.serialization import PACKAGE
from ddkit.core.worker_state import STATE
from ddkit.errors import SetError
from ddkit.publishing.escaping import code, fenced, markdown
from ddkit.publishing.user_content import with_digest
from ddkit.publishing.verdicts import short_name

DATASET_CARD, MODEL_CARD = "dataset_card.md.j2", "model_card.md.j2"


def template_folder() -> Path:
    """Return the folder of card templates: in an installed ddkit, else (editable install) in the checkout."""
    installed = Path(str(importlib.resources.files("ddkit"))) / "card_templates"
    for folder in (installed, PACKAGE.parent / "cards"):
        if (folder / DATASET_CARD).is_file():
            return folder
    raise SetError(
        f"the card template {DATASET_CARD} is missing; install ddkit again: pip install --force-reinstall ddkit"
    )


def render_template(name: str, facts: Mapping[str, Any]) -> str:
    """Fill in a card template.

    Args:
        name: File name of the template.
        facts: Its variables; a missing one is an error.
    """
    environment = STATE.constant("card templates", _environment)  # one for all cards: it keeps the compiled templates
    return with_digest(environment.get_template(name).render(facts))


def _template(name: str) -> tuple[str, str, Callable[[], bool]] | None:
    """Return a template's text, its file, and whether it is still the same: what jinja2 asks of a loader."""
    path = template_folder() / name
    if not path.is_file():
        return None
    changed = path.stat().st_mtime_ns
    return path.read_text("utf-8"), str(path), lambda: path.is_file() and path.stat().st_mtime_ns == changed


def _environment() -> Environment:
    environment = Environment(
        loader=FunctionLoader(_template),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 (Markdown, not HTML)
    )
    environment.filters |= {
        "text": markdown,
        "code": code,
        "fenced": fenced,
        "size": size_words,
        "baseline": short_name,
    }
    return environment
