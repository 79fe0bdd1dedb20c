"""Loads distillers and measures that users wrote as a Python file."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from ddkit.errors import OptionError


def module_from_file(path: Path, kind: str, known: Sequence[str]) -> ModuleType:
    """Import a Python file that a user named on the command line.

    Args:
        path: The file.
        kind: What it defines, for messages.
        known: Names that could be given instead.

    Raises:
        OptionError: The file does not exist or cannot be imported.
    """
    if not path.is_file():
        raise OptionError(f"no {kind} file {path}; give a Python file or one of {', '.join(known)}")
    name = f"ddkit_user_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look up their module there
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # user code may raise anything
        raise OptionError(f"{kind} {path} cannot be imported ({type(error).__name__}: {error}); fix it") from error
    return module
