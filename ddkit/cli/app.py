"""The Typer app, and its error handling: each error is one line `error: …`, with the exit codes of errors.py."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import traceback
import warnings
from types import FrameType
from typing import Annotated, NoReturn

import typer

from ddkit import __version__
from ddkit.cli import look, make, measure, output, publish, study, use  # noqa: F401 (importing them registers their commands)
from ddkit.core.device import wait_briefly
from ddkit.core.signals import SAVING
from ddkit.errors import DdkitError, OptionError
from ddkit.text import printable

INTERRUPTED = 130

app = typer.Typer(
    name="ddkit",
    help="Distil a labelled image dataset into a tiny one, train from it, publish it.",
    epilog="Start with: ddkit demo",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)
for _panel in ("Make", "Use", "Look", "Publish"):
    for _command in output.COMMANDS:
        if _command.panel == _panel:
            app.command(_command.name, rich_help_panel=_panel)(output.with_common_options(_command.function))


def _show_version(asked: bool) -> None:
    if asked:
        output.say(f"ddkit {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="show the version and exit")
    ] = False,
) -> None:
    """Distil a labelled image dataset into a tiny one, train from it, publish it."""


def main() -> NoReturn:
    """Run the command line and exit."""
    wait_briefly()
    signal.signal(signal.SIGTERM, _terminated)
    if SAVING is not None:  # before and after a training there is nothing to save, and it must not end the command
        signal.signal(SAVING, lambda number, frame: None)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # escape characters that the terminal cannot show
    for library in (r"PIL\b", r"torchvision\b"):  # ddkit reports problems with images and networks itself
        warnings.filterwarnings("ignore", module=library)
    sys.exit(run())


def run() -> int:
    """Run the command line and return the exit code."""
    try:
        if any(token in word for token in _tokens() for word in sys.argv[1:]):
            raise OptionError("an argument holds the Hub's token; it is read from HF_TOKEN, leave it out")
        code = app(standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
        if code == INTERRUPTED:  # Typer returns it for a KeyboardInterrupt inside a command
            return _fail("stopped; run the same command again to continue", INTERRUPTED)
        return code if isinstance(code, int) else 0
    except DdkitError as error:
        return _fail(error.command_line, error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("stopped; run the same command again to continue", INTERRUPTED)
    except typer.Exit as stop:
        return stop.exit_code
    except BrokenPipeError:
        return _fail("the reader of the output closed it early; all results are complete", 1)
    except MemoryError:
        return _fail("out of memory; use fewer --workers or a smaller source", 1)
    except OSError as error:
        return _fail(
            f"{error.filename or 'the system'}: {error.strerror or error}; fix that and run the same command again", 1
        )
    except typer.TyperException as usage:
        message = usage.format_message() if hasattr(usage, "format_message") else str(usage)
        return _fail(f"{message.rstrip('.')}; see ddkit --help", 2) if message else 2
    except Exception as bug:  # one line for any other error; --debug adds the traceback
        return _fail(f"unexpected {type(bug).__name__}: {bug}; this is a defect: run it with --debug and report it", 1)
    finally:
        engine = sys.modules.get("ddkit.engine")
        if engine is not None:
            engine.stop()


def _fail(message: str, code: int) -> int:
    if output.State.debug:
        sys.stderr.write(_without_token(printable(traceback.format_exc())))
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except (OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else Python's flush at exit prints a traceback
    line = _without_token("error: " + " ".join(printable(message).split()))
    with contextlib.suppress(OSError, ValueError, AttributeError):  # stderr may be closed
        sys.stderr.write(line[: DdkitError.LONGEST + 20] + "\n")
        sys.stderr.flush()
    return code


def _tokens() -> list[str]:
    """The Hub's tokens in the environment."""
    return [token for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN") if (token := os.environ.get(name))]


def _without_token(text: str) -> str:
    """Remove the Hub's token from a message, so that it reaches neither screen nor log."""
    for token in _tokens():
        text = text.replace(token, "***")
    return text


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    engine = sys.modules.get("ddkit.engine")
    if engine is not None:
        engine.stop(kill=True)
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stderr.write("error: terminated; run the same command again to continue\n")
    sys.exit(128 + number)
