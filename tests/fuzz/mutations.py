"""Mutations that keep what surrounds them valid: hashes, checksums, offsets. Each takes bytes and random numbers."""

from __future__ import annotations

import io
import json
import random
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

Mutate = Callable[[bytes, random.Random], bytes]

INTEGERS = (0, 1, -1, 2, 3, 7, 10, 127, 128, 255, 256, 1000, 32767, 65504, 65535, 65536, 10**6, 2**31 - 1,
            2**31, 2**32, 2**53, 10**15, 10**16, 2**63 - 1, 2**63, 2**64, 10**19, 10**400)  # fmt: skip
TEXTS = ("", "a", "..", "../x", "/etc/passwd", "fp16", "int8", "topk:3", "lowrank:4:i4+top2", "sampled:9",
         "teacher", "\n", "é" * 300, "0" * 64, "0" * 16, "data/train-ipc001-00000.tar",
         "labels.safetensors", "none", "\ud800", "x" * 11_000, "F16", "I64", "BF16", "U8", "ddkit",
         "__metadata__", "logits", "mean", "1e400", "mixup", "cutmix", "\x85")  # fmt: skip
VALUES = (*INTEGERS, *TEXTS, 0.0, -0.0, 0.5, 1.0, 1e308, 5e-324, 1e15, None, True, False, [], {}, [[]],
          [0, 0, 0], {"": 0})  # fmt: skip
PLACES = b"\0\1\x7f\x80\xff\n\t \"'{}[]:,-0919aAzZ./\\%#&*!|>"


def of_bytes(data: bytes, rng: random.Random) -> bytes:
    """Flip, put, drop, repeat or move some bytes."""
    new, at = bytearray(data), rng.randrange(len(data) + 1)
    length = min(rng.choice((1, 1, 2, 4, 8, 64, 512)), len(data))
    kind = rng.randrange(7)
    if kind == 0 and data:
        new[at % len(data)] ^= 1 << rng.randrange(8)
    elif kind == 1 and data:
        new[at % len(data)] = rng.choice(PLACES)
    elif kind == 2:
        del new[at : at + length]
    elif kind == 3:
        new[at:at] = new[at : at + length]
    elif kind == 4:
        new[at:at] = bytes(rng.choice(PLACES) for _ in range(length))
    elif kind == 5:
        form = rng.choice(("<H", "<I", "<Q", ">H", ">I"))
        new[at : at + struct.calcsize(form)] = struct.pack(
            form, rng.choice(INTEGERS) % 2 ** (8 * struct.calcsize(form))
        )
    else:
        there = rng.randrange(len(data) + 1)
        new[at:at] = data[there : there + length]
    return bytes(new)


# ------------------------------------------------------------------ JSON


def of_value(value: Any, rng: random.Random) -> Any:
    """Change one value somewhere in a JSON value."""
    items = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    if items and rng.random() < 0.85:
        key, new = rng.choice(items), value.copy()
        kind = rng.randrange(12)
        if kind == 0:
            del new[key]
        elif kind == 1 and isinstance(new, list):
            new.insert(rng.randrange(len(new) + 1), new[key])
        elif kind == 2:
            other = rng.choice(items)
            new[key], new[other] = new[other], new[key]
        elif kind == 3 and isinstance(new, dict):
            new[rng.choice((*TEXTS, str(key)[:-1]))] = new[key] if rng.random() < 0.5 else new.pop(key)
        else:
            new[key] = of_value(new[key], rng)
        return new
    if type(value) in (int, float) and rng.random() < 0.6:
        return rng.choice((value + 1, value - 1, -value, value * 2, value / 2, float(value), rng.choice(INTEGERS)))
    if isinstance(value, str) and value and rng.random() < 0.6:
        at = rng.randrange(len(value))
        return value[:at] + rng.choice(("", "0", "x", "/", ":", "\n", value[at] * 2, value)) + value[at + 1 :]
    return rng.choice(VALUES) if rng.random() < 0.8 else [value]


def dumped(value: Any, indent: int | None = 2) -> str:
    """JSON as ddkit writes it, also of values that it would refuse to write."""
    separators = (",", ":") if indent is None else None
    return json.dumps(value, sort_keys=True, indent=indent, separators=separators)


