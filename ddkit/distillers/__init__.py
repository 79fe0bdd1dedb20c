"""The methods: one file each, found by its file name. Methods never import each other.

Methods of other packages are found by the entry-point group `ddkit.distillers`; the command line also takes a file,
`--method ./mine.py`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import os
import pkgutil
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from ddkit.core.serialization import flatten, from_plain, nest, to_plain
from ddkit.errors import OptionError, unknown
from ddkit.plugins import module_from_file
from ddkit.synthesis.interface import Distiller

_NEEDED = ("NAME", "PAPER", "COST", "Config", "units", "run")
_HOOKS = ("prefixes", "patches", "real_pixels", "costs", "log")


def distiller_names() -> list[str]:
    """Return the sorted names of the available methods: those of ddkit and those of installed packages."""
    shipped = [module.name for module in pkgutil.iter_modules(__path__)]
    return sorted({*shipped, *(entry.name for entry in entry_points(group="ddkit.distillers"))})


def find_distiller(name: str) -> Distiller:
    """Load a method by its name, or from a Python file.

    Args:
        name: Name of a method, or path of a `.py` file. Only the command line may name a file.

    Raises:
        OptionError: The name is unknown, the file does not exist, or the module lacks a required attribute.
    """
    if not name.endswith(".py"):
        return installed_distiller(name)
    code = hashlib.sha256(Path(name).read_bytes()).hexdigest() if os.path.isfile(name) else None
    return _distiller(module_from_file(Path(name), "distiller", distiller_names()), name, code)


def installed_distiller(name: str) -> Distiller:
    """Load a method of ddkit or of an installed package by its name; never a file.

    Manifests and run records come from others, so the methods that they name are loaded by this function.

    Args:
        name: Name of the method.

    Raises:
        OptionError: The name is unknown, or the module lacks a required attribute.
    """
    if name in {m.name for m in pkgutil.iter_modules(__path__)}:
        module = importlib.import_module(f"{__name__}.{name}")
    else:
        found = [entry for entry in entry_points(group="ddkit.distillers") if entry.name == name]
        if not found:
            raise unknown("method", name, distiller_names())
        module = found[0].load()
    return _distiller(module, name, None)


def _distiller(module: ModuleType, name: str, code: str | None) -> Distiller:
    """Build the Distiller of a module. Raises OptionError if a required attribute is missing."""
    if missing := [part for part in _NEEDED if not hasattr(module, part)]:
        raise OptionError(f"distiller {name} lacks {', '.join(missing)}; CONTRIBUTING.md shows a complete distiller")
    if not dataclasses.is_dataclass(module.Config):
        raise OptionError(f"distiller {name}: Config is not a dataclass; CONTRIBUTING.md shows a complete distiller")
    hooks = {hook: getattr(module, hook) for hook in _HOOKS if hasattr(module, hook)}
    return Distiller(
        name=module.NAME, paper=module.PAPER, cost=module.COST, config_type=getattr(module, "Config"),  # noqa: B009 (mypy takes it for an instance)
        units=module.units,
        run=module.run, code=code, shipped=module.__name__.startswith(f"{__name__}."), **hooks,
    )  # fmt: skip


def make_config(distiller: Distiller, settings: Mapping[str, Any]) -> Any:
    """Build the Config of a method.

    Args:
        distiller: The method.
        settings: Settings that differ from the defaults, nested or with dotted keys.

    Raises:
        OptionError: A key is unknown (the message lists the valid ones) or a value is invalid.
    """
    flat, known = flatten(settings), config_keys(distiller)
    if wrong := [key for key in flat if key not in known]:
        raise unknown(f"key in method {distiller.name}:", wrong[0], known)
    return from_plain(distiller.config_type, nest(flat), f"method {distiller.name}")


def config_keys(distiller: Distiller) -> dict[str, Any]:
    """Return the default settings of `distiller`, with dotted keys."""
    return flatten(to_plain(distiller.config_type()))


def other_settings(distiller: Distiller, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that differ from the method's defaults.

    Args:
        distiller: The method.
        config: A complete configuration with dotted keys.
    """
    defaults = config_keys(distiller)
    return {key: value for key, value in config.items() if defaults.get(key) != value}


def recorded_settings(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings in a manifest that differ from the method's defaults; all of them for an unknown method.

    Args:
        name: Name of the method.
        config: The configuration in the manifest, with dotted keys. Settings added since it was written are missing.
    """
    return other_settings(installed_distiller(name), config) if name in distiller_names() else dict(config)
