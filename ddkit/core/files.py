"""Files: written whole or not at all, sealed with their hash, read within limits, by one writer at a time."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import hmac
import json
import os
import platform
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ddkit.core.console import note
from ddkit.errors import DdkitError, DiskError, IntegrityError, OtherRun

SEAL = "ddkit-sealed 1"
LONGEST_NAME = 255  # bytes, of most file systems
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # what a full disk says
POLL_S = 0.5  # between two looks at a lock that another process holds

# ------------------------------------------------------------------ writing


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals (full disk, no permission) into one line."""
    try:
        yield
    except OSError as error:
        free = f"{shutil.disk_usage(_existing(path)).free / 1e6:.0f} MB free"
        advice = "make room and run the same command again; nothing is lost"
        if error.errno not in FULL:
            advice = "choose a place that can be written"
        raise DiskError(f"cannot write {path}: {error.strerror or error} ({free}); {advice}") from error


def _existing(path: Path) -> Path:
    """The nearest folder at or above `path` that is there."""
    return next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.is_dir())


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Write a file that is either whole or not there: temporary name, fsync, rename, fsync of the folder."""
    temporary = _temporary(path)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
            if os.name == "posix":
                folder = os.open(path.parent, os.O_RDONLY)
                try:
                    os.fsync(folder)
                finally:
                    os.close(folder)
        finally:
            temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` atomically. Raises DiskError."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(data)


def host() -> str:
    """This machine's name, as part of a file name."""
    return re.sub(r"[^A-Za-z0-9-]", "-", platform.node())[:40] or "host"


def _temporary(path: Path) -> Path:
    """`.NAME.HOST.PROCESS.tmp`, so that no machine takes another's temporary file for its own."""
    tail = f".{host()}.{os.getpid()}.tmp"
    name = path.name
    if len(os.fsencode(name)) + len(tail) + 1 > LONGEST_NAME:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()[:32]
    return path.with_name(f".{name}{tail}")


def is_temporary(path: Path) -> bool:
    """True for what a killed `atomic_file` leaves behind."""
    return path.name.startswith(".") and path.name.endswith(".tmp")


def is_abandoned(path: Path) -> bool:
    """True for a temporary file whose writer ran on this machine and runs no longer."""
    parts = path.name.split(".")
    if not is_temporary(path) or len(parts) < 5 or parts[-3] != host() or not parts[-2].isdigit():
        return False
    return int(parts[-2]) != os.getpid() and not _runs(int(parts[-2]))


def _runs(process: int) -> bool:
    """Whether a process of this machine is there."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


# ------------------------------------------------------------------ sealed files


def write_sealed(path: Path, payload: bytes, key: str = "-") -> None:
    """Write `payload` atomically below a line with its sha256 and `key`, which stands for all that decides it."""
    write_bytes(path, f"{SEAL} {_seal(payload, key)} {key}\n".encode() + payload)


def read_sealed(path: Path, key: str | None = "-") -> bytes | None:
    """The payload of a sealed file; None where it is not there, damaged, or written under another key (None: any)."""
    try:
        if path.is_symlink() or not path.is_file():
            return None
        data = path.read_bytes()
    except OSError:
        return None
    line, end, payload = data.partition(b"\n")
    key = line.decode("ascii", "replace").rpartition(" ")[2] if key is None else key
    return payload if end and line == f"{SEAL} {_seal(payload, key)} {key}".encode() else None


def read_sealed_json(path: Path, key: str | None = "-") -> Any:
    """The JSON value of a sealed file, None as `read_sealed`."""
    payload = read_sealed(path, key)
    return None if payload is None else json.loads(payload)


def _seal(payload: bytes, key: str) -> str:
    digest = hashlib.sha256(key.encode() + b"\n")
    digest.update(payload)
    return digest.hexdigest()


# ------------------------------------------------------------------ the user's own directory


def cache_dir() -> Path:
    """Where teachers and fingerprints are kept: $DDKIT_CACHE, else ddkit under the user's cache directory."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("DDKIT_CACHE") or Path(base) / "ddkit")


