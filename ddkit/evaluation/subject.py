"""An evaluated set with what is at hand to compare it with: its source, its teacher, and random images like it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ddkit.core.console import note
from ddkit.core.device import pick_device
from ddkit.core.files import write_bytes
from ddkit.core.serialization import fingerprint, to_plain
from ddkit.evaluation.equal_bytes import source_of
from ddkit.evaluation.training_data import TrainingData
from ddkit.format.manifest import Manifest
from ddkit.pipeline.distilling import distill
from ddkit.pipeline.record import RunRecord, load_record, work_dir
from ddkit.pipeline.relabelling import relabel
from ddkit.sources.images import Source, open_source
from ddkit.sources.tables import is_available
from ddkit.teachers.resolving import ResolvedTeacher, TeacherChoice


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
        random_sets: Sets of random images made for the subjects of a table, by the hash of what determines them.
    """

    given: Manifest
    data: TrainingData
    source: str | None
    teacher: str | None
    device: str = "auto"
    workers: int | None = None
    random_sets: dict[str, Path] = field(default_factory=dict)

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

    def found_source(self) -> Source | None:
        """Return the source as the set's run used it, without held-out and unreadable images; None if not at hand.

        Raises:
            SourceError, ImagesUnreadable.
        """
        record, data, made_from = self._record(), self.known_source(), self.given.source
        if data is None or not is_available(data):
            return None
        if record is not None and "data" not in record.unnamed():
            source = source_of(record)
        else:
            source = open_source(data).without_unreadable(skip_bad=True)
            source = source if made_from.holdout is None else source.part("train", made_from.holdout)
        if source.fingerprint != made_from.fingerprint:
            note(f"{self.given.root}: {data} is not the source that the set was made from")
            return None
        return source

    def found_teacher(self) -> ResolvedTeacher | None:
        """Return the teacher, from the cache if distill trained it; None if it is not at hand."""
        name, m, record = self.known_teacher(), self.set, self._record()
        if name is None:
            return None
        choice = TeacherChoice(name, m.views.size)
        if not choice.needs_training(m.classes):
            return choice.resolve(m.classes, str(self.given.root))
        source = None if record is None else self.found_source()
        if record is None or source is None:
            return None
        return choice.train(source, seed=record.seed, device=pick_device(self.device), what=str(self.given.root))

    def trained_on_source(self, arch: str, source: Source, epochs: int | None) -> ResolvedTeacher:
        """Return a network trained on the whole source by the recipe of teachers, once for all sets of the source.

        Args:
            arch: The network.
            source: The source, as `found_source` returns it.
            epochs: Epochs of the training; None: the recipe's.

        Raises:
            OptionError, Diverged, DiskError.
        """
        choice = TeacherChoice(f"train:{arch}", self.set.views.size)
        device, what = pick_device(self.device), str(self.given.root)
        return choice.train(source, seed=0, device=device, what=what, epochs=epochs)

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
        same |= {
            "data": self.known_source(), "teacher": self.known_teacher(), "seed": self.given.seed,
            "protocol": m.protocol(m.views.protocol), "size": m.image.size, "device": self.device,
        }  # fmt: skip
        first = self.random_sets.setdefault(fingerprint(to_plain(same | options)), out)
        if first != out and not work_dir(out).exists():
            _copy_work(first, out)
        made = distill(out, method="random", workers=self.workers, yes=True, **same | options)
        for what, ours, theirs in (
            ("source", m.source.fingerprint, made.source.fingerprint),
            ("teacher", m.teacher.hash, made.teacher.hash),
        ):
            if ours != theirs:
                note(
                    f"{self.given.root}: no baseline {name}, the available {what} is not the one the set was made with"
                )
                return None
        return self._grouped(made)

    def _grouped(self, made: Manifest) -> Manifest:
        """Return a baseline whose views are mixed within the set's mixing groups, where it has them."""
        groups = self.set.views.mix_groups
        if groups is None:
            return made
        file, out = work_dir(made.root) / "mix-groups.txt", made.root.with_name(f"{made.root.name}-grouped")
        lines = [f"{name}\t{group:06d}\n" for name, group in zip(made.class_names, groups)]
        write_bytes(file, "".join(lines).encode())
        teacher = self.found_teacher()
        assert teacher is not None  # it has labelled `made`
        return relabel(
            made.root, out, teacher=str(teacher.path), protocol=self.set.views.protocol, mix_within=str(file),
            device=self.device, workers=self.workers,
        )  # fmt: skip


def _copy_work(first: Path, out: Path) -> None:
    """Begin a set with the units of an equal one."""
    work = work_dir(out)
    copied = work.with_name(f".{work.name}.copy")
    shutil.rmtree(copied, ignore_errors=True)  # of a process that was killed
    shutil.copytree(work_dir(first), copied, ignore=shutil.ignore_patterns("students", "measures"))
    copied.rename(work)
