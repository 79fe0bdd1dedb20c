"""Restores damaged and missing files of a set, byte for byte, from whatever still holds them.

A file is replaced only by one with the hash that the manifest records; what cannot be restored is left as it is.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ddkit.core.console import note, progress
from ddkit.core.device import threads
from ddkit.core.files import atomic_file, file_sha256, read_limited
from ddkit.core.locks import locked
from ddkit.core.serialization import strict_json
from ddkit.core.worker_state import STATE
from ddkit.errors import FormatVersion, IntegrityError, SetError, first_few
from ddkit.format.damage import mapped, row_records
from ddkit.format.entries import LabelFile, RowRecord, ShardEntry, files_of
from ddkit.format.fields import FILE as SET_FILE
from ddkit.format.label_file import CARRIED_TEACHER
from ddkit.format.manifest import Manifest
from ddkit.format.manifest_file import (
    FILE,
    LARGEST_MANIFEST,
    check_links,
    is_unchanged,
    kept_manifest,
    parse_manifest,
    read_manifest,
    write_manifest,
)
from ddkit.format.row_records import parse_rows
from ddkit.format.shards import write_shard
from ddkit.format.surviving_members import records_of
from ddkit.format.verification import set_problems
from ddkit.pipeline.gathering import GatheredRows
from ddkit.pipeline.kept_units import KeptUnits
from ddkit.pipeline.record import check_work, work_dir
from ddkit.pipeline.relabelling import teacher_of
from ddkit.publishing.rendering import publish_files, stale_renderings
from ddkit.sets.copies import Copy
from ddkit.sets.opening import largest_files
from ddkit.teachers.carried import write_carried

MOVED = "another file of the set"

Wanted = dict[str, str]  # path of a damaged or missing file -> the sha256 that the manifest records


@dataclass(frozen=True)
class RestoredFile:
    """A file that has its bytes again.

    Attributes:
        path: Path relative to the set.
        source: What its bytes were taken from.
    """

    path: str
    source: str


@dataclass(frozen=True)
class LostFile:
    """A file that could not be restored and was left as it is.

    Attributes:
        path: Path relative to the set.
        missing: What of it is found nowhere.
        remedy: What would restore it.
    """

    path: str
    missing: str
    remedy: str


@dataclass(frozen=True)
class Repaired:
    """The result of `repair`.

    Attributes:
        restored: The restored files.
        lost: The files that are still damaged or missing.
        problems: What `ddkit verify` says afterwards; empty: the set is whole.
    """

    restored: tuple[RestoredFile, ...]
    lost: tuple[LostFile, ...]
    problems: tuple[str, ...]


def repair(directory: str | Path, source: str | Path | None = None, *, teacher: str | None = None) -> Repaired:
    """Restore the damaged and missing files of a set.

    Bytes are taken from the set itself (a shard holds the images of its `images/` tar and its row records, and the
    reverse in part), from the units in OUT.work, and from `source`. Files that are intact are not written.

    Args:
        directory: The set.
        source: Another copy, a directory or "ORG/NAME[@REVISION]" on the Hub. Default: nothing is fetched.
        teacher: The set's teacher, as for `--teacher`: restores the `teacher.safetensors` of a set that carries it.

    Returns:
        The restored files, and those that are lost.

    Raises:
        SetError: The directory is not a finished set, or `teacher` is not the set's.
        IntegrityError: The manifest is damaged and nothing restores it, or part of the set is a link.
        FormatVersion, HubAccess, HubError, TeacherError, DiskError.
    """
    root = Path(directory)
    if not root.is_dir():
        raise SetError(f"no directory {root}; fetch a published set with `ddkit pull ORG/NAME {root}`")
    check_links(root)
    work = work_dir(root)
    check_work(work)
    with locked(root, "repairing"), threads(1):
        STATE.drop()
        copy, staging = None if source is None else Copy.open(source), work / "repairing"
        manifest, restored = _manifest(root, copy)
        try:
            run = _Repair(manifest, KeptUnits.of(manifest), copy, teacher, staging, restored=restored)
            run.run()
        finally:
            shutil.rmtree(staging, ignore_errors=True)
            with contextlib.suppress(OSError):
                work.rmdir()  # fails unless it is empty
        problems = set_problems(manifest)
        if not problems and (stale := stale_renderings(manifest)):
            publish_files(manifest)
            run.restored += [RestoredFile(name, FILE) for name in stale]
    return Repaired(tuple(run.restored), tuple(run.lost), tuple(problems))


# ------------------------------------------------------------------ the manifest


def _manifest(root: Path, copy: Copy | None) -> tuple[Manifest, list[RestoredFile]]:
    """Read the manifest, or restore it from its copy in OUT.work, else from another copy of the set."""
    try:
        return read_manifest(root), []
    except (SetError, IntegrityError) as error:
        damage: SetError | IntegrityError | FormatVersion = error
    except FormatVersion as error:
        if is_unchanged(strict_json((root / FILE).read_bytes())):
            raise
        damage = error
    reason = ""
    for source, found in _candidates(root, copy):
        others = _of_another_set(found, unlisted=copy is not None and source == copy.name)
        if _belongs(found) and not others:
            return write_manifest(root, found), [RestoredFile(FILE, source)]
        reason = f" ({first_few(others)} of {root} are of another set)" if others else ""
    if copy is not None:
        raise type(damage)(f"{damage}; {copy.name} does not hold the manifest of this set{reason}")
    raise type(damage)(f"{damage}; or restore it from a copy: `ddkit repair {root} --from ORG/NAME`")


def _candidates(root: Path, copy: Copy | None) -> Iterator[tuple[str, Manifest]]:
    """The readable manifests that may be the set's, each with its source."""
    kept = kept_manifest(root)
    if kept.is_file():
        try:
            yield str(kept), parse_manifest(read_limited(kept, LARGEST_MANIFEST) or b"", kept).at(root)
        except (IntegrityError, FormatVersion) as error:
            note(f"{error}; it is not used")
    if copy is not None and copy.manifest is not None:
        yield copy.name, copy.manifest.at(root)