def sign(text: str) -> str:
    """A signature that this user alone can make: tells a file of ours from one that came with somebody's set.

    The key lies in the cache directory; where none can be kept there, signatures match nothing ("").
    """
    path = cache_dir() / "signing-key"
    key = read_sealed(path)
    if key is None:
        try:
            write_sealed(path, secrets.token_bytes(32))
            path.chmod(0o600)
        except (DdkitError, OSError):
            return ""
        key = read_sealed(path)
    return "" if key is None else hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def is_signed(text: str, signature: str) -> bool:
    """Whether `sign` made this signature for this user."""
    return bool(signature) and hmac.compare_digest(sign(text), signature)


# ------------------------------------------------------------------ what may be read and followed


STAMPS = ("size", "mtime_ns", "ctime_ns", "ino")  # of a file: what tells that it is still the one that was read


def stamp(path: Path) -> tuple[str, ...]:
    """Where a file lies and what tells that it is still the same: also where its size and time were put back after it
    was changed, the time of that change differs."""
    stat = path.stat()
    return str(path.absolute()), *(str(getattr(stat, f"st_{name}")) for name in STAMPS)


def read_limited(path: Path, most: int) -> bytes | None:
    """The bytes of a regular file, None where it is larger than `most` bytes (or grows while it is read)."""
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size > most:
            return None
        data = file.read(most + 1)
    return data if len(data) <= most else None


def file_sha256(path: Path) -> str:
    """sha256, hex, of a file, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def refuse_links(root: Path, names: Iterable[str], blobs: Path | None = None) -> None:
    """Raises IntegrityError where an entry of `root`, or anything below it, is a link: it would lead out of the set.

    names: the entries that are looked at; blobs: the Hub client's folder of contents, where its own cache links to.
    """
    for name in names:
        path = root / name
        for link in (path,) if path.is_symlink() else _links(path) if path.is_dir() else ():
            try:
                target = link.resolve()
            except (OSError, RuntimeError):  # a ring of links
                target = link
            if blobs is None or target.parent != blobs or not target.is_file():
                raise IntegrityError(
                    f"{root} holds a link ({link.relative_to(root)} -> {os.readlink(link)}), which ddkit does not "
                    "follow; put the file or folder itself there, or fetch the set again"
                )


def _links(folder: Path) -> Iterator[Path]:
    """Links below a folder; none is followed."""
    folders = [str(folder)]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_symlink():
                    yield Path(entry.path)
                elif entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)


# ------------------------------------------------------------------ one writer at a time


@contextlib.contextmanager
def locked(path: Path, what: str, run: Mapping[str, Any] | None = None, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock beside `path` (`.NAME.lock`, with host, process and `run` in it) while the block runs.

    what: what is done to `path`, for messages. run: what decides the result; where another process holds the lock for
    a run in which one of these values differs, OtherRun is raised, else its end is waited for. wait: False never waits.
    Raises OtherRun, DiskError.
    """
    from filelock import FileLock, Timeout

    named = path if path.name not in ("", "..") else path.resolve()
    place = named.with_name(f".{named.name}.lock")
    with disk_errors(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(place, thread_local=False)
        noted = False
        while True:
            try:
                lock.acquire(timeout=0 if not noted else POLL_S, poll_interval=0.05)
                break
            except Timeout:
                holder = _holder(place)
                who = f"process {holder.get('process', '?')} on {holder.get('host', '?')}"
                if not wait or _differs(holder.get("run"), run):
                    raise OtherRun(
                        f"{path} is being written by {who}, for another run; wait for it, or choose another name"
                    ) from None
                if not noted:
                    note(f"{path}: {who} is {what}; waiting for it")
                    noted = True
    try:
        with disk_errors(path):
            text = json.dumps({"host": host(), "process": os.getpid(), "run": run}, default=str)
            place.write_text(text, encoding="utf-8")
        yield
    finally:
        with contextlib.suppress(OSError):
            place.unlink()  # while it is held: whoever waits sees that the name is gone, and tries anew
        lock.release()


def _holder(place: Path) -> dict[str, Any]:
    """What the holder of a lock wrote into it; {} while it writes."""
    try:
        found = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _differs(theirs: Any, ours: Mapping[str, Any] | None) -> bool:
    """Whether two runs give different values for the same thing."""
    if not isinstance(theirs, dict) or ours is None:
        return False
    plain = json.loads(json.dumps(dict(ours), default=str))
    return any(key in theirs and theirs[key] is not None and value is not None and theirs[key] != value
               for key, value in plain.items())  # fmt: skip
