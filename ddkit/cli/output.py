"""Options and output common to all commands: --json, --quiet, --debug; results on stdout."""

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

from ddkit.core.console import set_quiet
from ddkit.text import one_printable_line, printable

if TYPE_CHECKING:
    from ddkit.format.manifest import Manifest

_COMMON = {
    "as_json": (Annotated[bool, typer.Option("--json", help="one JSON document on stdout")], False),
    "quiet": (Annotated[bool, typer.Option("--quiet", "-q", help="no notes and no progress")], False),
    "debug": (Annotated[bool, typer.Option("--debug", help="show the traceback of an error")], False),
}


class State:
    """Output options of the current call.

    Attributes:
        as_json: Whether --json is given.
        debug: Whether --debug is given.
    """

    as_json = False
    debug = "--debug" in sys.argv


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        panel: Panel of the help page.
        name: Name of the command; None: the function's.
        function: The command's function.
    """

    panel: str
    name: str | None
    function: Callable[..., Any]


COMMANDS: list[Command] = []


def command(panel: str, name: str | None = None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function as a command that also takes --json, --quiet and --debug.

    Args:
        panel: Panel of the help page.
        name: Name of the command. Default: the function's.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        COMMANDS.append(Command(panel, name, function))
        return function

    return register


def with_common_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add --json, --quiet and --debug to a command.

    Args:
        function: The command's function.
    """

    @functools.wraps(function)
    def call(*args: Any, as_json: bool = False, quiet: bool = False, debug: bool = False, **kwargs: Any) -> Any:
        State.as_json, State.debug = as_json, debug
        set_quiet(quiet or as_json)
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
    """Print a line of the result on stdout (not with --json).

    Args:
        text: The line.
    """
    if not State.as_json:
        _write(printable(text) + "\n")


def document(value: Any) -> None:
    """Print the result as JSON on stdout (only with --json).

    Args:
        value: A JSON value.
    """
    if State.as_json:
        _write(json.dumps(value, indent=2, sort_keys=True) + "\n")


def _write(text: str) -> None:
    """Write text to stdout. Raises OSError if stdout is closed."""
    if sys.stdout is None:
        raise OSError(errno.EBADF, "it is closed", "stdout")
    sys.stdout.write(text)


def next_step(line: str) -> None:
    """Print the command to run next.

    Args:
        line: The command.
    """
    say(f"next: {line}")


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Format a table with aligned columns.

    Args:
        header: Column names.
        rows: Cells of each row.
    """
    cells = [[one_printable_line(str(cell)) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in cells]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def push_command(directory: str, manifest: Manifest) -> str:
    """Return the command that publishes a set, with its repository and licence if they are known.

    Args:
        directory: The set.
        manifest: Its manifest.
    """
    repo = manifest.repo or f"YOUR_NAME/{manifest.name}"
    licence = "" if manifest.license else " --license LICENCE"
    return f"ddkit push {directory} {repo}{licence}"
