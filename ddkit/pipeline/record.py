"""The record of a run: every option, resolved once, kept in OUT.work/run.json (then in the manifest).

Running `distill` again on the same OUT continues it: options not given come from the record, only given ones are
compared, a larger IPC extends, any other difference is refused.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ddkit.errors import IntegrityError, OptionError, OtherRun
from ddkit.format.manifest import is_set, read_manifest, work_beside
from ddkit.plain import canonical, flatten, from_plain
from ddkit.runtime import is_temporary, write_bytes
from ddkit.specs import Recipe

RECORD = "run.json"


@dataclass(frozen=True, kw_only=True)
class Record:
    """Everything `distill` was asked, with defaults filled in. data: absolute where it is a path; prefixes end in ipc;
    fingerprint: of all that decides bytes (format.md), None until the source and the teacher are known."""

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

    def save(self, work: Path) -> None:
        write_bytes(work / RECORD, (canonical(asdict(self)) + "\n").encode())


def work_dir(out: Path) -> Path:
    """OUT.work: units, caches and logs beside OUT. Raises OptionError where OUT has the name of such a directory."""
    if out.name.endswith(".work"):
        raise OptionError(f"OUT is {out}; names that end in .work are for unfinished work, give another")
    return work_beside(out)


def find_record(out: Path) -> Record | None:
    """The record of what stands in OUT, or None where nothing does.

    Raises OtherRun when OUT holds files that are not ours, SetError, IntegrityError, FormatVersion.
    """
    if out.exists() and not out.is_dir():
        raise OtherRun(f"{out} is a file; give the name of a new directory")
    path = work_dir(out) / RECORD
    if path.is_file():
        try:
            return from_plain(Record, json.loads(path.read_text(encoding="utf-8")), str(path))
        except ValueError as error:
            raise IntegrityError(
                f"{path} is damaged ({error}); remove {path.parent} and run the command again with all its options"
            ) from error
    if is_set(out):
        return _from_manifest(out)
    if out.is_dir() and any(not is_temporary(child) for child in out.iterdir()):
        raise OtherRun(f"{out} is not empty and not a distilled set; give the name of a new directory")
    return None


def _from_manifest(out: Path) -> Record:
    data = read_manifest(out).data
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
    )


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
        if value is None or key in ("ipc", "prefixes", "settings"):
            continue
        there = getattr(record, key)
        if key in ("data", "method", "teacher") or (key == "protocol" and str(value).endswith(".toml")):
            value = absolute(value)
            if there in (Path(value).name, Path(value).stem):  # the manifest keeps only the last part of a path
                record = from_plain(Record, asdict(record) | {key: value}, RECORD)
                continue
        elif key == "recipe":
            value = Path(value).stem
        if there != value:
            raise _differs(out, key, there, value)
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


def _differs(out: Path, key: str, there: object, here: object) -> OtherRun:
    return OtherRun(
        f"{out} was made with {key} {there}, now {here} is asked; choose another OUT, or start over with --overwrite"
    )


def resolve(
    given: Mapping[str, Any], recipe: Recipe, config: dict[str, Any], stages: Callable[[int], tuple[int, ...]]
) -> Record:
    """The record of a new run: what was given, and defaults.

    config: the distiller's complete settings, tables as dotted keys; stages: its own prefixes for an IPC.
    """
    prefixes = tuple(given.get("prefixes") or ())
    ipc = given.get("ipc") or (prefixes[-1] if prefixes else 10)
    if not prefixes:
        prefixes = stages(ipc)
    elif prefixes[-1] < ipc:
        prefixes = (*prefixes, ipc)
    known = {key: value for key, value in given.items() if value is not None and key not in ("settings", "data")}
    teacher, protocol = recipe.teacher, known.get("protocol", recipe.protocol)
    default_teacher = "train" if teacher is None else teacher if ":" in teacher else f"train:{teacher}"
    return Record(
        **{
            "seed": 0,
            **known,
            "protocol": absolute(protocol) if protocol.endswith(".toml") else protocol,
            "data": absolute(given["data"]),
            "teacher": absolute(known.get("teacher", default_teacher)),
            "ipc": ipc,
            "prefixes": prefixes,
            "method": recipe.method,
            "recipe": recipe.name,
            "config": config,
            "dataset": recipe.dataset,
        }
    )


def start_over(out: Path) -> None:
    """Remove what an earlier run of ours left in OUT and OUT.work (`--overwrite`)."""
    work = work_dir(out)
    if is_set(out) or (work / RECORD).is_file():
        shutil.rmtree(work, ignore_errors=True)
        for name in ("data", "images"):
            shutil.rmtree(out / name, ignore_errors=True)
        for name in ("ddkit.json", "README.md", "_info.json", "preview.png", "labels.safetensors"):
            (out / name).unlink(missing_ok=True)