def _belongs(manifest: Manifest) -> bool:
    """Whether a manifest belongs to the files beside it: one of those that it lists is intact, or there are none."""
    there = {path: sha256 for path, sha256 in manifest.files().items() if (manifest.root / path).is_file()}
    return not there or any(file_sha256(manifest.root / path) == sha256 for path, sha256 in there.items())


def _of_another_set(manifest: Manifest, *, unlisted: bool) -> list[str]:
    """The files in the folder of a manifest that are not damaged files of it, but intact ones of another set.

    Such are shards that agree with their row records where both differ from the manifest, and, if `unlisted`, those
    that it does not list.
    """
    root, files = manifest.root, manifest.files()
    names = (path.relative_to(root).as_posix() for folder in ("data", "images") for path in (root / folder).glob("*"))
    found = sorted(name for name in names if unlisted and SET_FILE.fullmatch(name) and name not in files)
    for shard in manifest.shards:
        pair = [root / shard.path, root / shard.rows_path]
        wanted = [files[shard.path], files[shard.rows_path]]
        if all(path.is_file() for path in pair) and not set(wanted) & set(map(file_sha256, pair)):
            with contextlib.suppress(IntegrityError):
                records = parse_rows(read_limited(pair[1], LARGEST_MANIFEST) or b"", shard.rows_path)
                if records and records == records_of(mapped(pair[0]), shard.path):
                    found.append(shard.path)
    return found


# ------------------------------------------------------------------ shards and shared labels


