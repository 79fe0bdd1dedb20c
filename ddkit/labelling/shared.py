"""The unit that makes the file of labels that all rows share: a fitted basis, or the teacher that the set carries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from ddkit.core.files import file_sha256
from ddkit.core.serialization import fingerprint, to_plain
from ddkit.core.worker_state import STATE
from ddkit.engine.units import UnitFile
from ddkit.errors import IntegrityError
from ddkit.format.entries import LabelFile
from ddkit.format.label_file import CARRIED_TEACHER, SHARED_LABELS, parse_shared, write_shared
from ddkit.labelling.encoded import ShardPlan
from ddkit.labelling.labels import LabelJob, Labelling, label_jobs
from ddkit.teachers.carried import write_carried

FITTED_VALUES = 2**26  # logits that a codec is fitted on, at most


@dataclass(frozen=True, kw_only=True)
class SharedJob:
    """Writes `labels.safetensors` or `teacher.safetensors` of a set.

    Attributes:
        how: Settings for labelling.
        shards: The shards of the first increment, which a basis is fitted on.
        needs: Ids of jobs that must be done before.
    """

    how: Labelling
    shards: tuple[ShardPlan, ...]
    needs: frozenset[str] = frozenset()
    gpu_share = 0.0

    @property
    def id(self) -> str:
        """Id of the job."""
        return "shared-labels"

    @property
    def file(self) -> UnitFile:
        """The result: the file's LabelFile."""
        return self.how.store.unit(self.id, fingerprint([asdict(self.shards[0]), self.how.codec]))

    @property
    def files(self) -> tuple[UnitFile, ...]:
        """The file of the result."""
        return (self.file,)

    @property
    def inputs(self) -> tuple[Path, ...]:
        """The teacher if the set carries it, else the logits of the first increment; and an earlier result."""
        if self.how.label_codec.FROM_PIXELS:
            return (Path(self.how.teacher), self.file.path)
        return (*(job.file.path for job in label_jobs(self.how, self.shards)), self.file.path)

    @property
    def outputs(self) -> tuple[Path, ...]:
        """The files that it wrote, the result last."""
        name = CARRIED_TEACHER if self.how.label_codec.FROM_PIXELS else SHARED_LABELS
        return (Path(self.how.out) / name, self.file.path)

    def below(self, root: Path) -> SharedJob:
        """Return the same job on a copy of the file system.

        Args:
            root: Directory of the copy.
        """
        return replace(self, how=self.how.below(root))

    def entry(self) -> LabelFile | None:
        """Return the entry of the file if it is finished and has the recorded hash, else None."""
        entry = self.file.read_record(LabelFile)
        if entry is None:
            return None
        path = Path(self.how.out) / entry.path
        return entry if path.is_file() and file_sha256(path) == entry.sha256 else None

    def save(self, entry: LabelFile) -> None:
        """Record a finished file.

        Args:
            entry: Its entry.

        Raises:
            DiskError: The record cannot be written.
        """
        self.file.write_json(to_plain(entry))

    def run(self) -> None:
        """Write the file and its entry. The labelling units of the first increment must be done.

        Raises:
            IntegrityError: The result of a unit is damaged; or the file was finished before and is lost, and shards may
                depend on bytes that cannot be made again.
            TeacherError: The teacher cannot be carried.
            DiskError: A file cannot be written.
        """
        out, before = Path(self.how.out), self.file.read_record(LabelFile)
        entry = self.write(out)
        if before is not None and entry.sha256 != before.sha256:
            (out / entry.path).unlink()
            raise self._lost(before.path)
        self.save(entry)

    def write(self, root: Path) -> LabelFile:
        """Write the file and return its entry, without a record that it is finished; raises as `run`.

        Args:
            root: Directory that it is written to.
        """
        codec = self.how.label_codec
        if codec.FROM_PIXELS:
            return write_carried(root, self.how.open_teacher())
        return write_shared(root, codec, codec.fit(self._sample()))

    def _lost(self, name: str) -> IntegrityError:
        return IntegrityError(
            f"{Path(self.how.out) / name} is missing or damaged, and cannot be made again with the same bytes; fetch "
            "the set again, or start over with --overwrite"
        )

    def _sample(self) -> np.ndarray:
        """Every n-th view of the increment, its logits float32 [N,C]; n is such that at most FITTED_VALUES are used."""
        jobs: list[LabelJob] = label_jobs(self.how, self.shards)
        if self.file.read_record(LabelFile) is not None and not all(job.file.is_good() for job in jobs):
            raise self._lost(SHARED_LABELS)
        classes = jobs[0].file.tensors()["logits"].shape[-1]
        views = sum(job.views for job in jobs)
        step = -(-views * classes // FITTED_VALUES)
        sample, at = np.empty((-(-views // step), classes), np.float32), 0
        for job in jobs:
            logits = job.file.tensors()["logits"].reshape(-1, classes)[-at % step :: step]
            sample[-(-at // step) :][: len(logits)] = logits
            at += job.views
        return sample


def shared_tensors(how: Labelling, entry: LabelFile | None, classes: int) -> Mapping[str, np.ndarray]:
    """Return the tensors of the shared file of a set that is being made; empty if the codec has none.

    Args:
        how: Settings for labelling.
        entry: The file's entry.
        classes: Number of classes.

    Raises:
        IntegrityError: The file changed since it was written.
    """
    if entry is None or how.label_codec.FROM_PIXELS:
        return {}
    path = Path(how.out) / entry.path

    def read() -> Mapping[str, np.ndarray]:
        if not path.is_file() or file_sha256(path) != entry.sha256:
            raise IntegrityError(f"{path} changed while the set was made; run the same command again")
        return how.label_codec.prepared(parse_shared(path.read_bytes(), how.label_codec, classes, str(path)))

    return STATE.keep("shared labels", (str(path), entry.sha256), read)
