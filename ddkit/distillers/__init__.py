"""The methods: one file, one method, found by its file name. Siblings never import each other.

Also found: the entry-point group `ddkit.distillers`, and `--method ./mine.py` (command line only).
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from ddkit.core.serialization import flatten, from_plain, nest, to_plain
from ddkit.errors import OptionError, unknown

_NEEDED = ("NAME", "PAPER", "COST", "Config", "units", "run")


def distiller_names() -> list[str]:
    """The methods there are: shipped, and of installed packages."""
    shipped = [module.name for module in pkgutil.iter_modules(__path__)]
    return sorted({*shipped, *(entry.name for entry in entry_points(group="ddkit.distillers"))})


def find_distiller(name: str) -> ModuleType:
    """The distiller called `name`, or the one in a Python file, which only the command line may name.

    Raises OptionError for an unknown name (listing all), a file that is not there, or a module that lacks a part.
    """
    return _checked(_from_file(Path(name)), name) if name.endswith(".py") else installed_distiller(name)


def installed_distiller(name: str) -> ModuleType:
    """The shipped distiller called `name`, or one of an installed package: the only kinds that a manifest or a record
    can name. No file is looked for. Raises OptionError, as `find_distiller`."""
    if name in {m.name for m in pkgutil.iter_modules(__path__)}:
        module = importlib.import_module(f"{__name__}.{name}")
    else:
        found = [entry for entry in entry_points(group="ddkit.distillers") if entry.name == name]
        if not found:
            raise unknown("method", name, distiller_names())
        module = found[0].load()
    return _checked(module, name)


def code_hash(name: str) -> str | None:
    """sha256 of the file of a distiller that is named by one; None for an installed one."""
    return hashlib.sha256(Path(name).read_bytes()).hexdigest() if name.endswith(".py") else None


def _checked(module: ModuleType, name: str) -> ModuleType:
    """A module, seen to be a distiller. Raises OptionError."""
    if missing := [part for part in _NEEDED if not hasattr(module, part)]:
        raise OptionError(f"distiller {name} lacks {', '.join(missing)}; CONTRIBUTING.md shows a whole one")
    if not dataclasses.is_dataclass(module.Config):
        raise OptionError(f"distiller {name}: Config is no dataclass; CONTRIBUTING.md shows a whole one")
    return module


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise OptionError(f"no distiller file {path}; give a Python file, or one of {', '.join(distiller_names())}")
    name = f"ddkit_user_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # other people's code: whatever it raises
        raise OptionError(f"distiller {path} cannot be imported ({type(error).__name__}: {error}); mend it") from error
    return module


def make_config(module: ModuleType, settings: dict[str, Any]) -> Any:
    """The distiller's Config with some settings, nested or with dotted keys.

    Raises OptionError for an unknown key, listing the valid ones.
    """
    flat, known = flatten(settings), config_keys(module)
    if wrong := [key for key in flat if key not in known]:
        raise unknown(f"key in method {module.NAME}:", wrong[0], known)
    return from_plain(module.Config, nest(flat), f"method {module.NAME}")


def config_keys(module: ModuleType) -> dict[str, Any]:
    """The settings of a distiller with their defaults, tables as dotted keys."""
    return flatten(to_plain(module.Config()))


def other_settings(module: ModuleType, config: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a complete configuration (dotted keys) that are not the method's defaults."""
    defaults = config_keys(module)
    return {key: value for key, value in config.items() if defaults.get(key) != value}


def recorded_settings(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """`other_settings` of a set, which lacks those that came later; all it has where the method is not here."""
    return other_settings(installed_distiller(name), config) if name in distiller_names() else dict(config)