@dataclass
class _Repair:
    """One call of `repair`. Files are written to `staging` first; those with the recorded hash are taken from there."""

    manifest: Manifest
    units: KeptUnits | None
    copy: Copy | None
    teacher: str | None
    staging: Path
    restored: list[RestoredFile]
    lost: list[LostFile] = field(default_factory=list)

    def run(self) -> None:
        """Restore what can be restored."""
        damaged = self._damaged()
        entry = self.manifest.labels.file
        with progress("repairing", len(damaged), "files") as advance:
            if entry is not None and entry.path in damaged:  # first: labels are encoded with it
                self._restore_label_file(entry)
                advance(1)
            for number, shard in enumerate(self.manifest.shards):
                wanted = {path: sha256 for path, sha256 in files_of([shard]).items() if path in damaged}
                if count := len(wanted):
                    self._restore_shard(number, shard, wanted)
                    advance(count)

    def _damaged(self) -> Wanted:
        """The damaged and missing files. Those that lie under the name of another are copied to `staging`."""
        root, files = self.manifest.root, self.manifest.files()
        largest = max(largest_files(self.manifest).values())
        with progress("hashing", len(files), "files") as advance:
            found: dict[str, str] = {}
            for path in files:
                if (root / path).is_file() and (root / path).stat().st_size <= largest:
                    found[path] = file_sha256(root / path)
                advance(1)
        damaged = {path: sha256 for path, sha256 in files.items() if found.get(path) != sha256}
        holders = {sha256: path for path, sha256 in found.items() if path in damaged}
        for path, sha256 in damaged.items():
            if sha256 in holders:
                with atomic_file(self.staging / path) as temporary:
                    shutil.copyfile(root / holders[sha256], temporary)
        return damaged

    def _restore_label_file(self, entry: LabelFile) -> None:
        """Restore the file of labels that all rows share."""
        wanted, known = Wanted({entry.path: entry.sha256}), self.manifest.teacher
        self._take(wanted, self.staging, MOVED)
        if entry.path == CARRIED_TEACHER:
            missing, other = f"it is the teacher, {known.arch} with weights {known.hash[:12]}", " or --teacher"
            if wanted and self.teacher is not None:
                write_carried(self.staging, teacher_of(self.manifest, self.teacher).open(torch.device("cpu")))
                self._take(wanted, self.staging, self.teacher)
        else:
            missing, other = "the logits that it was fitted on are not all in OUT.work", ""
            if wanted and self.units and self.units.write_shared(self.staging):
                self._take(wanted, self.staging, self.units.how.work)
                missing = "fitted again, it has other bytes on this device"
        self._fetch(wanted, entry.path)
        self._lose(wanted, missing, other)

    def _restore_shard(self, number: int, shard: ShardEntry, wanted: Wanted) -> None:
        """Restore files of a shard."""
        self._take(wanted, self.staging, MOVED)
        missing = self._rewrite(number, shard, wanted) if wanted else ""
        for path in sorted(wanted, key=lambda path: (path != shard.rows_path, path != shard.path)):
            if self._fetch(wanted, path) and wanted:  # what was fetched may be enough to make the others
                missing = self._rewrite(number, shard, wanted)
        self._lose(wanted, missing)

    def _rewrite(self, number: int, shard: ShardEntry, wanted: Wanted) -> str:
        """Write a shard again from the members that are left, and take its damaged files from there.

        Members that are lost are left empty; the tar that lacks them then has another hash and is not taken.

        Returns:
            What is missing.
        """
        rows = GatheredRows(number, shard, self.manifest.root, self._records(shard, wanted), self.units, self.copy)
        if not rows.known:
            return "both the shard and its row records are damaged, and OUT.work lacks its rows"
        write_shard(
            self.staging, shard.path, shard.prefix, rows.samples(), self.manifest.image.codec,
            image_tar=shard.images is not None,
        )  # fmt: skip
        self._take(wanted, self.staging, " and ".join(rows.used))
        for path in files_of([shard]):
            (self.staging / path).unlink(missing_ok=True)
        return first_few(rows.missing) or "its members are not the ones that were hashed"

    def _records(self, shard: ShardEntry, wanted: Wanted) -> list[RowRecord] | None:
        """The row records, from their file or else from an intact tar; None if both are damaged."""
        if shard.rows_path in wanted and shard.path in wanted:
            return None
        try:
            if shard.rows_path not in wanted:
                records = row_records(self.manifest, shard)
            else:
                records = records_of(mapped(self.manifest.root / shard.path), shard.path)
        except IntegrityError:  # not even the intact file is valid
            return None
        return records if len(records) == shard.rows else None

    def _fetch(self, wanted: Wanted, path: str) -> bool:
        """Take a file from the other copy, if it is still wanted; returns whether it was there."""
        if self.copy is None or path not in wanted or self.copy.file(path, wanted[path]) is None:
            return False
        self._take(wanted, self.copy.root, self.copy.name)
        return path not in wanted

    def _take(self, wanted: Wanted, folder: Path, source: str) -> None:
        """Take the wanted files that lie in a folder with the recorded hash, and remove them from `wanted`."""
        for path, sha256 in list(wanted.items()):
            if (folder / path).is_file() and _place(folder / path, self.manifest.root / path, sha256):
                self.restored.append(RestoredFile(path, source))
                del wanted[path]

    def _lose(self, wanted: Wanted, missing: str, other: str = "") -> None:
        """Record that files cannot be restored. other: what else would restore them."""
        copy = f"another --from than {self.copy.name}" if self.copy else f"--from {self.manifest.repo or 'ORG/NAME'}"
        self.lost += [LostFile(path, missing, f"{copy}{other}") for path in wanted]


def _place(found: Path, target: Path, sha256: str) -> bool:
    """Copy a file to its place in the set, if the copy has the recorded hash."""
    try:
        with atomic_file(target) as temporary:
            shutil.copyfile(found, temporary)
            if file_sha256(temporary) != sha256:
                raise IntegrityError(f"{found} has other bytes")  # the target is kept
    except IntegrityError:
        return False
    return True
