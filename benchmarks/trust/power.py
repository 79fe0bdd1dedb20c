"""Goal 2: what is on the disk after a power loss. The order of writes, fsync and rename, as strace sees it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from trust.bench import Bench
from trust.goals import Goal, Outcome
from trust.scenarios import SCENARIOS

CALLS = "openat,write,pwrite64,writev,ftruncate,fsync,fdatasync,rename,renameat,renameat2"
_CALL = re.compile(r"(\w+)\((.*)\) += (-?\d+)")
_OF_FILE = re.compile(r"\d+<(.*?)>")
_NAMES = re.compile(r'"((?:[^"\\]|\\.)*)"')
# not published: locks, reports of progress, logs that grow, downloads before they are checked
ASIDE = re.compile(r"\.lock$|\.progress(\.tmp)?$|\.jsonl$|/pulling/|/hf/")


def calls(text: str) -> Iterator[tuple[str, str]]:
    """(name, arguments) of the calls of a log of `strace -f -y` that succeeded, in the order in which they ended."""
    begun: dict[str, str] = {}
    for line in text.splitlines():
        process, _, rest = line.partition(" ")
        rest = rest.strip()
        if rest.endswith("<unfinished ...>"):
            begun[process] = rest.removesuffix("<unfinished ...>").rstrip()
            continue
        if resumed := re.match(r"<\.\.\. \w+ resumed>(.*)", rest):
            rest = begun.pop(process, "") + resumed[1]
        found = _CALL.match(rest)
        if found and int(found[3]) >= 0:
            yield found[1], found[2]


@dataclass
class Disk:
    """What is not yet on the disk.

    Attributes:
        root: Files outside of this folder do not count.
        dirty: Files with bytes that were not synced.
        unsynced: Names that were given, by their folder.
        published: Names that were given.
        wrong: Orders that lose bytes.
    """

    root: str
    dirty: set[str] = field(default_factory=set)
    unsynced: dict[str, set[str]] = field(default_factory=dict)
    published: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def see(self, every: Iterable[tuple[str, str]]) -> Disk:
        """Follow calls; then say which names were never synced."""
        for name, arguments in every:
            if name in ("fsync", "fdatasync"):
                path = _OF_FILE.search(arguments)
                if path:
                    self.dirty.discard(path[1])
                    self.unsynced.pop(path[1], None)
            elif name.startswith("rename"):
                self._rename(*_NAMES.findall(arguments))
            else:
                self._write(name, arguments)
        self.wrong += [f"{path}: its folder was not synced" for paths in self.unsynced.values() for path in paths]
        return self

    def _write(self, name: str, arguments: str) -> None:
        found = (_NAMES if name == "openat" else _OF_FILE).search(arguments)
        path = found[1] if found else ""
        if not path.startswith(self.root) or ASIDE.search(path):
            return
        if name != "openat":
            self.dirty.add(path)
        if (name != "openat" or "O_CREAT" in arguments) and not path.endswith(".tmp"):
            self.wrong.append(f"{path}: written under its final name")

    def _rename(self, old: str, new: str) -> None:
        if not new.startswith(self.root) or ASIDE.search(new):
            return
        if old in self.dirty:
            self.wrong.append(f"{new}: renamed before its bytes were synced")
        if new.endswith("/ddkit.json"):
            left = [path for paths in self.unsynced.values() for path in paths]
            self.wrong += [f"{path}: its name was not synced before the manifest's" for path in left]
        self.unsynced.setdefault(new.rpartition("/")[0], set()).add(new)
        self.published.append(new)


def power_trial(bench: Bench, trial: int) -> Outcome:
    """Run one command under strace and follow its files."""
    if shutil.which("strace") is None:
        return Outcome(("strace is not installed",))
    scenario = SCENARIOS[trial]
    scenario.prepare(bench)
    out, log = bench.scratch / "out", bench.work / "strace.log"
    argv = scenario.argv(bench, out)
    trace = ["strace", "-f", "-y", "-qq", "--seccomp-bpf", "-s", "0", "-e", f"trace={CALLS}", "-o", str(log)]
    done = subprocess.run([*trace, sys.executable, "-m", "ddkit", *argv], capture_output=True, text=True)
    disk = Disk(f"{bench.scratch.resolve()}/").see(calls(log.read_text(errors="replace")))
    log.unlink()
    wrong = [f"{scenario.name}: {line}" for line in disk.wrong]
    if done.returncode != 0 or not disk.published:
        wrong.append(f"{scenario.name}: exit {done.returncode}, {len(disk.published)} files: {done.stderr[-200:]}")
    names = {Path(path).suffix or Path(path).name for path in disk.published}
    return Outcome(tuple(wrong), {"files": len(disk.published)} | {f"kind {name}": 1 for name in names})


GOALS = (
    Goal(
        2,
        "power loss",
        "strace of the same commands: write, fsync, rename, fsync of the folder for every file, the manifest last",
        len(SCENARIOS),
        power_trial,
        lambda found: (
            f"{found['files']} files published by {found.trials} commands "
            f"({', '.join(found.every('kind '))}): {found.wrong} commands with another order"
        ),
    ),
)
