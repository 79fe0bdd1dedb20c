"""The exception hierarchy. A message is one line that names the subject, the value and the next step.

DdkitError                    exit code
├── InputError                2   the inputs cannot work; the user can correct them
│   ├── OptionError               an unknown or impossible option, recipe key, protocol, method or network
│   ├── SourceError               the source cannot be opened, or its columns or splits are ambiguous
│   ├── ImagesUnreadable          images that do not decode, all listed at once
│   ├── ClassesError              classes that do not match, are too few, or have too few images
│   ├── TeacherError              a teacher or checkpoint that cannot be used
│   ├── SetError                  a directory that is not a distilled set, or cannot be used as requested
│   └── HubAccess                 no such repository, no token, or a token without the permission
│       ├── HubNone                   the repository or revision does not exist or is not visible to this token
│       └── HubFile                   the repository has no such file
├── Refused                   3   possible, but replaces, publishes or costs something: needs a flag
│   ├── OtherRun                  the output belongs to another recipe, seed or source, or another process writes it
│   ├── TooCostly                 more than an hour or 20 GB without --yes
│   └── FormatVersion             written by a newer ddkit
├── IntegrityError            4   bytes differ from the manifest
└── EnvironmentFailure        1   the environment failed
    ├── DiskError                 no space, or no permission
    ├── HubError                  the Hub or the connection to it fails, also after retries
    ├── Diverged                  a loss became NaN or infinite
    └── RankLost                  another process of the same training failed or cannot be reached
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from ddkit.text import one_printable_line


class DdkitError(Exception):
    """Base of all errors that are reported to the user.

    `str(error)` is one printable line of at most LONGEST characters, with options written as in the Python API.

    Args:
        message: The message, with options written as on the command line (`--ipc`).

    Attributes:
        command_line: The message as the commands print it, with options written as on the command line.
        exit_code: Exit code of the commands.
    """

    exit_code = 1
    LONGEST = 3900

    def __init__(self, message: str) -> None:
        line = "".join(c if c.isprintable() else " " * c.isspace() for c in one_printable_line(message))
        self.command_line = line if len(line) <= self.LONGEST else f"{line[: self.LONGEST - 1]}…"
        super().__init__(python_wording(self.command_line))


_OPTION = re.compile(r"(?<![\w`-])--([a-z]+(?:-[a-z]+)*)\b")
_SWITCHES = ("yes", "overwrite", "skip_bad", "reencode", "rehash", "full", "private", "into_existing", "create_pr")
_RENAMED = {"set": "settings", "from": "source"}


def python_wording(text: str) -> str:
    """Write the options in a message as keywords of the Python API: `--skip-bad` -> `skip_bad=True`, `--ipc` -> `ipc`.

    Commands between backticks are kept.

    Args:
        text: The message.
    """

    def keyword(found: re.Match[str]) -> str:
        name = found[1].replace("-", "_")
        return f"{name}=True" if name in _SWITCHES else _RENAMED.get(name, name)

    parts = text.split("`")
    parts[::2] = [_OPTION.sub(keyword, part) for part in parts[::2]]
    return "`".join(parts)


class InputError(DdkitError):
    """The inputs cannot work; the user can correct them."""

    exit_code = 2


class OptionError(InputError):
    """An option, recipe key, protocol, method or network is unknown or impossible."""


class SourceError(InputError):
    """The source cannot be opened, or its columns or splits are ambiguous."""


class ImagesUnreadable(InputError):
    """Images do not decode; the message lists them."""


class ClassesError(InputError):
    """Classes do not match, are too few, or have too few images."""


class TeacherError(InputError):
    """A teacher or checkpoint cannot be used."""


class SetError(InputError):
    """A directory is not a distilled set, or cannot be used as requested."""


class HubAccess(InputError):
    """The repository does not exist, or the token is missing or lacks the permission."""


class HubNone(HubAccess):
    """The repository or revision does not exist, or is not visible to this token."""


class HubFile(HubAccess):
    """The repository has no such file."""


class Refused(DdkitError):
    """The operation is possible, but replaces, publishes or costs something and needs a flag."""

    exit_code = 3


class OtherRun(Refused):
    """The output belongs to another recipe, seed or source, or another process writes it."""


class TooCostly(Refused):
    """The run needs more than an hour or 20 GB and was not confirmed with --yes."""


class FormatVersion(Refused):
    """The file was written by a newer ddkit."""


class IntegrityError(DdkitError):
    """Bytes differ from the manifest."""

    exit_code = 4


class EnvironmentFailure(DdkitError):
    """The environment failed."""

    exit_code = 1


class DiskError(EnvironmentFailure):
    """The disk has no space, or a path cannot be written."""


class HubError(EnvironmentFailure):
    """The Hub or the connection to it fails, also after retries."""


class Diverged(EnvironmentFailure):
    """A loss became NaN or infinite."""


class RankLost(EnvironmentFailure):
    """Another process of the same training failed or cannot be reached."""


def unknown(kind: str, name: str, valid: Iterable[str]) -> OptionError:
    """Return the error for a name that is not in a closed list; it names the closest match and all valid names.

    Args:
        kind: What is named, as in "protocol".
        name: The unknown name.
        valid: All valid names.
    """
    names = sorted(valid)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return OptionError(f"unknown {kind} {name!r}{hint}; valid: {', '.join(names)}")


def first_few(items: Iterable[object], n: int = 5) -> str:
    """Join items for a message: `a, b, c and 7 more`.

    Args:
        items: The items.
        n: How many are shown.
    """
    all_items = [str(item) for item in items]
    shown = ", ".join(all_items[:n])
    return shown if len(all_items) <= n else f"{shown} and {len(all_items) - n} more"
