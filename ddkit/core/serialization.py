"""JSON, TOML and dataclasses: canonical text, strict reading, fingerprints. Imports no torch."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
import tomllib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from ddkit.errors import OptionError, unknown

PACKAGE = Path(__file__).parents[1]
T = TypeVar("T")


def canonical(value: object, indent: int | None = 2) -> str:
    """Canonical JSON: sorted keys; two-space indent, or with `indent=None` no blanks at all."""
    separators = (",", ":") if indent is None else None
    return json.dumps(value, sort_keys=True, indent=indent, separators=separators, allow_nan=False)


def strict_json(text: bytes | str) -> Any:
    """A JSON value that came from anyone.

    Raises ValueError, besides for what is no JSON, for NaN, infinities and numbers that overflow to them, a key that
    stands twice in one object, unpaired surrogates, and nesting deeper than Python reads.
    """
    text = text.decode("utf-8") if isinstance(text, bytes) else text
    try:
        value = json.loads(text, parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=_once_each)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if text.count("[") + text.count("{") > DEEPEST and _depth(value) > DEEPEST:
        raise ValueError(f"it is nested more than {DEEPEST} levels deep")
    if _SURROGATE.search(text):
        json.dumps(value, ensure_ascii=False).encode()  # raises UnicodeEncodeError, a ValueError, for an unpaired one
    return value


_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
DEEPEST = 60  # levels of JSON or TOML


def _depth(value: Any) -> int:
    """Levels of a value, without recursion; stops counting behind DEEPEST."""
    level, depth = [value], 0
    while level and depth <= DEEPEST:
        depth += 1
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                inner += [v for v in item.values() if isinstance(v, dict | list)]
            elif isinstance(item, list):
                inner += [v for v in item if isinstance(v, dict | list)]
        level = inner
    return depth


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:40]} is too large")
    return value


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {next(key for key in keys if keys.count(key) > 1)[:40]!r} stands there twice")
    return table


def fingerprint(value: object) -> str:
    """sha256, hex, of the canonical JSON of `value`."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def to_plain(spec: Any) -> Any:
    """A dataclass (or container of them) as JSON values; tuples become lists."""
    if dataclasses.is_dataclass(spec) and not isinstance(spec, type):
        return {f.name: to_plain(getattr(spec, f.name)) for f in dataclasses.fields(spec)}
    if isinstance(spec, Mapping):
        return {key: to_plain(value) for key, value in spec.items()}
    if isinstance(spec, list | tuple):
        return [to_plain(value) for value in spec]
    return spec


def from_plain(cls: type[T], data: Mapping[str, Any], where: str) -> T:
    """Build dataclass `cls` from JSON or TOML values.

    Raises OptionError for an unknown key (listing the valid ones), a missing one, or a value of another type.
    """
    hints = typing.get_type_hints(cls)
    known = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in data:
        if key not in known:
            raise unknown(f"key in {where}:", key, known)
    missing = [
        name
        for name, f in known.items()
        if name not in data and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise OptionError(f"{where} lacks {', '.join(missing)}; add it")
    try:
        return cls(**{key: _coerce(value, hints[key], f"{where}: {key}") for key, value in data.items()})
    except ValueError as error:
        raise OptionError(f"{where}: {error}") from error


def _coerce(value: Any, hint: Any, where: str) -> Any:
    """`value` as the type `hint`; ints pass for floats, lists for tuples, text for the numbers it spells."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin is Literal:
        if value not in args:
            raise OptionError(f"{where} is {value!r}; valid: {', '.join(str(arg) for arg in args)}")
        return value
    if origin in (types.UnionType, typing.Union):
        for arg in args:
            try:
                return _coerce(value, arg, where)
            except OptionError:
                continue
    elif origin is tuple and isinstance(value, list | tuple):
        kinds = args[:1] * len(value) if args[1:] == (Ellipsis,) else args
        if len(kinds) == len(value):
            return tuple(_coerce(item, kind, where) for item, kind in zip(value, kinds))
    elif origin is dict and isinstance(value, Mapping):
        return {_coerce(k, args[0], where): _coerce(v, args[1], where) for k, v in value.items()}
    elif dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return from_plain(typing.cast(type, hint), value, where)
    elif hint is float:
        if type(value) in (int, float) and math.isfinite(value):
            return float(value)
    elif isinstance(hint, type) and type(value) is hint:
        return value
    raise OptionError(f"{where} is {value!r}; it must be {getattr(hint, '__name__', str(hint))}")


def parse_settings(pairs: list[str]) -> dict[str, Any]:
    """`["factor=2", "stitch=random"]` as `{"factor": 2, "stitch": "random"}`: values read as TOML, else as text."""
    settings = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise OptionError(f"--set {pair!r} is not KEY=VALUE; write for example --set factor=2")
        try:
            settings[key.strip()] = _toml(f"v = {text}")["v"]
        except tomllib.TOMLDecodeError:
            settings[key.strip()] = text
    return settings


def nest(settings: Mapping[str, Any]) -> dict[str, Any]:
    """`{"crop.min": 0.1, "crop": {"flip": 0}}` as `{"crop": {"min": 0.1, "flip": 0}}`; later keys win.

    Raises OptionError where a key is both a value and a table.
    """
    nested: dict[str, Any] = {}
    for key, value in flatten(settings).items():
        *tables, last = key.split(".")
        table = nested
        for name in tables:
            table = table.setdefault(name, {})
            if not isinstance(table, dict):
                raise OptionError(f"setting {key!r}: {name} is a value, not a table; drop one of the two")
        if isinstance(table.get(last), dict):
            raise OptionError(f"setting {key!r} is a table; set one of its keys, as in {key}.{next(iter(table[last]))}")
        table[last] = value
    return nested


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as dotted keys: `{"crop": {"min": 0.1}}` -> `{"crop.min": 0.1}`."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def load_toml(name: str, folder: str, kind: str) -> tuple[str, dict[str, Any]]:
    """The shipped `folder/NAME.toml`, or a TOML file by path. Returns (name, content).

    Raises OptionError when there is neither, or the file is not TOML.
    """
    shipped = {path.stem: path for path in sorted((PACKAGE / folder).glob("*.toml"))}
    path = shipped.get(name, Path(name))
    if name not in shipped and path.suffix != ".toml":
        raise unknown(kind, name, shipped)
    if not path.is_file():
        raise OptionError(f"{kind} file {name} does not exist; `ddkit list {folder}` shows the shipped ones")
    try:
        return path.stem, _toml(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise OptionError(f"{kind} file {name} is not TOML: {error}; mend it") from error


def _toml(text: str) -> dict[str, Any]:
    """A TOML document. Raises TOMLDecodeError also for one that is nested deeper than settings can be."""
    try:
        found = tomllib.loads(text)
    except RecursionError as error:
        raise tomllib.TOMLDecodeError("it is nested too deeply") from error
    if _depth(found) > DEEPEST:
        raise tomllib.TOMLDecodeError(f"it is nested more than {DEEPEST} levels deep")
    return found