def of_json(finish: Callable[[Any], Any] = lambda value: value) -> Mutate:
    """Mutations of a JSON document. finish: makes its hashes true again."""

    def mutate(data: bytes, rng: random.Random) -> bytes:
        try:
            value = of_value(json.loads(data), rng)
        except (ValueError, RecursionError, OverflowError):
            return of_bytes(data, rng)
        try:
            return dumped(finish(value)).encode()
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return json.dumps(value).encode()

    return or_bytes(mutate)


def or_bytes(mutate: Mutate, share: float = 0.15) -> Mutate:
    """The same mutations, some of plain bytes among them, and sometimes several in a row."""

    def either(data: bytes, rng: random.Random) -> bytes:
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            data = (of_bytes if rng.random() < share else mutate)(data, rng)
        return data

    return either


# ------------------------------------------------------------------ safetensors

WIDTHS = {"U8": 1, "I8": 1, "BOOL": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2, "U32": 4, "I32": 4, "F32": 4, "I64": 8}
NUMBERS = {
    1: (0, 1, 127, 128, 255),
    2: (0, 0x7C00, 0xFC00, 0x7E00, 0x7BFF, 0xFBFF, 1, 0x8000, 0xFFFF, 0x3C00, 10),
    4: (0, 0x7F800000, 0x7FC00000, 0x3F800000, 0x7F7FFFFF, 0xFFFFFFFF, 1),
    8: (0, 2**63, 2**64 - 1),
}


