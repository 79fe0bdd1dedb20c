"""Going on with what stands in OUT: options that are not given come from the record, given ones are compared with it, a
larger IPC extends it, any other difference is refused."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from ddkit.core.serialization import flatten
from ddkit.distillers import distiller_names, find_distiller, make_config
from ddkit.errors import OptionError, OtherRun
from ddkit.pipeline.options import HOW, DistillOptions
from ddkit.pipeline.record import RunRecord, absolute
from ddkit.specs import Protocol

NOT_COMPARED = ("ipc", "prefixes", "settings", *HOW)


def continued(record: RunRecord, asked: DistillOptions, out: Path) -> RunRecord:
    """The record with what was asked: a larger IPC or more prefixes, and the paths of what it knows by name only.

    Raises OtherRun for any other difference, naming the first; OptionError for what has to be given again.
    """
    if asked.method is None and (record.code is not None or record.method not in distiller_names()):
        raise OptionError(f"{out} was made by {record.method}, a method from a file; give that file with --method")
    grown = _grown(record, asked, out)
    if missing := [name for name in grown.unnamed() if getattr(asked, name) is None]:
        called = ", ".join(f"--{name} (it was called {getattr(grown, name)!r})" for name in missing)
        raise OptionError(f"{out} came without a record of this machine; to go on with it give {called}")
    return grown


def other_run(out: Path, what: str, it: str = "it") -> OtherRun:
    """The error for an OUT that was begun with something else. what: that; it: the word for it."""
    return OtherRun(f"{out} was begun with {what}; bring {it} back, choose another OUT, or start over with --overwrite")


def _differs(out: Path, key: str, there: object, here: object) -> OtherRun:
    return OtherRun(
        f"{out} was made with {key} {there}, now {here} is asked; choose another OUT, or start over with --overwrite"
    )


def _grown(record: RunRecord, asked: DistillOptions, out: Path) -> RunRecord:
    """The record after every given option was compared with it."""
    for option in fields(asked):
        value = getattr(asked, option.name)
        if value is not None and option.name not in NOT_COMPARED:
            record = _agreed(record, option.name, value, out)
    for key, value in flatten(asked.settings).items():
        if record.config.get(key) != value:
            raise _differs(out, key, record.config.get(key), value)
    prefixes = record.prefixes
    if asked.prefixes is not None:
        if asked.prefixes[: len(prefixes)] != prefixes:
            raise _differs(out, "prefixes", ",".join(map(str, prefixes)), ",".join(map(str, asked.prefixes)))
        prefixes = asked.prefixes
    ipc = asked.ipc or prefixes[-1]
    if ipc < prefixes[-1]:
        raise _differs(out, "ipc", prefixes[-1], ipc)
    distiller = find_distiller(asked.method or record.method)
    ends = distiller.prefixes(make_config(distiller, record.config), ipc)
    return replace(record, ipc=ipc, prefixes=(*prefixes, *(end for end in ends if end > prefixes[-1])))


def _agreed(record: RunRecord, key: str, value: Any, out: Path) -> RunRecord:
    """The record after one given option was compared with it; takes the path of what it knows by name only."""
    there = getattr(record, key)
    if key == "teacher" and value == "train" and there.startswith("train:"):
        return record
    if key in ("data", "teacher"):
        value = absolute(value)
        if there in (Path(value).name, Path(value).stem):  # the manifest keeps only the last part of a path
            return replace(record, **{key: value})
    elif key == "method":
        found = find_distiller(value)
        if record.code not in (None, found.code) and there == found.name:
            raise other_run(out, f"another version of {value}")
        record, value = replace(record, code=found.code), found.name
    elif key == "protocol":
        given = Protocol.load(value)
        if given.name == there and given != record.load_protocol():
            raise other_run(out, f"another protocol {there}")
        value = given.name
    elif key == "recipe":
        value = Path(value).stem
    if there != value:
        raise _differs(out, key, there, value)
    return record
