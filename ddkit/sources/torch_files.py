"""Reads lists of tensors and numbers that `torch.save` wrote, without pickle and without running anything.

Such a file is a zip archive with a pickle (`NAME/data.pkl`) and the bytes of each tensor (`NAME/data/0`, ...). The
pickle is decoded here by an interpreter of 27 opcodes. It imports and calls nothing: a name in the pickle becomes a
`Name`, a call becomes a `Call`, and both are compared with the few forms of a tensor or a number. Allowed names:

- of a tensor: `torch._utils._rebuild_tensor_v2`, the empty `collections.OrderedDict` of its hooks, and the name of its
  type, as in `torch.FloatStorage` (one name per type: the pickle holds the type in no other way);
- of a NumPy number, which corners of CutMix regions are: `numpy.core.multiarray.scalar` (`numpy._core` since NumPy 2),
  `numpy.dtype` and `_codecs.encode`.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from ddkit.errors import SourceError
from ddkit.sources.archives import ZIP_ERRORS

Value: TypeAlias = "np.ndarray | int | float | None | list[Value]"

LARGEST_FILE = 2**28  # bytes; a batch of 1024 views of 10,450 classes has 43 MB in single precision
LARGEST_PICKLE = 2**16  # bytes; a batch has 2,000
MEMBERS = 64  # of the archive; a batch has 10 to 14

_TENSOR, _HOOKS = "torch._utils _rebuild_tensor_v2", "collections OrderedDict"
_SCALAR, _DTYPE, _ENCODE = "numpy.core.multiarray scalar", "numpy dtype", "_codecs encode"
_STORAGES: dict[str, np.dtype[Any]] = {
    "torch FloatStorage": np.dtype("<f4"), "torch HalfStorage": np.dtype("<f2"), "torch LongStorage": np.dtype("<i8"),
    "torch ByteStorage": np.dtype("u1"), "torch BoolStorage": np.dtype("u1"),
}  # fmt: skip
_NAMES = {name: name for name in (_TENSOR, _HOOKS, _SCALAR, _DTYPE, _ENCODE, *_STORAGES)}
_NAMES["numpy._core.multiarray scalar"] = _SCALAR
_LITTLE_ENDIAN = (3, "<", None, None, None, -1, -1, 0)  # the state of a NumPy dtype that is a plain number
_NUMBERS = {"i8": "<q", "i4": "<i", "f8": "<d", "f4": "<f"}  # dtype of a NumPy number: format of struct


@dataclass(frozen=True)
class Name:
    """One of the allowed names, `MODULE NAME`."""

    name: str


@dataclass(frozen=True)
class Call:
    """A call of a name with arguments, as the pickle describes it; nothing is called."""

    name: Name
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class Stored:
    """A reference to the bytes of a tensor: the pickle's tuple ("storage", type, key, device, elements)."""

    reference: tuple[Any, ...]


class _Unreadable(Exception):
    """Why a file is not read."""


