"""JSON, TOML and dataclasses: canonical text, strict parsing, fingerprints. Does not import torch."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import re
import tomllib
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from ddkit.core.worker_state import STATE
from ddkit.errors import OptionError, unknown

PACKAGE = Path(__file__).parents[1]
T = TypeVar("T")


def canonical(value: object, indent: int | None = 2) -> str:
    """Return canonical JSON of `value`: sorted keys; `indent` spaces of indentation, None omits all whitespace."""
    separators = (",", ":") if indent is None else None
    return json.dumps(value, sort_keys=True, indent=indent, separators=separators, allow_nan=False)


def strict_json(text: bytes | str) -> Any:
    """Parse untrusted JSON.

    Args:
        text: The document; bytes are decoded as UTF-8.

    Raises:
        ValueError: It is not JSON, or has NaN, infinities, numbers that overflow, duplicate keys in an object, unpaired
            surrogates, or more than DEEPEST levels.
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
    """Nesting levels of a value, without recursion; stops counting beyond DEEPEST."""
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
        last = {key: i for i, (key, _) in enumerate(pairs)}
        raise ValueError(f"key {next(key for i, (key, _) in enumerate(pairs) if last[key] != i)[:40]!r} appears twice")
    return table


def fingerprint(value: object) -> str:
    """Return the sha256, in hex, of the canonical JSON of `value`."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Check:
    """A condition on a value, as part of its type: `Annotated[int, between(1, 10)]`.

    Attributes:
        holds: Returns whether a value meets the condition.
    """

    holds: Callable[[Any], bool]


def between(low: float, high: float) -> Check:
    """Check for a number from `low` to `high`; NaN fails."""
    return Check(lambda value: low <= value <= high)


def one_of(*values: str) -> Check:
    """Check for one of the strings `values`."""
    return Check(lambda value: value in values)


def matching(pattern: str, longest: int = 10_000) -> Check:
    """Check for a string of at most `longest` characters that the regular expression `pattern` matches as a whole."""
    compiled = re.compile(pattern)
    return Check(lambda value: len(value) <= longest and compiled.fullmatch(value) is not None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Extensible:
    """Base of dataclasses that are read from files of newer versions too; `unknown_keys` are kept and written back."""

    unknown_keys: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False)

    def changed(self, **values: Any) -> Self:
        """Return a copy with other `values` of some fields."""
        return dataclasses.replace(self, **values)


class Mismatch(ValueError):
    """A value does not have the required type. `str(mismatch)` names the key and the value."""


class UnknownKey(Mismatch):
    """`key` is not a field of the dataclass; `valid` lists its fields."""

    def __init__(self, key: str, valid: list[str]) -> None:
        super().__init__(f"unknown key {key[:80]!r}")
        self.key, self.valid = key, valid


def later(default: T) -> T:
    """Declare a field that a later version added; at its `default` it is left out of JSON."""
    return dataclasses.field(default=default, metadata={"later": True})


def to_plain(spec: Any) -> Any:
    """Convert `spec`, a dataclass or a container of them, to JSON values; tuples become lists."""
    if dataclasses.is_dataclass(spec) and not isinstance(spec, type):
        shown = [f for f in dataclasses.fields(spec) if "later" not in f.metadata or getattr(spec, f.name) != f.default]
        known = {f.name: to_plain(getattr(spec, f.name)) for f in shown if f.name != "unknown_keys"}
        return {**spec.unknown_keys, **known} if isinstance(spec, Extensible) else known
    if isinstance(spec, Mapping):
        return {key: to_plain(value) for key, value in spec.items()}
    if isinstance(spec, list | tuple):
        return [to_plain(value) for value in spec]
    return spec


def from_plain(cls: type[T], data: Mapping[str, Any], where: str) -> T:
    """Build a dataclass from JSON or TOML values that the user wrote.

    Args:
        cls: The dataclass.
        data: Its fields.
        where: What `data` belongs to, for messages.

    Raises:
        OptionError: A key is unknown (the message lists the valid ones) or missing, or a value has another type.
    """
    try:
        return read_dataclass(cls, data)
    except UnknownKey as error:
        raise unknown(f"key in {where}:", error.key, error.valid) from error
    except Mismatch as error:
        raise OptionError(f"{where}: {error}") from error


def read_dataclass(cls: type[T], data: Mapping[str, Any], path: str = "") -> T:
    """Build a dataclass from JSON values, strictly: used for the user's settings and for untrusted files.

    Accepts integers for floats and lists for tuples, and converts nothing else.

    Args:
        cls: The dataclass. Unknown keys are kept if it is Extensible, else refused.
        data: Its fields.
        path: The key of `data` in the enclosing value, for messages.

    Raises:
        Mismatch: A key is missing, unknown, of another type, or fails its Check; the message names the first one.
    """
    if not isinstance(data, Mapping):
        raise _wrong_type(data, cls, path or "it")
    hints, known = _hints(cls), _fields(cls)
    extra = {key: value for key, value in data.items() if key not in known}
    if extra and not issubclass(cls, Extensible):
        raise UnknownKey(next(iter(extra)), list(known))
    prefix = f"{path}." if path else ""
    if missing := [f"{prefix}{name}" for name, required in known.items() if required and name not in data]:
        raise Mismatch(f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing")
    values = {name: _coerce(data[name], hints[name], f"{prefix}{name}") for name in known if name in data}
    if extra:
        values["unknown_keys"] = extra
    try:
        return cls(**values)
    except Mismatch:
        raise
    except ValueError as error:
        raise Mismatch(f"{path}: {error}" if path else str(error)) from error


def _hints(cls: type) -> dict[str, Any]:
    return STATE.keep("type hints", cls, lambda: typing.get_type_hints(cls, include_extras=True), most=200)


def _fields(cls: type) -> dict[str, bool]:
    """The fields of a dataclass that a file may hold, each with whether it is required."""
    return STATE.keep("fields", cls, lambda: _read_fields(cls), most=200)


def _read_fields(cls: type) -> dict[str, bool]:
    absent = dataclasses.MISSING
    return {
        f.name: f.default is absent and f.default_factory is absent
        for f in dataclasses.fields(cls)
        if f.init and f.name != "unknown_keys"
    }


def _coerce(value: Any, hint: Any, where: str) -> Any:
    """Return `value` as the type `hint`; `where` is its path, for messages. Raises Mismatch."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin is Annotated:
        found = _coerce(value, args[0], where)
        if all(check.holds(found) for check in args[1:]):
            return found
        raise Mismatch(f"{where} is {_shown(value)}")
    if origin is Literal:
        if any(type(value) is type(arg) and value == arg for arg in args):
            return value
        raise Mismatch(f"{where} is {_shown(value)}; valid: {', '.join(str(arg) for arg in args)}")
    if origin in (types.UnionType, typing.Union):
        return _coerce_union(value, hint, args, where)
    if origin is not None:
        return _coerce_container(value, hint, where)
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return read_dataclass(typing.cast(type, hint), value, where)
    if hint is float and type(value) in (int, float) and abs(value) <= 1e300:  # False for NaN
        return float(value)
    if hint is not float and isinstance(hint, type) and type(value) is hint:
        return value
    raise _wrong_type(value, hint, where)


