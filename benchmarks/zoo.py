"""Imports published distilled image sets, labels them alike and measures them under one protocol: one table.

    python benchmarks/zoo.py --list
    python benchmarks/zoo.py --teacher T --val V [--protocol common] [--only NAME,…] [--zoo benchmarks/zoo.toml]

A set that is done is not imported or measured again. One that cannot be had is named, and the others go on.
Writes WORK/zoo.json.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ddkit
from ddkit.core.console import note
from ddkit.core.files import file_sha256, write_bytes
from ddkit.core.serialization import from_plain, load_toml, to_plain
from ddkit.errors import DdkitError, IntegrityError, OptionError


@dataclass(frozen=True, kw_only=True)
class ZooSet:
    """A published set: its name, where it is, and what is known of it ("" or 0: unknown)."""

    name: str
    where: str
    method: str
    dataset: str
    ipc: int = 0
    licence: str = ""
    layout: str = ""
    sha256: str = ""
    seen: bool = True
    about: str = ""


def zoo(file: str) -> dict[str, ZooSet]:
    """The sets of a TOML file by name."""
    _, content = load_toml(file, "", "zoo")
    found = [from_plain(ZooSet, one, f"zoo {file}") for one in content.get("set", [])]
    return {one.name: one for one in found}


def measured(one: ZooSet, work: Path, teacher: str, val: str, protocol: str, options: dict[str, Any]) -> dict[str, Any]:
    """Import a set, unless it is there, and train students on it."""
    path = Path(one.where)
    if one.sha256 and path.is_file() and (found := file_sha256(path)) != one.sha256:
        raise IntegrityError(f"{one.where} has sha256 {found[:12]}, not {one.sha256[:12]}; fetch it again")
    ddkit.import_images(one.where, work / one.name, method=one.method, teacher=teacher, protocol=protocol)
    report = ddkit.evaluate(work / one.name, val=val, teacher=teacher, protocol=protocol, command="zoo.py", **options)
    return {"set": to_plain(one), "results": [to_plain(entry) for entry in report]}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--zoo", default=str(Path(__file__).with_name("zoo.toml")))
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--only", help="names, separated by commas")
    parser.add_argument("--teacher")
    parser.add_argument("--val")
    parser.add_argument("--protocol", default="common")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--work", default="scratch/zoo")
    args = parser.parse_args(arguments)
    sets = zoo(args.zoo)
    if args.list:
        for one in sets.values():
            known = f"{one.method}, {one.dataset}, licence {one.licence or 'not stated'}"
            note(f"{one.name:20} {one.where}: {known}{'' if one.seen else ' (not seen)'}")
        return 0
    if not args.teacher or not args.val:
        raise OptionError("give --teacher T and --val V, or --list")
    chosen = [sets[name] for name in args.only.split(",")] if args.only else list(sets.values())
    out, missing = Path(args.work) / "zoo.json", 0
    table: dict[str, Any] = json.loads(out.read_text()) if out.is_file() else {}
    for one in chosen:
        if one.name in table:
            continue
        try:
            options = {"epochs": args.epochs, "runs": args.runs, "baseline": "hard,teacher"}
            table[one.name] = measured(one, Path(args.work), args.teacher, args.val, args.protocol, options)
        except DdkitError as error:
            note(f"{one.name}: left out, {error}")
            missing += 1
            continue
        write_bytes(out, (json.dumps(table, indent=1, sort_keys=True) + "\n").encode())
    for name, row in table.items():
        for r in row["results"]:
            note(f"{name:20} {r['of']:8} {r['labels']:8} {r['arch']:20} {r['mean']:.2f} ± {r['std']:.2f} %")
    return 1 if missing else 0


if __name__ == "__main__":
    raise SystemExit(main())