def read_torch_list(data: bytes, where: str) -> list[Value]:
    """Return the tensors and numbers of a list that `torch.save` wrote.

    Args:
        data: Bytes of the file.
        where: Name of the file in messages.

    Returns:
        The items: arrays (read-only; float32, float16, int64 or uint8, booleans as uint8), numbers, None, and lists of
        these.

    Raises:
        SourceError: The file is damaged, is not such a list, or holds a name that is not allowed.
    """
    try:
        members = _members(data)
        pickles = [name for name in members if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise _Unreadable("it has no data.pkl")
        if len(members[pickles[0]]) > LARGEST_PICKLE:
            raise _Unreadable(f"its pickle has {len(members[pickles[0]])} bytes, at most {LARGEST_PICKLE} are read")
        folder = pickles[0].removesuffix("data.pkl")
        if members.get(f"{folder}byteorder", b"little") != b"little":
            raise _Unreadable("its numbers are big-endian")
        top = _Interpreter(members[pickles[0]]).run()
        if not isinstance(top, list) or len(top) > MEMBERS:
            raise _Unreadable("it does not hold a list of tensors")
        return [_value(item, members, folder) for item in top]
    except _Unreadable as error:
        raise SourceError(
            f"{where}: {error}; ddkit reads files that torch.save (PyTorch 1.6 or newer) wrote of tensors and numbers"
        ) from error


def _members(data: bytes) -> dict[str, bytes]:
    """Return the members of the archive, which must be stored uncompressed and be no larger than the archive."""
    if len(data) > LARGEST_FILE:
        raise _Unreadable(f"it has {len(data)} bytes, at most {LARGEST_FILE} are read")
    if data.count(b"PK\x01\x02") > MEMBERS:  # each entry of the directory begins with it; zipfile would read all
        raise _Unreadable(f"its archive has more than {MEMBERS} members")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            if any(e.compress_type != zipfile.ZIP_STORED or e.compress_size != e.file_size for e in entries):
                raise _Unreadable("its archive is compressed")
            if sum(e.file_size for e in entries) > len(data):
                raise _Unreadable("its archive has overlapping members")
            if len({e.filename for e in entries}) != len(entries):
                raise _Unreadable("its archive has two members of one name")
            return {e.filename: archive.read(e) for e in entries}  # compares the checksum of each
    except ZIP_ERRORS as error:
        raise _Unreadable(f"it is not a complete archive ({error or type(error).__name__})") from error


# ------------------------------------------------------------------ the pickle


class _Interpreter:
    """Interprets the opcodes of one pickle; nothing is imported or called.

    Args:
        data: The pickle.
    """

    def __init__(self, data: bytes) -> None:
        self._pickle, self._at = data, 0
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        """Return the object of the pickle. Raises _Unreadable."""
        while (code := self._take(1)) != b".":
            if code not in _OPCODES:
                raise _Unreadable(f"its pickle has the opcode {code!r}, which no tensor needs")
            _OPCODES[code](self)
        if len(self._stack) != 1 or self._marks or self._at != len(self._pickle):
            raise _Unreadable("its pickle does not end where its object does")
        return self._stack[0]

    def _take(self, count: int) -> bytes:
        part = self._pickle[self._at : self._at + count]
        if len(part) != count:
            raise _Unreadable("its pickle ends too early")
        self._at += count
        return part

    def number(self, form: str) -> Any:
        """Return the argument of an opcode, in a format of struct."""
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def text(self) -> str:
        """Return the argument of BINUNICODE."""
        try:
            return self._take(self.number("<I")).decode("utf-8", "surrogatepass")
        except UnicodeDecodeError as error:
            raise _Unreadable("its pickle has text that is not UTF-8") from error

    def push(self, value: Any) -> None:
        """Push a value."""
        self._stack.append(value)

    def pop(self) -> Any:
        """Pop a value that is above the last mark."""
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            raise _Unreadable("its pickle takes more values than it has")
        return self._stack.pop()

    def pop_many(self, count: int) -> tuple[Any, ...]:
        """Pop some values, the first pushed first."""
        return tuple([self.pop() for _ in range(count)][::-1])

    def mark(self) -> None:
        """Begin a group of values."""
        self._marks.append(len(self._stack))

    def pop_group(self) -> tuple[Any, ...]:
        """Pop the values since the last mark, and the mark."""
        if not self._marks:
            raise _Unreadable("its pickle has no mark")
        start = self._marks.pop()
        group = tuple(self._stack[start:])
        del self._stack[start:]
        return group

    def extend(self, items: tuple[Any, ...]) -> None:
        """Append items to the list on top of the stack."""
        target = self.pop()
        if not isinstance(target, list):
            raise _Unreadable("its pickle appends to what is not a list")
        target.extend(items)
        self.push(target)

    def remember(self, key: int) -> None:
        """Keep the value on top of the stack under a number."""
        value = self.pop()
        self._memo[key] = value
        self.push(value)

    def recall(self, key: int) -> None:
        """Push the value kept under a number."""
        if key not in self._memo:
            raise _Unreadable("its pickle uses a value that it did not keep")
        self.push(self._memo[key])

    def name(self) -> None:
        """Push an allowed name: two lines, the module and the name in it."""
        end = self._pickle.find(b"\n", self._pickle.find(b"\n", self._at) + 1)
        words = self._take(max(end + 1 - self._at, 0)).decode("ascii", "replace").split("\n")
        found = " ".join(words[:2])
        if found not in _NAMES:
            raise _Unreadable(f"its pickle names {'.'.join(words[:2])[:100]!r}, which no tensor needs")
        self.push(Name(_NAMES[found]))

    def call(self) -> None:
        """Push a Call of the name and the arguments on the stack."""
        name, arguments = self.pop_many(2)
        if not isinstance(name, Name) or not isinstance(arguments, tuple):
            raise _Unreadable("its pickle calls what is not a name")
        self.push(Call(name, arguments))

    def build(self) -> None:
        """Pop the state of a NumPy dtype; the only one that is allowed changes nothing."""
        called, state = self.pop_many(2)
        plain = isinstance(state, tuple) and len(state) == 8 and all(s is None or type(s) in (int, str) for s in state)
        if not isinstance(called, Call) or called.name.name != _DTYPE or not plain or state != _LITTLE_ENDIAN:
            raise _Unreadable("its pickle sets the state of an object")
        self.push(called)

    def stored(self) -> None:
        """Push a reference to the bytes of a tensor."""
        reference = self.pop()
        if not isinstance(reference, tuple):
            raise _Unreadable("its pickle refers to something that is not a tensor")
        self.push(Stored(reference))

    def protocol(self) -> None:
        """Read the version of the pickle format; `torch.save` writes 2."""
        if (version := self.number("B")) != 2:
            raise _Unreadable(f"its pickle has protocol {version}, not 2")


_OPCODES: dict[bytes, Callable[[_Interpreter], None]] = {
    b"\x80": _Interpreter.protocol,
    b"(": _Interpreter.mark,
    b"N": lambda run: run.push(None),
    b"\x88": lambda run: run.push(True),
    b"\x89": lambda run: run.push(False),
    b"K": lambda run: run.push(run.number("<B")),
    b"M": lambda run: run.push(run.number("<H")),
    b"J": lambda run: run.push(run.number("<i")),
    b"G": lambda run: run.push(run.number(">d")),
    b"X": lambda run: run.push(run.text()),
    b"]": lambda run: run.push([]),
    b"a": lambda run: run.extend(run.pop_many(1)),
    b"e": lambda run: run.extend(run.pop_group()),
    b")": lambda run: run.push(()),
    b"t": lambda run: run.push(run.pop_group()),
    b"\x85": lambda run: run.push(run.pop_many(1)),
    b"\x86": lambda run: run.push(run.pop_many(2)),
    b"\x87": lambda run: run.push(run.pop_many(3)),
    b"q": lambda run: run.remember(run.number("<B")),
    b"r": lambda run: run.remember(run.number("<I")),
    b"h": lambda run: run.recall(run.number("<B")),
    b"j": lambda run: run.recall(run.number("<I")),
    b"c": _Interpreter.name,
    b"R": _Interpreter.call,
    b"b": _Interpreter.build,
    b"Q": _Interpreter.stored,
}


# ------------------------------------------------------------------ from records to values


def _value(item: Any, members: dict[str, bytes], folder: str, *, nested: bool = False) -> Value:
    """Return an item of the list as an array, a number, None or a list. nested: it is an item of an inner list."""
    if item is None or type(item) in (bool, int, float):
        found: Value = item
        return found
    if isinstance(item, list) and not nested and len(item) <= MEMBERS:
        return [_value(inner, members, folder, nested=True) for inner in item]
    if isinstance(item, Call) and item.name.name == _TENSOR:
        return _tensor(item.arguments, members, folder)
    if isinstance(item, Call) and item.name.name == _SCALAR:
        return _scalar(item.arguments)
    raise _Unreadable("it holds something that is neither a tensor nor a number")


def _tensor(arguments: tuple[Any, ...], members: dict[str, bytes], folder: str) -> np.ndarray:
    """Return the tensor (stored bytes, first element, shape, strides, requires_grad, hooks) as an array."""
    if len(arguments) != 6 or not isinstance(arguments[0], Stored):
        raise _Unreadable("it holds an incomplete tensor")
    stored, start, shape, strides, _, hooks = arguments
    reference = stored.reference
    if len(reference) != 5 or not isinstance(reference[1], Name) or reference[1].name not in _STORAGES:
        raise _Unreadable("it holds a tensor of unknown type")
    if not isinstance(hooks, Call) or hooks.name.name != _HOOKS or hooks.arguments:
        raise _Unreadable("it holds a tensor with hooks")
    if not (_counts((start,)) and _counts(shape) and _counts(strides) and len(shape) == len(strides) <= 4):
        raise _Unreadable("it holds a tensor of unknown shape")
    if 0 in shape:
        raise _Unreadable("it holds an empty tensor")
    whole = [math.prod(shape[i + 1 :]) for i in range(len(shape))]
    if any(n > 1 and stride != wanted for n, stride, wanted in zip(shape, strides, whole)):
        raise _Unreadable("it holds a tensor that is not contiguous")
    data = members.get(f"{folder}data/{reference[2]}") if isinstance(reference[2], str) else None
    dtype, count = _STORAGES[reference[1].name], math.prod(shape)
    if data is None or (start + count) * dtype.itemsize > len(data):
        raise _Unreadable("it holds a tensor with missing bytes")
    return np.frombuffer(data, dtype, count, start * dtype.itemsize).reshape(shape)


def _counts(values: Any) -> bool:
    """Whether a value is a tuple of integers of at least 0."""
    return isinstance(values, tuple) and all(type(value) is int and value >= 0 for value in values)


def _scalar(arguments: tuple[Any, ...]) -> int | float:
    """Return the NumPy number (dtype, its bytes as Latin-1 text)."""
    if len(arguments) == 2 and all(isinstance(argument, Call) for argument in arguments):
        dtype, encoded = arguments
        kind = dtype.arguments[0] if dtype.name.name == _DTYPE and len(dtype.arguments) == 3 else None
        form = _NUMBERS.get(kind) if isinstance(kind, str) else None
        if form and encoded.name.name == _ENCODE and len(encoded.arguments) == 2 and encoded.arguments[1] == "latin1":
            text = encoded.arguments[0]
            raw = text.encode("latin1", "ignore") if isinstance(text, str) else b""
            if len(raw) == struct.calcsize(form) == len(text):
                number: int | float = struct.unpack(form, raw)[0]
                return number
    raise _Unreadable("it holds a NumPy number of unknown type")
