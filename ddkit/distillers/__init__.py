"""The methods: one file, one method, found by its file name. Methods never import each other.

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
from ddkit.synthesis.interface import Distiller

_NEEDED = ("NAME", "PAPER", "COST", "Config", "units", "run")
_HOOKS = ("prefixes", "patches", "real_pixels", "costs", "log")


def distiller_names() -> list[str]:
    """The methods there are: shipped, and of installed packages."""
    shipped = [module.name for module in pkgutil.iter_modules(__path__)]
    return sorted({*shipped, *(entry.name for entry in entry_points(group="ddkit.distillers"))})


def find_distiller(name: str) -> Distiller:
    """The method called `name`, or the one in a Python file, which only the command line may name.

    Raises OptionError for an unknown name (listing all), a file that is not there, or a module that lacks a part.
    """
    if not name.endswith(".py"):
        return installed_distiller(name)
    code = hashlib.sha256(Path(name).read_bytes()).hexdigest() if Path(name).is_file() else None
    return _distiller(_from_file(Path(name)), name, code)


def installed_distiller(name: str) -> Distiller:
    """The shipped method called `name`, or one of an installed package: the only kinds that a manifest or a record can
    name. No file is looked for. Raises OptionError, as `find_distiller`."""
    if name in {m.name for m in pkgutil.iter_modules(__path__)}:
        module = importlib.import_module(f"{__name__}.{name}")
    else:
        found = [entry for entry in entry_points(group="ddkit.distillers") if entry.name == name]
        if not found:
            raise unknown("method", name, distiller_names())
        module = found[0].load()
    return _distiller(module, name, None)


def _distiller(module: ModuleType, name: str, code: str | None) -> Distiller:
    """What a module offers as a method. Raises OptionError for one that lacks a part."""
    if missing := [part for part in _NEEDED if not hasattr(module, part)]:
        raise OptionError(f"distiller {name} lacks {', '.join(missing)}; CONTRIBUTING.md shows a whole one")
    if not dataclasses.is_dataclass(module.Config):
        raise OptionError(f"distiller {name}: Config is no dataclass; CONTRIBUTING.md shows a whole one")
    hooks = {hook: getattr(module, hook) for hook in _HOOKS if hasattr(module, hook)}
    return Distiller(
        name=module.NAME, paper=module.PAPER, cost=module.COST, config_type=getattr(module, "Config"),  # noqa: B009 (mypy takes it for an instance)
        units=module.units,
        run=module.run, code=code, shipped=module.__name__.startswith(f"{__name__}."), **hooks,
    )  # fmt: skip


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


def make_config(distiller: Distiller, settings: Mapping[str, Any]) -> Any:
    """The method's Config with some settings, nested or with dotted keys.

    Raises OptionError for an unknown key, listing the valid ones.
    """
    flat, known = flatten(settings), config_keys(distiller)
    if wrong := [key for key in flat if key not in known]:
        raise unknown(f"key in method {distiller.name}:", wrong[0], known)
    return from_plain(distiller.config_type, nest(flat), f"method {distiller.name}")


def config_keys(distiller: Distiller) -> dict[str, Any]:
    """The settings of a method with their defaults, tables as dotted keys."""
    return flatten(to_plain(distiller.config_type()))


def other_settings(distiller: Distiller, config: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a complete configuration (dotted keys) that are not the method's defaults."""
    defaults = config_keys(distiller)
    return {key: value for key, value in config.items() if defaults.get(key) != value}


def recorded_settings(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """`other_settings` of a set, which lacks those that came later; all it has where the method is not here."""
    return other_settings(installed_distiller(name), config) if name in distiller_names() else dict(config)
