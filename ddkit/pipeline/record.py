"""The record of a run: every option, resolved once, kept in OUT.work/run.json (then in the manifest).

Running `distill` again on the same OUT continues it: options not given come from the record, only given ones are
compared, a larger IPC extends, any other difference is refused.

A record that this user did not sign came with somebody's set. It is data: like a manifest it names methods, protocols
and networks, and no file that it names is opened.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ddkit import hub
from ddkit.core.files import LONGEST_NAME, is_signed, is_temporary, read_limited, refuse_links, sign, write_bytes
from ddkit.core.serialization import canonical, fingerprint, flatten, from_plain, strict_json
from ddkit.distillers import code_hash, find_distiller
from ddkit.errors import IntegrityError, OptionError, OtherRun
from ddkit.format.manifest import check_links, is_set, read_manifest, work_beside
from ddkit.sources.classes import shipped_lists
from ddkit.specs import Protocol, Recipe

RECORD = "run.json"
LARGEST = 16 * 2**20  # bytes of a record


@dataclass(frozen=True, kw_only=True)
class Record:
    """Everything `distill` was asked, with defaults filled in.

    data, teacher: absolute where they are paths; method: a distiller's NAME; code: sha256 of its file, None of an
    installed one; protocol: a name; definition: the protocol itself where it is not a shipped one; prefixes end in ipc;
    fingerprint: of all that decides bytes (format.md), None until the source and the teacher are known;
    normalisation: the teacher's mean and std, resize and crop, which its hash does not cover; foreign: not written by
    this user (never kept in the file).
    """

    data: str
    method: str
    ipc: int
    prefixes: tuple[int, ...]
    seed: int
    recipe: str | None = None
    config: dict[str, Any]
    protocol: str
    views: int | None = None
    size: int | None = None
    teacher: str
    codec: str = "fp16"
    image_format: str = "png"
    split: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    classes: str | None = None
    holdout: float | None = None
    skip_bad: bool = False
    dataset: str | None = None
    fingerprint: str | None = None
    code: str | None = None
    definition: dict[str, Any] | None = None
    normalisation: tuple[float, ...] | None = None
    foreign: bool = False

    def save(self, work: Path) -> None:
        """Write OUT.work/run.json, signed."""
        data = asdict(replace(self, foreign=False))
        write_bytes(work / RECORD, (canonical(data | {"signature": sign(canonical(data))}) + "\n").encode())

    @property
    def key(self) -> str:
        """Stands for all that decides the bytes of a run, but for its prefixes."""
        return fingerprint([self.fingerprint, self.code, self.normalisation])

    def named(self) -> Record:
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
        """Its protocol: the one it holds itself, or a shipped one."""
        if self.definition is not None:
            return Protocol.from_table(self.definition, f"{RECORD} definition")
        return Protocol.shipped(self.protocol)


def public_name(ref: str) -> str:
    """A source or teacher as the manifest names it: a path by its last part, anything else as it is."""
    return Path(ref).name if Path(ref).is_absolute() else ref


def load_record(out: Path) -> Record | None:
    """The record in OUT.work, None where there is none; of one that another than this user wrote, what it names.

    Raises IntegrityError, naming the file, where it is damaged.
    """
    work = work_dir(out)
    check_work(work)
    path = work / RECORD
    if not path.is_file():
        return None
    advice = f"remove {path.parent} and run the command again with all its options"
    try:
        data = strict_json(read_limited(path, LARGEST) or b"")
        signature = data.pop("signature", "")
        record = from_plain(Record, data, str(path))
    except (ValueError, TypeError, AttributeError, OptionError) as error:
        raise IntegrityError(f"{path} is damaged ({error}); {advice}") from error
    return record if is_signed(canonical(asdict(record)), str(signature)) else record.named()


def check_work(work: Path) -> None:
    """Raises IntegrityError where OUT.work is a link or holds one: nothing is read, written or cleaned through it."""
    refuse_links(work.parent, [work.name])


def work_dir(out: Path) -> Path:
    """OUT.work: units, caches and logs beside OUT. Raises OptionError where OUT has the name of such a directory, or a
    longer one than a file can have with what is added to it."""
    if len(os.fsencode(out.name)) > LONGEST_NAME - len("..lock"):
        raise OptionError(f"the name of OUT has {len(os.fsencode(out.name))} bytes; give one of at most 249")
    if out.name.endswith(".work"):
        raise OptionError(f"OUT is {out}; names that end in .work are for unfinished work, give another")
    return work_beside(out)


def find_record(out: Path) -> Record | None:
    """The record of what stands in OUT, or None where nothing does.

    Raises OtherRun when OUT holds files that are not ours, SetError, IntegrityError, FormatVersion.
    """
    check_out(out)
    record = load_record(out)
    if record is not None:
        return record
    if is_set(out):
        return _from_manifest(out)
    if out.is_dir() and any(not is_temporary(child) for child in out.iterdir()):
        raise OtherRun(f"{out} is not empty and not a distilled set; give the name of a new directory")
    return None


def check_out(out: Path) -> None:
    """Raises OptionError or OtherRun for a name that no set can have, IntegrityError for links in what is there."""
    if out.exists() and not out.is_dir():
        raise OtherRun(f"{out} is a file; give the name of a new directory")
    check_links(out)


def _from_manifest(out: Path) -> Record:
    """The record of a set whose OUT.work is gone. It names what it was made from, and no path."""
    manifest = read_manifest(out)
    data = manifest.data
    recipe, source = data["recipe"], data["source"]
    return Record(
        data=source["id"],
        method=data["method"],
        ipc=data["ipc"],
        prefixes=tuple(data["prefixes"]),
        seed=data["seed"],
        recipe=recipe["name"],
        config=recipe["config"],
        protocol=data["views"]["protocol"],
        views=data["views"]["count"],
        size=data["image"]["size"],
        teacher=data["teachers"][0]["where"],
        codec=data["labels"]["codec"],
        image_format=data["image"]["codec"],
        split=source["split"],
        classes=data["recipe"]["classes"],
        holdout=source["holdout"],
        skip_bad=bool(data["log"]["skipped"]),
        dataset=recipe["dataset"],
        fingerprint=data["fingerprint"],
        definition=data["recommended"].get("definition"),
        normalisation=tuple(map(float, (*manifest.mean, *manifest.std, manifest.eval.resize, manifest.eval.crop))),
    ).named()


def absolute(data: str) -> str:
    """A path as it stands whatever the current folder; anything else as given."""
    return str(Path(data).absolute()) if data != "digits" and Path(data).exists() else data


def check_counts(given: Mapping[str, Any]) -> None:
    """Raises OptionError for what is no whole number, a count or prefix below 1, or a holdout that is no share."""
    for key in ("ipc", "views", "size", "seed", "workers"):
        if given.get(key) is not None and type(given[key]) is not int:
            raise OptionError(f"--{key} is {given[key]!r}; it must be a whole number")
    parts = (("ipc", "images per class"), ("views", "views"), ("size", "pixels"), ("workers", "processes"))
    for key, what in parts:
        if given.get(key) is not None and given[key] < 1:
            raise OptionError(f"--{key} is {given[key]}; it must be at least 1 ({what})")
    if given.get("holdout") is not None and not 0 < given["holdout"] < 1:
        raise OptionError(f"--holdout is {given['holdout']}; it is a share between 0 and 1")
    prefixes = given.get("prefixes")
    if prefixes is not None:
        if not prefixes or sorted(set(prefixes)) != list(prefixes) or prefixes[0] < 1:
            raise OptionError(f"--prefixes is {list(prefixes)}; give rising numbers from 1, as in 5,10,20")
        if given.get("ipc") is not None and prefixes[-1] > given["ipc"]:
            raise OptionError(f"--prefixes ends at {prefixes[-1]}, above --ipc {given['ipc']}; make them agree")


def grow(record: Record, given: Mapping[str, Any], out: Path, stages: Callable[[int], tuple[int, ...]]) -> Record:
    """The record with a larger IPC or more prefixes. stages: the method's own prefixes for an IPC.

    Raises OtherRun for any other difference, naming the first.
    """
    for key, value in given.items():
        if value is not None and key not in ("ipc", "prefixes", "settings"):
            record = _agreed(record, key, value, out)
    for key, value in flatten(given.get("settings") or {}).items():
        if record.config.get(key) != value:
            raise _differs(out, key, record.config.get(key), value)
    prefixes = record.prefixes
    if (asked := given.get("prefixes")) is not None:
        if tuple(asked[: len(prefixes)]) != prefixes:
            raise _differs(out, "prefixes", ",".join(map(str, prefixes)), ",".join(map(str, asked)))
        prefixes = tuple(asked)
    ipc = given.get("ipc") or prefixes[-1]
    if ipc < prefixes[-1]:
        raise _differs(out, "ipc", prefixes[-1], ipc)
    prefixes = (*prefixes, *(end for end in stages(ipc) if end > prefixes[-1]))
    return replace(record, ipc=ipc, prefixes=prefixes)


def _agreed(record: Record, key: str, value: Any, out: Path) -> Record:
    """The record after one given option was compared with it; takes the path of what it knows by name only."""
    there = getattr(record, key)
    if key in ("data", "teacher"):
        value = absolute(value)
        if there in (Path(value).name, Path(value).stem):  # the manifest keeps only the last part of a path
            return replace(record, **{key: value})
    elif key == "method":
        found, code = find_distiller(value), code_hash(value)
        if record.code not in (None, code) and there == found.NAME:
            raise _other_version(out, f"version of {value}")
        record, value = replace(record, code=code), found.NAME
    elif key == "protocol":
        asked = Protocol.load(value)
        if asked.name == there and asked != record.load_protocol():
            raise _other_version(out, f"protocol {there}")
        value = asked.name
    elif key == "recipe":
        value = Path(value).stem
    if there != value:
        raise _differs(out, key, there, value)
    return record


def _other_version(out: Path, what: str) -> OtherRun:
    return OtherRun(
        f"{out} was begun with another {what}; bring it back, choose another OUT, or start over with --overwrite"
    )


def _differs(out: Path, key: str, there: object, here: object) -> OtherRun:
    return OtherRun(
        f"{out} was made with {key} {there}, now {here} is asked; choose another OUT, or start over with --overwrite"
    )


def resolve(
    given: Mapping[str, Any],
    recipe: Recipe,
    config: dict[str, Any],
    stages: Callable[[int], tuple[int, ...]],
    code: str | None,
) -> Record:
    """The record of a new run: what was given, and defaults.

    config: the distiller's complete settings, tables as dotted keys; stages: its own prefixes for an IPC; code: sha256
    of its file, None of an installed one.
    """
    prefixes = tuple(given.get("prefixes") or ())
    ipc = given.get("ipc") or (prefixes[-1] if prefixes else 10)
    if not prefixes:
        prefixes = stages(ipc)
    elif prefixes[-1] < ipc:
        prefixes = (*prefixes, ipc)
    known = {key: value for key, value in given.items() if value is not None and key not in ("settings", "data")}
    teacher, protocol = recipe.teacher, Protocol.load(known.pop("protocol", recipe.protocol))
    default_teacher = "train" if teacher is None else teacher if ":" in teacher else f"train:{teacher}"
    return Record(
        **{
            "seed": 0,
            **known,
            "protocol": protocol.name,
            "definition": protocol.definition(),
            "data": absolute(given["data"]),
            "teacher": absolute(known.get("teacher", default_teacher)),
            "ipc": ipc,
            "prefixes": prefixes,
            "method": recipe.method,
            "code": code,
            "recipe": recipe.name,
            "config": config,
            "dataset": recipe.dataset,
        }
    )


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
