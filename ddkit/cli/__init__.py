"""The commands: parse, call, print. Heavy imports stand inside commands, so `ddkit --help` is fast."""

from ddkit.cli.app import main

__all__ = ["main"]