def of_safetensors(data: bytes, rng: random.Random) -> bytes:
    """Change a number, a type, a shape, a name, the metadata or the header, whose offsets follow."""
    try:
        length = int.from_bytes(data[:8], "little")
        header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
        metadata = header.pop("__metadata__", None)
        tensors = {n: [e["dtype"], e["shape"], body[slice(*e["data_offsets"])]] for n, e in header.items()}
        kind, name = rng.randrange(10), rng.choice(list(tensors))
        dtype, shape, raw = tensors[name]
        if kind < 4 and raw:
            width = WIDTHS.get(dtype, 1)
            at = rng.randrange(len(raw) // width) * width
            number = rng.choice(NUMBERS[width]) if rng.random() < 0.7 else rng.randrange(256**width)
            tensors[name][2] = raw[:at] + number.to_bytes(width, "little") + raw[at + width :]
        elif kind == 4:
            new = rng.choice(list(WIDTHS))
            tensors[name][:2] = [new, [len(raw) // WIDTHS[new]] if rng.random() < 0.3 else shape]
        elif kind == 5:
            tensors[name][1] = of_value(shape, rng)
        elif kind == 6:
            tensors[rng.choice(TEXTS)] = tensors[name] if rng.random() < 0.5 else tensors.pop(name)
        elif kind == 7:
            del tensors[name]
        elif metadata is not None:
            metadata = _metadata(metadata, rng)
        return _safetensors(tensors, metadata, rng)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError, OverflowError):
        return of_bytes(data, rng)


def _metadata(metadata: Any, rng: random.Random) -> Any:
    if "ddkit" not in metadata or rng.random() < 0.1:
        return of_value(metadata, rng)
    return metadata | {"ddkit": dumped(of_value(json.loads(metadata["ddkit"]), rng), None)}


def _safetensors(tensors: dict[str, Any], metadata: Any, rng: random.Random) -> bytes:
    header, body = {} if metadata is None else {"__metadata__": metadata}, b""
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(body), len(body) + len(raw)]}
        body += raw
    text = json.dumps(of_value(header, rng) if rng.random() < 0.1 else header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + body


# ------------------------------------------------------------------ archives


def of_tar(data: bytes, rng: random.Random) -> bytes:
    """Edit a field of a header, whose checksum follows; repeat, drop or swap members; edit their data."""
    members, at = [], 0
    while at + 512 <= len(data) and data[at]:
        size = data[at + 124 : at + 135].strip(b"\0 ")
        end = at + 512 + -(-int(size, 8) // 512) * 512 if size and not size.strip(b"01234567") else at + 512
        members.append([data[at : at + 512], data[at + 512 : end]])
        at = end
    if not members:
        return of_bytes(data, rng)
    i, kind = rng.randrange(len(members)), rng.randrange(8)
    if kind < 4:
        start, stop = rng.choice(((0, 100), (100, 108), (124, 136), (124, 136), (156, 157), (156, 157),
                                  (157, 257), (257, 265), (265, 297), (329, 345), (345, 500)))  # fmt: skip
        field = members[i][0][start:stop]
        odd = (b"", b"\xff" * len(field), b"\x80" + bytes(len(field) - 1), b"7" * len(field), b"-1", b"\0",
               b"1", b"x", b"L", b"K", b"g", b"S", b"2", b"5", b"0",
               (-512).to_bytes(12, "big", signed=True),
               b"../x", b"a.pkl", b"\x80\0\0\0\0\0\1\0\0\0\0\0", b"/")  # fmt: skip
        field = rng.choice(odd) if rng.random() < 0.7 else of_bytes(field, rng)
        members[i][0] = checked(
            members[i][0][:start] + field[: stop - start].ljust(stop - start, b"\0") + members[i][0][stop:]
        )
    elif kind == 4:
        members.insert(i, rng.choice(members))
    elif kind == 5:
        del members[i]
    elif kind == 6:
        members.insert(i, list(pax(rng)))
    else:
        members[i][1] = of_bytes(members[i][1], rng)
    return b"".join(header + body for header, body in members) + (data[at:] if rng.random() < 0.95 else b"")


def checked(header: bytes) -> bytes:
    """A tar header with its checksum."""
    blank = header[:148] + b" " * 8 + header[156:]
    return blank[:148] + b"%06o\0 " % sum(blank) + blank[156:]


def pax(rng: random.Random) -> tuple[bytes, bytes]:
    """A pax header with one record."""
    key = rng.choice(("size", "path", "linkpath", "mtime", "uid", "GNU.sparse.map", "GNU.sparse.major",
                      "GNU.sparse.size", "hdrcharset", "GNU.sparse.name"))  # fmt: skip
    record = f"{key}={rng.choice(VALUES)}\n".encode("utf-8", "replace")[:400]
    record = b"%d %s" % (len(record) + rng.choice((3, 4, 5)), record)
    info = tarfile.TarInfo("pax")
    info.size, info.type = len(record), rng.choice((b"x", b"g", b"L", b"S"))
    return info.tobuf(tarfile.USTAR_FORMAT), record + bytes(-len(record) % 512)


def of_zip(inner: Mutate) -> Mutate:
    """Mutations of a zip file: of one member's data, which is packed again, or of the directory."""

    def mutate(data: bytes, rng: random.Random) -> bytes:
        if rng.random() < 0.35:
            return of_bytes(data, rng)
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                members = [(info.filename, archive.read(info)) for info in archive.infolist() if info.file_size < 10**6]
        except Exception:  # noqa: BLE001 (whatever it is, it is no zip file to begin with)
            return of_bytes(data, rng)
        if not members:
            return of_bytes(data, rng)
        i = rng.randrange(len(members))
        name, content = members[i]
        if rng.random() < 0.15:
            name = rng.choice(
                (name + "x", "../" + name, "/" + name, "a/" * 50 + name, "__MACOSX/x.png", "\x00", "é.png")
            )
        members[i] = (name, inner(content, rng))
        method = rng.choice((zipfile.ZIP_STORED,) * 5 + (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2))
        return zipped(members, method)

    return mutate


def zipped(members: list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> bytes:
    """A zip file, the same at any time of day."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return buffer.getvalue()


OPCODES = (b"N", b"(", b"t", b"]", b"e", b"a", b")", b"\x85", b"\x86", b"\x87", b"q\1", b"h\1",
           b"r\xff\0\0\0", b"K\5", b"M\0\1", b"J\xff\xff\xff\xff", b"G" + struct.pack(">d", float("nan")),
           b"R", b"b", b"Q", b"\x88", b"cos\nsystem\n", b"X\1\0\0\0a",
           b"ctorch._utils\n_rebuild_tensor_v2\n", b"ccollections\nOrderedDict\n",
           b"ctorch\nFloatStorage\n", b".", b"\x80\4")  # fmt: skip


def of_pickle(data: bytes, rng: random.Random) -> bytes:
    """Put in an opcode, or change some bytes."""
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.choice(OPCODES) + data[at:] if rng.random() < 0.5 else of_bytes(data, rng)


# ------------------------------------------------------------------ images and text


def of_png(data: bytes, rng: random.Random) -> bytes:
    """Change the chunks of a PNG, whose checksums follow; other formats byte by byte."""
    if not data.startswith(b"\x89PNG"):
        return of_bytes(data, rng)
    chunks, at = [], 8
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        chunks.append([data[at + 4 : at + 8], data[at + 8 : at + 8 + length]])
        at += 12 + length
    if not chunks:
        return of_bytes(data, rng)
    i, kind = rng.randrange(len(chunks)), rng.randrange(6)
    if kind < 2:
        chunks[i][1] = of_bytes(chunks[i][1], rng)
    elif kind == 2:
        chunks[i][1] = zlib.compress(of_bytes(bytes(rng.choice((32, 33)) * 97), rng))
    elif kind == 3:
        chunks.insert(i, list(rng.choice(chunks)))
    elif kind == 4:
        del chunks[i]
    else:
        odd = (b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"iCCP", b"PLTE", b"tRNS", b"acTL", b"fcTL", b"gAMA",
               b"cHRM", b"pHYs")  # fmt: skip
        chunks.insert(i, [rng.choice(odd), of_bytes(b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0", rng)])
    made = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks]
    return data[:8] + b"".join(made)


def of_text(*words: str) -> Mutate:
    """Mutations of a text, with some words of its language."""

    def mutate(data: bytes, rng: random.Random) -> bytes:
        if rng.random() < 0.4:
            return of_bytes(data, rng)
        at, word = rng.randrange(len(data) + 1), rng.choice(words).encode()
        end = at if rng.random() < 0.5 else at + len(data[at:].split(b"\n")[0])
        return data[:at] + word * rng.choice((1, 1, 1, 2, 50)) + data[end:]

    return or_bytes(mutate, 0)


YAML = of_text("!!int ''", "!!bool x", "!!float ''", "!!timestamp x", "!!binary é", "&a ", "*a", "<<: *a",
               "? ", "- ", "0x_", "1:1", "2001-02-30", "---\n", "\t", "{", "[", "}", "]", "|", ">",
               "!!set ", "!!omap ", "!!python/name:os.system ", "\n", ": ", "0b_", ".inf", "~", "'", '"',
               "#", "%YAML 1.1\n", "2001-1-1 1:1:1 +99:99", "license: ", "\x85", "=")  # fmt: skip
TOML = of_text("[", "]", "[[x]]\n", "= ", "'''", '"""', "1979-05-27T07:32:00", "25:61:00", "0x", "1e400",
               "nan", "-inf", "{a=1}", "\n", ".", "#", "9" * 90, "\\u0000", "\\uD800", "[train]\n",
               '[ipc."10".train]\n', "epochs=", "scale=", '"1/factor"', "a.b.c=1\n", "true",
               "[dataset.x.views]\n", "\r")  # fmt: skip


# ------------------------------------------------------------------ inputs of several parts


def joined(*parts: bytes) -> bytes:
    """Several files as one input: each with its length before it."""
    return b"".join(struct.pack("<I", len(part)) + part for part in parts)


def parts_of(data: bytes, count: int) -> list[bytes]:
    """The files of an input; lengths that lead beyond the end are cut."""
    parts = []
    for _ in range(count):
        length = int.from_bytes(data[:4], "little")
        parts.append(data[4 : 4 + length])
        data = data[4 + length :]
    return parts


def of_parts(*mutations: Mutate) -> Mutate:
    """Mutations of one of the files of an input."""

    def mutate(data: bytes, rng: random.Random) -> bytes:
        parts, i = parts_of(data, len(mutations)), rng.randrange(len(mutations))
        parts[i] = mutations[i](parts[i], rng)
        return joined(*parts)

    return mutate
