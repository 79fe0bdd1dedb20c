"""The record of a run: all resolved options, kept in OUT.work/run.json and partly in the manifest.

A record whose signature is not this user's came with another user's set. It is treated as untrusted data, like a
manifest: it names methods, protocols and networks, and no file path in it is opened.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ddkit import hub
from ddkit.core.files import LONGEST_NAME, is_temporary, read_limited, refuse_links, write_bytes
from ddkit.core.serialization import (
    Extensible,
    Mismatch,
    canonical,
    fingerprint,
    later,
    read_dataclass,
    strict_json,
    to_plain,
)
from ddkit.core.signing import is_signed, sign
from ddkit.errors import IntegrityError, OptionError, OtherRun
from ddkit.format.label_file import CARRIED_TEACHER, SHARED_LABELS
from ddkit.format.label_info import Budget
from ddkit.format.manifest import Manifest
from ddkit.format.manifest_file import FILE, check_links, is_set, read_manifest, work_beside
from ddkit.sources.classes import shipped_lists
from ddkit.specs import Protocol

RECORD = "run.json"
LARGEST_RECORD = 16 * 2**20  # bytes


@dataclass(frozen=True, kw_only=True)
class RunRecord(Extensible):
    """All resolved options of a `distill` run.

    Attributes:
        data: The source; an absolute path if it is a path.
        method: Name of the distiller.
        ipc: Images per class.
        prefixes: IPC of each nested set, ending in `ipc`.
        seed: Seed of all randomness.
        recipe: Name of the recipe.
        config: The method's complete settings by dotted key.
        protocol: Name of the protocol.
        views: Stored views per image.
        size: Side of the images, pixels.
        teacher: The teacher; an absolute path if it is a path.
        codec: Encoding of the soft labels.
        image_format: Encoding of the images.
        split: Split of the source.
        image_column: Column of the images.
        label_column: Column of the labels.
        classes: The subset of the classes.
        holdout: Share of the source held out for evaluation; None: nothing.
        skip_bad: Whether images that do not decode are skipped.
        dataset: Dataset name that selects a protocol's overrides.
        fingerprint: Hash of everything that determines the bytes, except the prefixes (docs/format.md).
        code: sha256 of the distiller's file; None for an installed one.
        definition: The protocol's table, if it is not a shipped one.
        normalisation: The teacher's mean, std, resize and crop, which its hash does not cover.
        budget: Budget that image format, view count and codec are chosen for; None: they were given.
        spent: How they were chosen; None: not yet, `views` is then the count to start from.
        precision: Arithmetic of the teacher that labels.
        foreign: Whether the record was not written by this user; never stored in the file.
    """

    data: str
    method: str
    ipc: int
    prefixes: tuple[int, ...]
    seed: int
    recipe: str | None = None
    config: dict[str, Any]
    protocol: str
    views: int
    size: int
    teacher: str
    codec: str
    image_format: str
    split: str
    image_column: str | None = None
    label_column: str | None = None
    classes: str | None = None
    holdout: float | None = None
    skip_bad: bool = False
    dataset: str | None = None
    fingerprint: str
    code: str | None = None
    definition: dict[str, Any] | None = None
    normalisation: tuple[float, ...]
    budget: str | None = later(None)
    spent: Budget | None = later(None)
    precision: Literal["float32", "bfloat16"] = later("float32")
    foreign: bool = False

    def save(self, work: Path) -> None:
        """Write OUT.work/run.json, signed.

        Args:
            work: The directory OUT.work.

        Raises:
            DiskError.
        """
        data = to_plain(replace(self, foreign=False))
        write_bytes(work / RECORD, (canonical(data | {"signature": sign(canonical(data))}) + "\n").encode())

    @property
    def key(self) -> str:
        """Key of the run: hash of everything that determines its bytes, except the prefixes."""
        return fingerprint([self.fingerprint, self.code, self.normalisation])

    def named(self) -> RunRecord:
        """Return the record as a manifest holds it: paths reduced to their last part, marked as foreign."""
        return replace(self, data=public_name(self.data), teacher=public_name(self.teacher), foreign=True)

    def unnamed(self) -> list[str]:
        """Return the options ("data", "teacher", "classes") of a foreign record that hold only a name.

        They cannot be opened, so the user has to give them again.
        """
        library, _, tag = self.teacher.partition(":")
        known = {
            "data": self.data == "digits" or (hub.split_id(self.data) is not None and not os.path.exists(self.data)),
            "teacher": library == "train" or (library in ("timm", "torchvision") and "@" not in tag and tag != ""),
            "classes": self.classes is None or not os.path.isfile(self.classes) or self.classes in shipped_lists(),
        }
        return [name for name, is_known in known.items() if self.foreign and not is_known]

    def load_protocol(self) -> Protocol:
        """Return the protocol: its stored definition, or the shipped one. Raises OptionError."""
        if self.definition is not None:
            return Protocol.from_table(self.definition, f"{RECORD} definition")
        return Protocol.shipped(self.protocol)


def public_name(ref: str) -> str:
    """Return a source or teacher as the manifest names it: the last part of an absolute path, anything else unchanged.

    Args:
        ref: A path, a Hub id or a name.
    """
    return Path(ref).name if Path(ref).is_absolute() else ref


def absolute(ref: str) -> str:
    """Return an existing path as an absolute one, anything else unchanged.

    Args:
        ref: A path, a Hub id or a name.
    """
    return str(Path(ref).absolute()) if ref != "digits" and os.path.exists(ref) else ref


# ------------------------------------------------------------------ the contents of OUT


def work_dir(out: Path) -> Path:
    """Return OUT.work, the directory of units, caches and logs beside OUT.

    Args:
        out: The directory OUT.

    Raises:
        OptionError: The name of OUT ends in ".work", or exceeds 249 bytes.
    """
    if len(os.fsencode(out.name)) > LONGEST_NAME - len("..lock"):
        raise OptionError(f"the name of OUT has {len(os.fsencode(out.name))} bytes; give one of at most 249")
    if out.name.endswith(".work"):
        raise OptionError(f"OUT is {out}; names that end in .work are reserved for unfinished work; give another")
    return work_beside(out)


def check_work(work: Path) -> None:
    """Check that OUT.work is not a link and holds none, so that nothing is read, written or deleted through one.

    Args:
        work: The directory OUT.work.

    Raises:
        IntegrityError: It is a link, or holds one.
    """
    refuse_links(work.parent, [work.name])


def check_out(out: Path) -> None:
    """Check that OUT is a directory without links, or does not exist.

    Args:
        out: The directory OUT.

    Raises:
        OtherRun: OUT is a file.
        IntegrityError: OUT holds a link.
    """
    if out.exists() and not out.is_dir():
        raise OtherRun(f"{out} is a file; give the name of a new directory")
    check_links(out)


def load_record(out: Path) -> RunRecord | None:
    """Return the record in OUT.work, or None if there is none; one of another user is returned as foreign (`named`).

    Args:
        out: The directory OUT.

    Raises:
        IntegrityError: The file is damaged.
    """
    work = work_dir(out)
    check_work(work)
    path = work / RECORD
    if not path.is_file():
        return None
    try:
        data = strict_json(read_limited(path, LARGEST_RECORD) or b"")
        signature = data.pop("signature", "")
        record = read_dataclass(RunRecord, data)
    except (Mismatch, ValueError, TypeError, AttributeError) as error:
        advice = f"remove {path.parent} and run the command again with all its options"
        raise IntegrityError(f"{path} is damaged ({error}); {advice}") from error
    return record if is_signed(canonical(data), str(signature)) else record.named()


def find_record(out: Path) -> RunRecord | None:
    """Return the record of the run in OUT, from OUT.work or else from the manifest; None if OUT is new.

    Args:
        out: The directory OUT.

    Raises:
        OtherRun: OUT holds files that are not ddkit's.
        SetError, IntegrityError, FormatVersion: The set in OUT cannot be read.
    """
    check_out(out)
    record = load_record(out)
    if record is not None:
        return record
    if is_set(out):
        return _from_manifest(read_manifest(out))
    if out.is_dir() and any(not is_temporary(child) for child in out.iterdir()):
        raise OtherRun(f"{out} is not empty and not a distilled set; give the name of a new directory")
    return None


def is_recorded(out: Path) -> bool:
    """Return whether OUT.work has a record.

    Args:
        out: The directory OUT.
    """
    return (work_dir(out) / RECORD).is_file()


def _from_manifest(manifest: Manifest) -> RunRecord:
    """Return a foreign record from the manifest of a set whose OUT.work was deleted."""
    recipe, source, normalisation = manifest.recipe, manifest.source, manifest.normalisation
    budget = manifest.labels.budget
    seen = (*normalisation.mean, *normalisation.std, manifest.eval.resize, manifest.eval.crop)
    return RunRecord(
        data=source.id, method=manifest.method, ipc=manifest.ipc, prefixes=manifest.prefixes, seed=manifest.seed,
        recipe=recipe.name, config=dict(recipe.config), protocol=manifest.views.protocol, views=manifest.views.count,
        size=manifest.image.size, teacher=manifest.teacher.where, codec=manifest.labels.codec,
        image_format=manifest.image.codec, split=source.split, classes=recipe.classes, holdout=source.holdout,
        skip_bad=bool(manifest.log.skipped), dataset=recipe.dataset, fingerprint=manifest.fingerprint,
        definition=manifest.recommended.definition, normalisation=tuple(map(float, seen)),
        budget=budget.asked if budget else None, spent=budget, precision=manifest.labels.precision,
    ).named()  # fmt: skip


def start_over(out: Path) -> None:
    """Delete what an earlier run wrote to OUT and OUT.work (`--overwrite`).

    Args:
        out: The directory OUT.
    """
    work = work_dir(out)
    check_out(out)
    check_work(work)
    if is_set(out) or (work / RECORD).is_file():
        shutil.rmtree(work, ignore_errors=True)
        for name in ("data", "images"):
            shutil.rmtree(out / name, ignore_errors=True)
        for name in (FILE, "README.md", "_info.json", "preview.png", SHARED_LABELS, CARRIED_TEACHER):
            (out / name).unlink(missing_ok=True)
