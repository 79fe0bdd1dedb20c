"""All targets: one for each reader of untrusted bytes."""

from __future__ import annotations

from fuzz import of_sets, of_sources
from fuzz.checking import TARGETS, Finding, Target

__all__ = ["TARGETS", "Finding", "Target", "of_sets", "of_sources"]