def _coerce_union(value: Any, hint: Any, args: tuple[Any, ...], where: str) -> Any:
    """Return `value` as one of several types. Raises Mismatch."""
    if value is None and type(None) in args:
        return None
    kinds = [arg for arg in args if arg is not type(None)]
    if len(kinds) == 1:
        return _coerce(value, kinds[0], where)
    for arg in kinds:
        with contextlib.suppress(Mismatch):
            return _coerce(value, arg, where)
    raise _wrong_type(value, hint, where)


def _coerce_container(value: Any, hint: Any, where: str) -> Any:
    """Return `value` as a tuple or a dict. Raises Mismatch."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple and isinstance(value, list | tuple):
        kinds = list(args[:1] * len(value) if args[1:] == (Ellipsis,) else args)
        if len(kinds) == len(value):
            return tuple(_coerce(item, kind, f"{where}[{i}]") for i, (item, kind) in enumerate(zip(value, kinds)))
    if origin is dict and isinstance(value, Mapping):
        return {_coerce(k, args[0], f"{where} key"): _coerce(v, args[1], f"{where}.{k:.80}") for k, v in value.items()}
    raise _wrong_type(value, hint, where)


def _wrong_type(value: Any, hint: Any, where: str) -> Mismatch:
    return Mismatch(f"{where} is {_shown(value)}; it must be {_name_of(hint)}")


def _shown(value: Any) -> str:
    return repr(value[:80] if isinstance(value, str | list) else value)[:80]


def _name_of(hint: Any) -> str:
    """What a type is called in messages: `a table`, `a list`, `int`, `int or None`."""
    origin = typing.get_origin(hint)
    if origin is Annotated:
        return _name_of(typing.get_args(hint)[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join("None" if arg is type(None) else _name_of(arg) for arg in typing.get_args(hint))
    if origin is dict or dataclasses.is_dataclass(hint):
        return "a table"
    if origin is tuple:
        return "a list"
    return str(getattr(hint, "__name__", hint))


def parse_settings(pairs: list[str]) -> dict[str, Any]:
    """Parse settings of the command line: `["factor=2", "stitch=random"]` -> `{"factor": 2, "stitch": "random"}`.

    Args:
        pairs: `KEY=VALUE` each; values are read as TOML, else as strings.

    Raises:
        OptionError: A pair is not KEY=VALUE.
    """
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
    """Nest dotted keys: `{"crop.min": 0.1, "crop": {"flip": 0}}` -> `{"crop": {"min": 0.1, "flip": 0}}`.

    Args:
        settings: Values and tables by dotted key; later keys win.

    Raises:
        OptionError: A key is both a value and a table.
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
    """Flatten nested tables to dotted keys: `{"crop": {"min": 0.1}}` -> `{"crop.min": 0.1}`.

    Args:
        settings: The tables.
        prefix: Prepended to every key.
    """
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def load_toml(name: str, folder: str, kind: str) -> tuple[str, dict[str, Any]]:
    """Load a shipped TOML file by name, or any by path.

    Args:
        name: The stem of a shipped file, or the path of a `.toml` file.
        folder: Folder of the package with the shipped files, as in "recipes".
        kind: What the file defines, for messages.

    Returns:
        (stem of the file, content).

    Raises:
        OptionError: There is no such file, or it is not TOML.
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
        raise OptionError(f"{kind} file {name} is not valid TOML: {error}; correct it") from error


def _toml(text: str) -> dict[str, Any]:
    """Parse TOML. Raises TOMLDecodeError also for numbers of too many digits and more than DEEPEST levels."""
    try:
        found = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # tomllib lets the ValueError of int() through
        what = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise tomllib.TOMLDecodeError(what) from error
    if _depth(found) > DEEPEST:
        raise tomllib.TOMLDecodeError(f"it is nested more than {DEEPEST} levels deep")
    return found
