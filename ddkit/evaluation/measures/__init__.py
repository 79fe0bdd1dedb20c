"""The measures: one file each, found by its file name (`per_class.py` is `per-class`).

Measures of other packages are found by the entry-point group `ddkit.measures`; the command line also takes a file,
`--measure ./mine.py`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from ddkit.core.serialization import from_plain, nest, to_plain
from ddkit.errors import OptionError, unknown
from ddkit.evaluation.measures.interface import NEEDS, SUBJECTS, Measure, Metric
from ddkit.plugins import module_from_file

_NEEDED = ("NAME", "PAPER", "COST", "SUBJECT", "NEEDS", "METRICS", "measure")
_NOT_MEASURES = ("interface",)


def _shipped() -> dict[str, str]:
    """Return the shipped measures: module by name."""
    files = [module.name for module in pkgutil.iter_modules(__path__) if module.name not in _NOT_MEASURES]
    return {file.replace("_", "-"): f"{__name__}.{file}" for file in files}


def measure_names() -> list[str]:
    """Return the sorted names of the available measures: those of ddkit and those of installed packages."""
    return sorted({*_shipped(), *(entry.name for entry in entry_points(group="ddkit.measures"))})


def find_measure(name: str) -> Measure:
    """Load a measure by its name, or from a Python file.

    Args:
        name: Name of a measure, or path of a `.py` file.

    Raises:
        OptionError: The name is unknown, the file does not exist, or the module is not a measure.
    """
    if name.endswith(".py"):
        return _measure(module_from_file(Path(name), "measure", measure_names()), name)
    if name in _shipped():
        return _measure(importlib.import_module(_shipped()[name]), name)
    found = [entry for entry in entry_points(group="ddkit.measures") if entry.name == name]
    if not found:
        raise unknown("measure", name, measure_names())
    return _measure(found[0].load(), name)


def _measure(module: ModuleType, name: str) -> Measure:
    """Build the Measure of a module. Raises OptionError if a required name is missing or not valid."""
    help_ = "CONTRIBUTING.md shows a complete measure"
    if missing := [part for part in _NEEDED if not hasattr(module, part)]:
        raise OptionError(f"measure {name} lacks {', '.join(missing)}; {help_}")
    if module.SUBJECT not in SUBJECTS:
        raise OptionError(f"measure {name}: SUBJECT is {module.SUBJECT!r}; valid: {', '.join(SUBJECTS)}; {help_}")
    if wrong := sorted(set(module.NEEDS) - set(NEEDS)):
        raise OptionError(f"measure {name}: NEEDS has {wrong[0]!r}; valid: {', '.join(NEEDS)}; {help_}")
    if not module.METRICS or not all(isinstance(metric, Metric) for metric in module.METRICS):
        raise OptionError(f"measure {name}: METRICS is not a tuple of Metric; {help_}")
    config: type | None = getattr(module, "Config", None)
    if config is not None and not dataclasses.is_dataclass(config):
        raise OptionError(f"measure {name}: Config is not a dataclass; {help_}")
    file = getattr(module, "__file__", None)
    return Measure(
        name=module.NAME, paper=module.PAPER, cost=module.COST, subject=module.SUBJECT,
        needs=frozenset(module.NEEDS), metrics=tuple(module.METRICS), run=module.measure, config_type=config,
        parts=tuple(getattr(module, "PARTS", ("",))), students=getattr(module, "students", None),
        summary=getattr(module, "summary", None),
        code=hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else "",
    )  # fmt: skip


def find_measures(asked: str | Sequence[str] | None) -> dict[str, Measure]:
    """Return measures by the names that were asked for, in that order.

    Args:
        asked: Names or files, as a list or separated by commas; "all": every shipped or installed one; None: none.

    Raises:
        OptionError: As `find_measure`.
    """
    names = measure_names() if asks_all(asked) else _names(asked)
    return {name: find_measure(name) for name in names}


def asks_all(asked: str | Sequence[str] | None) -> bool:
    """Return whether every measure was asked for.

    Args:
        asked: As in `find_measures`.
    """
    return _names(asked) == ["all"]


def _names(asked: str | Sequence[str] | None) -> list[str]:
    names = [asked] if isinstance(asked, str) else list(asked or ())
    return [part.strip() for name in names for part in name.split(",") if part.strip()]


def measure_config(measure: Measure, settings: Mapping[str, Any]) -> Any:
    """Build the Config of a measure; None if it has none.

    Args:
        measure: The measure.
        settings: Settings by dotted key that begins with the measure's name, of any measures.

    Raises:
        OptionError: A key is unknown (the message lists the valid ones) or a value is invalid.
    """
    mine = {
        key.removeprefix(f"{measure.name}."): v for key, v in settings.items() if key.startswith(f"{measure.name}.")
    }
    if measure.config_type is None:
        if mine:
            raise OptionError(
                f"measure {measure.name} has no settings; leave --set {measure.name}.{next(iter(mine))} out"
            )
        return None
    known = to_plain(measure.config_type())
    if wrong := [key for key in mine if key.partition(".")[0] not in known]:
        raise unknown(f"key in measure {measure.name}:", wrong[0], known)
    return from_plain(measure.config_type, nest(mine), f"measure {measure.name}")
