"""Execution of units, independent of what they compute: runs jobs and yields their results as they finish."""

from ddkit.engine.local import run, stop

__all__ = ["run", "stop"]
