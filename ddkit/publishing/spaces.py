"""Publishes the page of a set as a static Space on the Hub."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ddkit import hub
from ddkit.errors import Refused
from ddkit.publishing.page.rendering import render_page
from ddkit.publishing.pushing import Changes, commit_changes
from ddkit.publishing.rendering import front_matter_text

INDEX, CARD = "index.html", "README.md"
MARK = "ddkit-page"  # tag of the Spaces that ddkit made


def push_space(directory: str | Path, space: str, title: str, dataset: str, *, private: bool = False) -> str:
    """Publish the page of a set as a static Space, in one commit; a second call sends only changed files.

    Figures that show real images are left out.

    Args:
        directory: The set.
        space: "ORG/NAME" of the Space.
        title: Title of the Space.
        dataset: Hub id of the set, which the Space links to.
        private: Make a new Space private.

    Returns:
        The address of the Space.

    Raises:
        Refused: The Space exists and is not one that ddkit made.
        SetError, IntegrityError, HubAccess, HubError.
    """
    hub.check_repo(space)
    there = hub.find(space, kind="space") or hub.Remote(None, {})
    if CARD in there.files:
        card = hub.fetch(space, CARD, revision=there.head, kind="space", most=10**6).read_text(encoding="utf-8")
        if MARK not in card:
            raise Refused(f"{space} is a Space that ddkit did not make; choose another name")
    front = {
        "title": title, "emoji": "🧪", "colorFrom": "blue", "colorTo": "gray", "sdk": "static", "pinned": False,
        "datasets": [dataset], "tags": [MARK, "dataset-distillation"],
    }  # fmt: skip
    about = f"What was measured of [{dataset}](https://huggingface.co/datasets/{dataset}), by ddkit.\n"
    files: dict[str, hub.Content] = {
        INDEX: render_page([directory], private=False).encode(),
        CARD: f"---\n{front_matter_text(front)}---\n\n{about}".encode(),
    }
    hashes = {
        path: hashlib.sha256(content).hexdigest() for path, content in files.items() if isinstance(content, bytes)
    }

    def changes(there: hub.Remote) -> Changes:
        return Changes({p: c for p, c in files.items() if not hub.same(c, hashes[p], there.files.get(p))}, [])

    if there.public is None:
        hub.create(space, private=private, kind="space", sdk="static")
    commit_changes(changes, space, None, f"ddkit: page of {dataset}", kind="space")
    return hub.url(space, "space")
