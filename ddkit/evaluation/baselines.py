"""The baselines of a set: other images, labels or bytes that students are trained on in the same way.

Each kind is one function from the evaluated set to its training data; `BASELINES` lists them by the name that
`--baseline` takes.

- `random`: as many random real images, with the same teacher, views, seed and codec.
- `hard`: the set's images with class labels alone.
- `equal-bytes`: as many random real images, in JPEG, as fit into the bytes of the set, twice: with class labels, and
  with soft labels of the set's codec, of which fewer fit.
- `labeller`: the set's images, whose new views the teacher labels during training.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from ddkit.core.console import note, size_words
from ddkit.core.files import read_sealed_json, write_sealed
from ddkit.core.serialization import fingerprint
from ddkit.errors import unknown
from ddkit.evaluation.equal_bytes import IMAGE_FORMAT, discard, encoded_sizes, largest_packed, source_of
from ddkit.evaluation.subject import Subject
from ddkit.evaluation.training_data import TrainingData
from ddkit.format.images import JPEG_QUALITY
from ddkit.format.manifest import Manifest
from ddkit.pipeline.record import load_record, work_dir

DEFAULT = ("random", "hard", "teacher")
REFERENCES = ("teacher", "full")  # networks that are no students of a set
NONE = ("none", "off")


# ------------------------------------------------------------------ the kinds


def random_baseline(subject: Subject) -> list[TrainingData]:
    """Return as many random real images, labelled in the same way; nothing for a set of method `random`.

    Args:
        subject: The set.
    """
    if problem := subject.problem():
        note(f"{subject.given.root}: no baseline random, {problem}")
        return []
    if subject.given.method == "random":
        return []
    own = subject.set.root == subject.given.root
    note(f"{subject.given.root}: baseline random, same teacher, views and seed")
    out = work_dir(subject.given.root) / ("baseline" if own else f"baseline-{subject.set.content[:12]}")
    made = subject.random_set(out, "random")
    if made is None:
        return []
    return [
        TrainingData(
            of="random", labels=subject.data.labels, manifest=made, ipc=subject.data.ipc, baseline="random",
            teacher=subject.data.teacher,
        )
    ]  # fmt: skip


def hard_baseline(subject: Subject) -> list[TrainingData]:
    """Return the set's images with class labels alone; nothing if these are evaluated anyway.

    Args:
        subject: The set.
    """
    if subject.data.labels == "hard":
        return []
    return [TrainingData(of="this", labels="hard", manifest=subject.set, ipc=subject.data.ipc, baseline="hard")]


def equal_bytes_baselines(subject: Subject) -> list[TrainingData]:
    """Return as many random real images as fit into the shards of the set (of its prefix): images and soft labels.

    Both have n images of every class, the first n that method `random` takes with the set's seed, resized to the set's
    size and encoded as JPEG of quality 75. With class labels, n is the largest number whose encoded images take no
    more bytes than the shards of the set. They are packed as a set with one view an image, the fewest that the format
    allows, so the teacher sees each image once; neither the views nor the archive are counted. With soft labels of the
    set's codec and view count, n is the largest number whose shards take no more bytes than the set's. Where the
    smallest class has fewer than n images, n is what it has; a note says so, and the entry has the true bytes.

    Args:
        subject: The set.
    """
    root, ipc = subject.given.root, subject.data.ipc
    if problem := subject.problem():
        note(f"{root}: no baseline equal-bytes, {problem}")
        return []
    budget = subject.set.total_bytes(ipc)
    key = fingerprint([subject.set.content, budget, subject.given.seed, JPEG_QUALITY])
    work = work_dir(root) / f"equal-bytes-{key[:12]}"

    def make(kind: str, n: int) -> Manifest | None:
        options: dict[str, Any] = {"ipc": n, "prefixes": (n,), "image_format": IMAGE_FORMAT}
        if kind == "hard":
            options |= {"views": 1, "codec": "fp16"}
        return subject.random_set(work / f"{kind}-{n}", "equal-bytes", **options)

    found: dict[str, int] | None = read_sealed_json(work / "ipc.json", key)
    if found is None:
        note(f"{root}: baseline equal-bytes, how many random images fit into {size_words(budget)}")
        found = _fitting(subject, budget, make)
        if found is None:
            return []
        write_sealed(work / "ipc.json", json.dumps(found).encode(), key)
    data = []
    for kind, labels in (
        ("hard", "hard"),
        ("stored", "relabelled" if subject.data.labels == "relabelled" else "stored"),
    ):
        if found[kind] == 0:
            note(f"{root}: no baseline equal-bytes with {kind} labels, one image of each class takes more bytes")
            continue
        made = make(kind, found[kind])
        if made is None:
            continue
        mine = TrainingData(of="equal-bytes", labels=labels, manifest=made, baseline=f"equal-bytes {kind}")
        all_of_it = ", all that the smallest class of the source has" if found[kind] == found["available"] else ""
        note(
            f"{root}: baseline equal-bytes, {kind} labels: {made.ipc} images per class{all_of_it}, "
            f"{size_words(mine.total_bytes)} of {size_words(budget)}"
        )
        data.append(mine)
    return data


def _fitting(subject: Subject, budget: int, make: Callable[[str, int], Manifest | None]) -> dict[str, int] | None:
    """Return the IPC of both kinds (0: none fits), and the images of the smallest class; None as `random_set`."""
    probes = make("hard", 1), make("stored", 1)
    hard, stored = probes
    record = None if hard is None else load_record(hard.root)
    if hard is None or stored is None or record is None:
        return None
    source = source_of(record)
    sizes = encoded_sizes(source, seed=subject.given.seed, size=subject.set.image.size, most=budget)
    ipc = int((sizes.sum(axis=1).cumsum() <= budget).sum())

    def make_stored(n: int) -> Manifest:
        made = make("stored", n)
        assert made is not None  # the source and the teacher of the probe
        return made

    packed = largest_packed(stored, sizes, budget, make_stored)
    found = {"hard": ipc, "stored": packed.ipc if packed else 0, "available": int(source.counts.min())}
    for kind, probe in zip(("hard", "stored"), probes):
        if found[kind] != 1 and probe is not None and probe.root.exists():
            discard(probe)
    return found


def labeller_baseline(subject: Subject) -> list[TrainingData]:
    """Return the set's images with labels that its teacher computes during training, on new views every epoch.

    Args:
        subject: The set.
    """
    if subject.data.labels == "online":
        return []
    found = subject.found_teacher()
    if found is None:
        note(f"{subject.given.root}: no baseline labeller, for want of --teacher")
        return []
    if found.spec.hash != subject.set.teacher.hash:
        note(f"{subject.given.root}: no baseline labeller, the available teacher is not the one the set was made with")
        return []
    return [
        TrainingData(
            of="this", labels="online", manifest=subject.set, ipc=subject.data.ipc, baseline="labeller",
            teacher=str(found.path),
        )
    ]  # fmt: skip


# name -> training data of that kind
BASELINES: dict[str, Callable[[Subject], list[TrainingData]]] = {
    "random": random_baseline,
    "hard": hard_baseline,
    "equal-bytes": equal_bytes_baselines,
    "labeller": labeller_baseline,
}


def baseline_names(asked: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return the kinds of baselines that were asked for, in the order of BASELINES.

    Args:
        asked: Names, as a list or separated by commas; "none", "off" or None: no baseline.

    Raises:
        OptionError: A name is unknown.
    """
    names = [asked] if isinstance(asked, str) else list(asked or ())
    names = [part.strip() for name in names for part in name.split(",")]
    if names in ([], *([none] for none in NONE)):
        return ()
    for name in names:
        if name not in (*BASELINES, *REFERENCES):
            raise unknown("baseline", name, [*BASELINES, *REFERENCES, NONE[0]])
    return tuple(name for name in (*BASELINES, *REFERENCES) if name in names)


def make_baseline(manifest: Manifest) -> Manifest | None:
    """Make the `random` baseline of a set in OUT.work (`distill --baseline`), with its teacher, views and seed.

    Args:
        manifest: The set, made in this place.

    Returns:
        The baseline; None if the set's method is `random`, or if source or teacher are not at hand or not the set's.
    """
    data = TrainingData(of="this", labels="stored", manifest=manifest)
    made = random_baseline(Subject(given=manifest, data=data, source=None, teacher=None))
    return made[0].manifest if made else None
