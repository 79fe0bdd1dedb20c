"""Execution of units, independent of what they compute: on this machine, by ranks of a launcher, or by Ray."""

from ddkit.engine.jobs import Engine
from ddkit.engine.local import Local, stop
from ddkit.engine.selection import select_engine

__all__ = ["Engine", "Local", "select_engine", "stop"]
