"""Continues the run in OUT.

Options that are not given come from its record, given ones are compared with it, a larger IPC extends it, and any
other difference raises OtherRun.
"""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from ddkit.core.serialization import flatten
from ddkit.distillers import distiller_names, find_distiller, make_config
from ddkit.errors import OptionError, OtherRun
from ddkit.format.codecs.registry import find_codec
from ddkit.labelling.budget import BudgetGoal
from ddkit.pipeline.options import HOW, DistillOptions
from ddkit.pipeline.record import RunRecord, absolute
from ddkit.specs import Protocol

RENAMED = {"label_precision": "precision"}  # option -> field of the record
NOT_COMPARED = ("ipc", "prefixes", "settings", *HOW)


def continued(record: RunRecord, asked: DistillOptions, out: Path) -> RunRecord:
    """Return the record of a run, updated with the given options.

    A larger IPC and further prefixes extend it; paths are filled in where the record holds only their last part.

    Args:
        record: Record of the run in OUT.
        asked: The given options.
        out: The directory OUT.

    Raises:
        OtherRun: Another option differs; the message names the first.
        OptionError: An option has to be given again, since the record does not hold its path.
    """
    if asked.method is None and (record.code is not None or record.method not in distiller_names()):
        raise OptionError(f"{out} was made by {record.method}, a method from a file; give that file with --method")
    grown = _grown(record, asked, out)
    if missing := [name for name in grown.unnamed() if getattr(asked, name) is None]:
        called = ", ".join(f"--{name} (it was called {getattr(grown, name)!r})" for name in missing)
        raise OptionError(f"{out} came without a run record of this machine; to continue it, give {called}")
    return grown


def other_run(out: Path, what: str, it: str = "it") -> OtherRun:
    """Return the error for an OUT that was started with other inputs.

    Args:
        out: The directory OUT.
        what: What OUT was started with.
        it: Pronoun for `what` in the message.
    """
    return OtherRun(
        f"{out} was started with {what}; provide {it} again, choose another OUT, or start over with --overwrite"
    )


def _differs(out: Path, key: str, there: object, here: object) -> OtherRun:
    return OtherRun(
        f"{out} was made with {key} {there}, not {here}; choose another OUT, or start over with --overwrite"
    )


def _grown(record: RunRecord, asked: DistillOptions, out: Path) -> RunRecord:
    """Compare every given option with the record; return it with the new IPC and prefixes."""
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
    """Compare one given option with the record; return it, with the option's path if it held only the name."""
    there = getattr(record, RENAMED.get(key, key))
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
    elif key == "codec":
        value = find_codec(value).name
    elif key == "budget":
        value = BudgetGoal.parse(value).text
    elif key == "views" and record.spent is not None:
        there = record.spent.views
    if there != value:
        raise _differs(out, key, there, value)
    return record
