"""The command line. Commands import heavy modules when they run, so that `ddkit --help` is fast."""

from ddkit.cli.app import main

__all__ = ["main"]
