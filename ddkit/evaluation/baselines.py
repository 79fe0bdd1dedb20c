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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddkit.core.console import note, size_words
from ddkit.core.device import pick_device
from ddkit.core.files import read_sealed_json, write_sealed
from ddkit.core.serialization import fingerprint
from ddkit.errors import unknown
from ddkit.evaluation.equal_bytes import IMAGE_FORMAT, discard, encoded_sizes, largest_packed, source_of
from ddkit.evaluation.training_data import TrainingData
from ddkit.format.images import JPEG_QUALITY
from ddkit.format.manifest import Manifest
from ddkit.pipeline.distilling import distill
from ddkit.pipeline.record import RunRecord, load_record, work_dir
from ddkit.sources.tables import is_available
from ddkit.teachers.resolving import ResolvedTeacher, TeacherChoice

DEFAULT = ("random", "hard")
NONE = ("none", "off")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A set that baselines are made for, and what they are made of.

    Attributes:
        given: The set as it was given; its OUT.work holds the baselines.
        data: The set as its students replay it: the given one, or relabelled for another protocol.
        source: The source, as given.
        teacher: The teacher, as given.
        device: "auto" or a torch device name.
        workers: Number of processes. Default: the number of cores.
    """

    given: Manifest
    data: TrainingData
    source: str | None
    teacher: str | None
    device: str = "auto"
    workers: int | None = None

    @property
    def set(self) -> Manifest:
        """The set as its students replay it."""
        return self.data.manifest

    def _record(self) -> RunRecord | None:
        return load_record(self.given.root)

    def known_source(self) -> str | None:
        """Return the source: as given, or as recorded in OUT.work."""
        record = self._record()
        return self.source or (record.data if record and "data" not in record.unnamed() else None)

    def known_teacher(self) -> str | None:
        """Return the teacher: as recorded in OUT.work if the set's labels are its own, else as given."""
        record = self._record()
        own = record and "teacher" not in record.unnamed() and self.set.root == self.given.root
        return record.teacher if record and own else self.teacher

    def problem(self) -> str | None:
        """Return why no real images can be labelled like this set's, or None."""
        source, teacher = self.known_source(), self.known_teacher()
        lacking = [f"--{name}" for name, value in (("data", source), ("teacher", teacher)) if value is None]
        if lacking or source is None:
            return f"for want of {' and '.join(lacking)}"
        return None if is_available(source) else f"{source} is not there"

    def random_set(self, out: Path, name: str, **options: Any) -> Manifest | None:
        """Make a set of random real images with the subject's teacher, views, seed and codec.

        Args:
            out: Its directory.
            name: The baseline, for notes.
            options: Options of `distill` that differ from the subject's.

        Returns:
            The set; None, with a note, if the available source or teacher is not the subject's.
        """
        record, m = self._record(), self.set
        kept = ("split", "image_column", "label_column", "classes", "holdout", "skip_bad")
        same: dict[str, Any] = {key: getattr(record, key) or None for key in kept} if record else {}
        same |= {
            "ipc": m.ipc, "prefixes": m.prefixes, "views": m.views.count, "image_format": m.image.codec,
            "codec": m.labels.codec,
        }  # fmt: skip
        made = distill(
            out, method="random", data=self.known_source(), teacher=self.known_teacher(), seed=self.given.seed,
            protocol=m.protocol(m.views.protocol), size=m.image.size, device=self.device, workers=self.workers,
            yes=True, **same | options,
        )  # fmt: skip
        for what, ours, theirs in (
            ("source", m.source.fingerprint, made.source.fingerprint),
            ("teacher", m.teacher.hash, made.teacher.hash),
        ):
            if ours != theirs:
                note(
                    f"{self.given.root}: no baseline {name}, the available {what} is not the one the set was made with"
                )
                return None
        return made


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
    found = _found_teacher(subject)
    if found is None:
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


def _found_teacher(subject: Subject) -> ResolvedTeacher | None:
    """Return the teacher; one that distill trained is in the cache. None, with a note, if it is not at hand."""
    name, m, record = subject.known_teacher(), subject.set, load_record(subject.given.root)
    if name is None:
        note(f"{subject.given.root}: no baseline labeller, for want of --teacher")
        return None
    choice = TeacherChoice(name, m.views.size)
    if not choice.needs_training(m.classes):
        return choice.resolve(m.classes, str(subject.given.root))
    if record is None or subject.problem():
        note(f"{subject.given.root}: no baseline labeller, {subject.problem() or 'its teacher is not at hand'}")
        return None
    return choice.train(
        source_of(record), seed=record.seed, device=pick_device(subject.device), what=str(subject.given.root)
    )


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
        if name not in BASELINES:
            raise unknown("baseline", name, [*BASELINES, NONE[0]])
    return tuple(name for name in BASELINES if name in names)


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
