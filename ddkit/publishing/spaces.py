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


def check_space(space: str, dataset: str, *, closed: bool = False) -> tuple[hub.Remote, bool]:
    """Refuse a Space that ddkit did not make, and a public Space for a set that is not.

    Args:
        space: "ORG/NAME" of the Space.
        dataset: Hub id of the set.
        closed: The set will be private or gated.

    Returns:
        (the Space, without files if it does not exist; whether the set is private or gated).

    Raises:
        Refused, SetError, HubAccess, HubError.
    """
    hub.check_repo(space)
    there, shown = hub.find(space, kind="space") or hub.Remote(None, {}), hub.find(dataset)
    if set(there.files) - {".gitattributes"}:
        card = CARD in there.files and hub.fetch(space, CARD, revision=there.head, kind="space", most=10**6)
        if not card or MARK not in card.read_text(encoding="utf-8"):
            raise Refused(f"{space} is a Space that ddkit did not make; choose another name")
    closed = closed or (shown is not None and (not shown.public or shown.gated))
    if closed and there.public:
        raise Refused(
            f"{space} is public and {dataset} is not open to everyone; make the Space private in its settings first, "
            "or choose another name"
        )
    return there, closed


def push_space(directory: str | Path, space: str, title: str, dataset: str) -> str:
    """Publish the page of a set as a static Space, in one commit; a second call sends only changed files.

    Figures that show real images are left out. The Space of a private or gated set is private.

    Args:
        directory: The set.
        space: "ORG/NAME" of the Space.
        title: Title of the Space.
        dataset: Hub id of the set, which the Space links to.

    Returns:
        The address of the Space.

    Raises:
        Refused: As `check_space`.
        SetError, IntegrityError, HubAccess, HubError.
    """
    there, closed = check_space(space, dataset)
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
        hub.create(space, private=closed, kind="space", sdk="static")
    commit_changes(changes, space, None, f"ddkit: page of {dataset}", kind="space")
    return hub.url(space, "space")
