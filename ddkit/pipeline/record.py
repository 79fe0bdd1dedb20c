"""The record of a run: everything that was resolved, kept in OUT.work/run.json and, in part, in the manifest.

A record that this user did not sign came with somebody's set. It is data: like a manifest it names methods, protocols
and networks, and no file that it names is opened.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ddkit import hub
from ddkit.core.files import LONGEST_NAME, is_signed, is_temporary, read_limited, refuse_links, sign, write_bytes
from ddkit.core.serialization import Extensible, Mismatch, canonical, fingerprint, read_dataclass, strict_json, to_plain
from ddkit.errors import IntegrityError, OptionError, OtherRun
from ddkit.format.manifest import Manifest
from ddkit.format.manifest_file import check_links, is_set, read_manifest, work_beside
from ddkit.sources.classes import shipped_lists
from ddkit.specs import Protocol

RECORD = "run.json"
LARGEST_RECORD = 16 * 2**20  # bytes


@dataclass(frozen=True, kw_only=True)
class RunRecord(Extensible):
    """Everything that a run of `distill` was resolved to.

    data, teacher: absolute where they are paths; method: a distiller's name; code: sha256 of its file, None of an
    installed one; config: the method's complete settings by dotted key; protocol: its name; definition: the protocol
    itself where it is not a shipped one; views: stored of each image; size: of the images, pixels; prefixes: end in
    ipc; holdout: share of the source kept for measuring, None = nothing; dataset: the name protocols override by;
    fingerprint: of all that decides bytes (docs/format.md); normalisation: the teacher's mean and std, resize and crop,
    which its hash does not cover; foreign: not written by this user (never kept in the file).
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
    foreign: bool = False

    def save(self, work: Path) -> None:
        """Write OUT.work/run.json, signed. Raises DiskError."""
        data = to_plain(replace(self, foreign=False))
        write_bytes(work / RECORD, (canonical(data | {"signature": sign(canonical(data))}) + "\n").encode())

    @property
    def key(self) -> str:
        """Stands for all that decides the bytes of a run, but for its prefixes."""
        return fingerprint([self.fingerprint, self.code, self.normalisation])

    def named(self) -> RunRecord:
        """As a manifest has it: the last parts of paths instead of paths, and nothing that would be opened as one."""
        return replace(self, data=public_name(self.data), teacher=public_name(self.teacher), foreign=True)

    def unnamed(self) -> list[str]:
        """Which of its options only say what something was called, so that they have to be given again."""
        library, _, tag = self.teacher.partition(":")
        known = {
            "data": self.data == "digits" or (hub.split_id(self.data) is not None and not Path(self.data).exists()),
            "teacher": library == "train" or (library in ("timm", "torchvision") and "@" not in tag and tag != ""),
            "classes": self.classes is None or not Path(self.classes).is_file() or self.classes in shipped_lists(),
        }
        return [name for name, is_known in known.items() if self.foreign and not is_known]

    def load_protocol(self) -> Protocol:
        """Its protocol: the one it holds itself, or a shipped one. Raises OptionError."""
        if self.definition is not None:
            return Protocol.from_table(self.definition, f"{RECORD} definition")
        return Protocol.shipped(self.protocol)


def public_name(ref: str) -> str:
    """A source or teacher as the manifest names it: a path by its last part, anything else as it is."""
    return Path(ref).name if Path(ref).is_absolute() else ref


def absolute(ref: str) -> str:
    """A path as it stands whatever the current folder; anything else as given."""
    return str(Path(ref).absolute()) if ref != "digits" and Path(ref).exists() else ref


# ------------------------------------------------------------------ what stands in OUT


def work_dir(out: Path) -> Path:
    """OUT.work: units, caches and logs beside OUT. Raises OptionError where OUT has the name of such a directory, or a
    longer one than a file can have with what is added to it."""
    if len(os.fsencode(out.name)) > LONGEST_NAME - len("..lock"):
        raise OptionError(f"the name of OUT has {len(os.fsencode(out.name))} bytes; give one of at most 249")
    if out.name.endswith(".work"):
        raise OptionError(f"OUT is {out}; names that end in .work are for unfinished work, give another")
    return work_beside(out)


def check_work(work: Path) -> None:
    """Raise IntegrityError where OUT.work is a link or holds one: nothing is read, written or cleaned through it."""
    refuse_links(work.parent, [work.name])


def check_out(out: Path) -> None:
    """Raise OptionError or OtherRun for a name that no set can have, IntegrityError for links in what is there."""
    if out.exists() and not out.is_dir():
        raise OtherRun(f"{out} is a file; give the name of a new directory")
    check_links(out)


def load_record(out: Path) -> RunRecord | None:
    """The record in OUT.work, None where there is none; of one that another than this user wrote, what it names.

    Raises IntegrityError, naming the file, where it is damaged.
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
    """The record of what stands in OUT, or None where nothing does.

    Raises OtherRun when OUT holds files that are not ours, SetError, IntegrityError, FormatVersion.
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


def _from_manifest(manifest: Manifest) -> RunRecord:
    """The record of a set whose OUT.work is gone. It names what it was made from, and no path."""
    recipe, source, normalisation = manifest.recipe, manifest.source, manifest.normalisation
    seen = (*normalisation.mean, *normalisation.std, manifest.eval.resize, manifest.eval.crop)
    return RunRecord(
        data=source.id, method=manifest.method, ipc=manifest.ipc, prefixes=manifest.prefixes, seed=manifest.seed,
        recipe=recipe.name, config=dict(recipe.config), protocol=manifest.views.protocol, views=manifest.views.count,
        size=manifest.image.size, teacher=manifest.teacher.where, codec=manifest.labels.codec,
        image_format=manifest.image.codec, split=source.split, classes=recipe.classes, holdout=source.holdout,
        skip_bad=bool(manifest.log.skipped), dataset=recipe.dataset, fingerprint=manifest.fingerprint,
        definition=manifest.recommended.definition, normalisation=tuple(map(float, seen)),
    ).named()  # fmt: skip


def start_over(out: Path) -> None:
    """Remove what an earlier run of ours left in OUT and OUT.work (`--overwrite`)."""
    work = work_dir(out)
    check_out(out)
    check_work(work)
    if is_set(out) or (work / RECORD).is_file():
        shutil.rmtree(work, ignore_errors=True)
        for name in ("data", "images"):
            shutil.rmtree(out / name, ignore_errors=True)
        for name in ("ddkit.json", "README.md", "_info.json", "preview.png", "labels.safetensors"):
            (out / name).unlink(missing_ok=True)
