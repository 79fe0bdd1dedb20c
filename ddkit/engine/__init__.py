"""Where units run. Knows no unit's meaning: it takes a pure function and items, and returns results as they come."""

from ddkit.engine.local import run, stop

__all__ = ["run", "stop"]
