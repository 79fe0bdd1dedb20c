"""What every command has in common: --json, --quiet, --debug; results on stdout; errors as one line."""

from __future__ import annotations

import errno
import functools
import inspect
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ddkit.core.console import be_quiet
from ddkit.text import one_printable_line, printable

if TYPE_CHECKING:
    from ddkit.format.manifest import Manifest

_COMMON = {
    "as_json": (Annotated[bool, typer.Option("--json", help="one JSON document on stdout")], False),
    "quiet": (Annotated[bool, typer.Option("--quiet", "-q", help="no notes and no progress")], False),
    "debug": (Annotated[bool, typer.Option("--debug", help="show the traceback of an error")], False),
}


class State:
    """What was asked of this call's output."""

    as_json = False
    debug = "--debug" in sys.argv


@dataclass(frozen=True)
class Command:
    """One command. panel: of the help; name: where it is not the function's."""

    panel: str
    name: str | None
    function: Callable[..., Any]


COMMANDS: list[Command] = []


def command(panel: str, name: str | None = None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function as a command that also takes --json, --quiet and --debug.

    panel: of the help; name: of the command where it is not the function's.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        COMMANDS.append(Command(panel, name, function))
        return function

    return register


def with_common_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """A command with the options that all of them have."""

    @functools.wraps(function)
    def call(*args: Any, as_json: bool = False, quiet: bool = False, debug: bool = False, **kwargs: Any) -> Any:
        State.as_json, State.debug = as_json, debug
        be_quiet(quiet or as_json)
        return function(*args, **kwargs)

    signature = inspect.signature(function, eval_str=True)
    extra = [
        inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for key, (annotation, default) in _COMMON.items()
    ]
    call.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *extra])  # type: ignore[attr-defined]
    call.__annotations__ = {p.name: p.annotation for p in call.__signature__.parameters.values()}  # type: ignore[attr-defined]
    return call


def say(text: str) -> None:
    """A line of result, on stdout (not with --json)."""
    if not State.as_json:
        _write(printable(text) + "\n")


def document(value: Any) -> None:
    """The result as JSON, with --json."""
    if State.as_json:
        _write(json.dumps(value, indent=2, sort_keys=True) + "\n")


def _write(text: str) -> None:
    """Text on stdout. Raises OSError where there is none."""
    if sys.stdout is None:
        raise OSError(errno.EBADF, "it is closed", "stdout")
    sys.stdout.write(text)


def next_step(line: str) -> None:
    """What to type next."""
    say(f"next: {line}")


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns in line, for people and for grep."""
    cells = [[one_printable_line(str(cell)) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in cells]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def push_command(directory: str, manifest: Manifest) -> str:
    """The command that publishes a set, with the repository and licence that are known."""
    repo = manifest.repo or f"YOUR_NAME/{manifest.name}"
    licence = "" if manifest.license else " --license LICENCE"
    return f"ddkit push {directory} {repo}{licence}"
