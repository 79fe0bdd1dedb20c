"""The exception hierarchy. A message names the thing, the value and the next step, in one line.

DdkitError                    exit code
├── InputError                2   these inputs cannot work; the user can mend it
│   ├── OptionError               an unknown or impossible option, recipe key, protocol, method, network
│   ├── SourceError               the source cannot be opened, or its columns or splits are unclear
│   ├── ImagesUnreadable          images that do not decode: all of them, listed once
│   ├── ClassesError              classes that do not match, are too few, or have too few images
│   ├── TeacherError              a teacher or checkpoint that cannot serve
│   ├── SetError                  a directory that is no distilled set, or cannot serve as asked
│   └── HubAccess                 no such repository, no token, or one that may not do this
│       ├── HubNone                   no such repository or revision, or none that this token may see
│       └── HubFile                   the repository has no such file
├── Refused                   3   possible, but it would replace, publish or spend: needs a flag
│   ├── OtherRun                  another recipe, seed or source stands in OUT
│   ├── TooCostly                 more than an hour or 20 GB without --yes
│   └── FormatVersion             written by a newer ddkit
├── IntegrityError            4   bytes differ from the manifest
└── EnvironmentFailure                1   the environment failed
    ├── DiskError                 no space, no permission
    ├── HubError                  the Hub or the way to it fails, also after several tries
    └── Diverged                  a loss became NaN or infinite
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from ddkit.text import one_printable_line


class DdkitError(Exception):
    """Base of all errors a user can meet.

    `str(error)` is one printable line of at most LONGEST characters, which names options as the Python API does;
    `command_line` is the same line with options as the commands have them (`--ipc`), which is what they print.
    """

    exit_code = 1
    LONGEST = 3900

    def __init__(self, message: str) -> None:
        line = one_printable_line(message)
        self.command_line = line if len(line) <= self.LONGEST else f"{line[: self.LONGEST - 1]}…"
        super().__init__(python_wording(self.command_line))


_OPTION = re.compile(r"(?<![\w`-])--([a-z]+(?:-[a-z]+)*)\b")
_SWITCHES = ("yes", "overwrite", "skip_bad", "reencode", "rehash", "full", "private", "into_existing", "create_pr")
_RENAMED = {"set": "settings"}


def python_wording(text: str) -> str:
    """A message with options as keywords: `--skip-bad` is `skip_bad=True`, `--ipc` is `ipc`. Commands between backticks
    stay as they are typed."""

    def keyword(found: re.Match[str]) -> str:
        name = found[1].replace("-", "_")
        return f"{name}=True" if name in _SWITCHES else _RENAMED.get(name, name)

    parts = text.split("`")
    parts[::2] = [_OPTION.sub(keyword, part) for part in parts[::2]]
    return "`".join(parts)


class InputError(DdkitError):
    exit_code = 2


class OptionError(InputError):
    pass


class SourceError(InputError):
    pass


class ImagesUnreadable(InputError):
    pass


class ClassesError(InputError):
    pass


class TeacherError(InputError):
    pass


class SetError(InputError):
    pass


class HubAccess(InputError):
    pass


class HubNone(HubAccess):
    pass


class HubFile(HubAccess):
    pass


class Refused(DdkitError):
    exit_code = 3


class OtherRun(Refused):
    pass


class TooCostly(Refused):
    pass


class FormatVersion(Refused):
    pass


class IntegrityError(DdkitError):
    exit_code = 4


class EnvironmentFailure(DdkitError):
    exit_code = 1


class DiskError(EnvironmentFailure):
    pass


class HubError(EnvironmentFailure):
    pass


class Diverged(EnvironmentFailure):
    pass


def unknown(kind: str, name: str, valid: Iterable[str]) -> OptionError:
    """The error for a name that is not in a closed list: names it, the nearest valid one, and all valid ones."""
    names = sorted(valid)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return OptionError(f"unknown {kind} {name!r}{hint}; valid: {', '.join(names)}")


def first_few(items: Iterable[object], n: int = 5) -> str:
    """`a, b, c and 7 more`: a list short enough for one line."""
    all_items = [str(item) for item in items]
    shown = ", ".join(all_items[:n])
    return shown if len(all_items) <= n else f"{shown} and {len(all_items) - n} more"
