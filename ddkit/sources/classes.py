"""Classes and their matching: by WordNet id, then by name, then by lemma, where the match must be unique."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from ddkit.core.serialization import PACKAGE
from ddkit.core.worker_state import STATE
from ddkit.errors import ClassesError, first_few
from ddkit.specs import ClassName

_WNID = re.compile(r"(n\d{8})")


def name_classes(names: Sequence[str]) -> list[ClassName]:
    """Add WordNet ids to class names, for ImageNet-like sources.

    Args:
        names: Names that begin with an id, or of which at least 90 % are descriptions of ImageNet classes; others get
            no ids.
    """
    ids = [m.group(1) if (m := _WNID.match(name)) else None for name in names]
    words = [name.lower() for name in names if re.search("[A-Za-z]", name)]
    enough = max(2, 0.9 * len(names))
    if not any(ids) and len(words) >= enough:  # names of digits need no list of ImageNet's, whose reading takes seconds
        known = _descriptions()
        if sum(word in known for word in words) >= enough:
            ids = [known.get(name.lower()) for name in names]
    return [ClassName(name=name, id=id_) for name, id_ in zip(names, ids)]


def unique_names(classes: Sequence[ClassName]) -> list[str]:
    """Make class names unique, as ClassLabel requires.

    Args:
        classes: The classes; where several share a name, their WordNet id or label is appended (ImageNet's two cranes).
    """
    counts = Counter(c.name for c in classes)
    return [c.name if counts[c.name] == 1 else f"{c.name} ({c.id or i})" for i, c in enumerate(classes)]


def _descriptions() -> dict[str, str]:
    """WordNet ids by ImageNet description in lower case, without ambiguous descriptions (from timm)."""
    return STATE.constant("ImageNet descriptions", _read_descriptions)


def _read_descriptions() -> dict[str, str]:
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    pairs = [(info.index_to_description(i).lower(), info.index_to_label_name(i)) for i in range(info.num_classes())]
    counts = Counter(description for description, _ in pairs)
    return {description: id_ for description, id_ in pairs if counts[description] == 1}


def _lemmas(name: str) -> set[str]:
    """The terms of a name: "tench, Tinca tinca" -> {"tench", "tinca tinca"}."""
    text = _WNID.sub("", name).replace("_", " ").lower()
    return {lemma.strip(" -") for lemma in text.split(",") if lemma.strip(" -")}


def match_classes(
    target: Sequence[ClassName], given: Sequence[ClassName], *, what: str, same_order: bool = False
) -> np.ndarray:
    """Match classes by id, name and lemma.

    Args:
        target: The classes to match.
        given: The classes that they are matched to.
        what: Names of the two sides for the message, such as "the set and --val".
        same_order: Match by position, for sources without names.

    Returns:
        int64 [len(target)], the index in `given` of each target class.

    Raises:
        ClassesError: Classes do not match; the message names the first five of each side.
    """
    if same_order:
        if len(target) != len(given):
            raise ClassesError(f"{what}: {len(target)} and {len(given)} classes; --same-order needs the same number")
        return np.arange(len(target))
    found: dict[int, int] = {}
    for keys in (_by_id, _exactly, _by_name, _by_lemma):
        left_target, left_given = _unmatched(target, found), _unmatched(given, found.values())
        holders: dict[str, set[int]] = {}
        for j in left_given:
            for key in keys(given[j]):
                holders.setdefault(key, set()).add(j)
        claims = {i: {j for key in keys(target[i]) for j in holders.get(key, ())} for i in left_target}
        wanted = Counter(j for matches in claims.values() for j in matches)
        for i, matches in claims.items():
            if len(matches) == 1 and wanted[next(iter(matches))] == 1:
                found[i] = next(iter(matches))
    if len(found) < len(target):
        mine = [target[i].name for i in _unmatched(target, found)]
        theirs = [given[j].name for j in _unmatched(given, found.values())]
        raise ClassesError(
            f"classes of {what} do not match: {first_few(mine)} have no partner among {first_few(theirs) or 'none'}; "
            "rename them (train and evaluate take --same-order where only the names differ)"
        )
    return np.array([found[i] for i in range(len(target))])


def _unmatched(classes: Sequence[ClassName], matched: Iterable[int]) -> list[int]:
    """The indices of the classes that are not among the matched ones."""
    done = set(matched)
    return [i for i in range(len(classes)) if i not in done]


def _by_id(c: ClassName) -> set[str]:
    return {c.id} if c.id else set()


def _exactly(c: ClassName) -> set[str]:
    return {c.name}


def _by_name(c: ClassName) -> set[str]:
    return {c.name.strip().lower()}


def _by_lemma(c: ClassName) -> set[str]:
    return _lemmas(c.name)


def shipped_lists() -> dict[str, Path]:
    """Return the files of the class lists that `--classes` accepts by name, by that name."""
    return {path.stem: path for path in (PACKAGE / "sources" / "lists").glob("*.txt")}


def class_subset(choice: str, available: Sequence[ClassName]) -> np.ndarray:
    """Return the indices of chosen classes in the given order, int64.

    Args:
        choice: Name of a shipped list (imagenette, …), a text file with one class per line, or `a,b,c`.
        available: The classes of the source.

    Raises:
        ClassesError: A class does not exist or is named twice.
    """
    shipped = shipped_lists()
    path = shipped.get(choice, Path(choice))
    if choice in shipped or os.path.isfile(path):
        lines = path.read_text(encoding="utf-8").splitlines()
        names = [line.split("#")[0].strip() for line in lines if line.split("#")[0].strip()]
    else:
        names = [name.strip() for name in choice.split(",") if name.strip()]
        if len(names) == 1 and names[0] not in {c.name for c in available}:
            lists = ", ".join(sorted(shipped))
            raise ClassesError(f"--classes {choice!r} is not a file, a shipped list ({lists}) or a class of the source")
    if double := [name for name, n in Counter(names).items() if n > 1]:
        raise ClassesError(f"--classes names {first_few(double)} more than once; name each class once")
    return match_classes(name_classes(names), available, what="--classes and the source")
