"""Files: atomic writing, sealed files (with key and checksum), the cache directory, size limits, links."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import platform
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ddkit.core.faults import reach
from ddkit.errors import DiskError, IntegrityError

SEAL = "ddkit-sealed 1"
LONGEST_NAME = 255  # bytes of a file name on most file systems
LONGEST_WRITE_S = 86_400.0  # age of a temporary file after which nobody is writing it
_tidied: set[Path] = set()  # folders from which this process has removed what killed processes left
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # disk or quota full, or file too large

# ------------------------------------------------------------------ writing


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Convert OSError in the block (full disk, no permission) to a one-line DiskError.

    Args:
        path: The file or folder that is written, for the message.

    Raises:
        DiskError: The operating system refuses to write.
    """
    try:
        yield
    except OSError as error:
        free = f"{shutil.disk_usage(_existing(path)).free / 1e6:.0f} MB free"
        advice = "make room and run the same command again; nothing is lost"
        if error.errno not in FULL:
            advice = "choose a writable place"
        raise DiskError(f"cannot write {path}: {error.strerror or error} ({free}); {advice}") from error


def _existing(path: Path) -> Path:
    """Return the nearest existing folder at or above `path`."""
    return next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.is_dir())


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Write a file atomically: temporary file, fsync, rename, fsync of the folder.

    What killed processes of this machine left in the folder is removed, the first time that this process writes there.

    Args:
        path: The final path; missing folders are created.

    Yields:
        The temporary path, which the block must write.

    Raises:
        DiskError: The file cannot be written.
    """
    temporary = _temporary(path)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(temporary)
        try:
            reach("write")
            yield temporary
            publish(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def publish(temporary: Path, path: Path) -> None:
    """Give a written file its final name. After a power loss the name is missing, or stands for all bytes.

    Args:
        temporary: The file, on the same file system as `path`.
        path: The final path, whose folder exists.

    Raises:
        OSError: The operating system refuses.
    """
    reach("written")
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    reach("synced")
    os.replace(temporary, path)
    reach("renamed")
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    reach("published")


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically.

    Args:
        path: The file.
        data: Its content.

    Raises:
        DiskError: The file cannot be written.
    """
    with atomic_file(path) as temporary:
        temporary.write_bytes(data)


def below(root: Path, path: str | Path) -> Path:
    """Return where a file lies in a copy of the file system under `root`.

    Args:
        root: The directory of the copy; `/` makes `path` absolute.
        path: The file; a relative path is of the working directory.
    """
    path = Path(path)
    absolute = path.resolve() if ".." in path.parts else path.absolute()
    return root / absolute.relative_to("/")


def host() -> str:
    """Return a name of this machine, or of this container on it, as part of a file name: its process ids are unique.

    Machines and containers may have equal names, or names that begin alike; a hash of what tells them apart follows.
    """
    name, parts = platform.node(), [platform.node()]
    with contextlib.suppress(OSError):  # not Linux
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text())
        parts.append(str(os.stat("/proc/self/ns/pid").st_ino))
    tail = hashlib.sha256(" ".join(parts).encode()).hexdigest()[:8]
    return f"{re.sub(r'[^A-Za-z0-9-]', '-', name)[:31] or 'host'}-{tail}"


def _temporary(path: Path) -> Path:
    """Return `.NAME.HOST.PROCESS.tmp`: on a shared disk each machine recognises its own temporary files."""
    tail = f".{host()}.{os.getpid()}.tmp"
    name = path.name
    if len(os.fsencode(name)) + len(tail) + 1 > LONGEST_NAME:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()[:32]
    return path.with_name(f".{name}{tail}")


def _remove_abandoned(temporary: Path) -> None:
    """Remove what killed processes left in a folder, when this process first writes there."""
    folder = temporary.parent.absolute()
    if folder in _tidied:
        return
    _tidied.add(folder)  # once: a folder may hold thousands of files
    for path in folder.glob(".*.tmp"):
        if is_abandoned(path):
            path.unlink(missing_ok=True)


def is_temporary(path: Path) -> bool:
    """Return whether `path` is named like the temporary files that a killed `atomic_file` leaves behind."""
    return path.name.startswith(".") and path.name.endswith(".tmp")


def is_abandoned(path: Path) -> bool:
    """Return whether `path` is a temporary file of a process on this machine that no longer runs.

    After a restart of the machine, in another container, or after an update of ddkit, it is told by its age.
    """
    parts = path.name.split(".")
    if not is_temporary(path) or len(parts) < 5 or not parts[-2].isdigit():
        return False
    if parts[-3] == host():
        return int(parts[-2]) != os.getpid() and not process_runs(int(parts[-2]))
    here = host().rpartition("-")[0]
    same_name = here in (parts[-3][:31], parts[-3].rpartition("-")[0])  # ddkit up to 0.9.0 wrote the name alone
    with contextlib.suppress(FileNotFoundError):
        return same_name and path.stat().st_mtime < time.time() - LONGEST_WRITE_S
    return False


def process_runs(process: int) -> bool:
    """Return whether a process with this id exists on this machine.

    Args:
        process: The process id.
    """
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


# ------------------------------------------------------------------ sealed files


def write_sealed(path: Path, payload: bytes, key: str = "-") -> None:
    """Write a file atomically, with a header line that holds its sha256 and its key.

    Args:
        path: The file.
        payload: Its content below the header.
        key: Hash of everything that determines the payload.

    Raises:
        DiskError: The file cannot be written.
    """
    write_bytes(path, f"{SEAL} {_seal(payload, key)} {key}\n".encode() + payload)


def read_sealed(path: Path, key: str | None = "-") -> bytes | None:
    """Return the payload of a sealed file.

    Args:
        path: The file.
        key: The key it must have been written with; None accepts any.

    Returns:
        The payload, or None if the file is missing, damaged, a link, or has another key.
    """
    try:
        if path.is_symlink() or not path.is_file():
            return None
        data = path.read_bytes()
    except OSError:
        return None
    line, end, payload = data.partition(b"\n")
    key = line.decode("ascii", "replace").rpartition(" ")[2] if key is None else key
    return payload if end and line == f"{SEAL} {_seal(payload, key)} {key}".encode() else None


def sealed_key(path: Path) -> str | None:
    """Return the key of a sealed file, without verifying its checksum; None if there is no such file.

    Args:
        path: The file.
    """
    try:
        with open(path, "rb") as file:
            line = file.readline(len(SEAL) + 400)
    except OSError:
        return None
    return line.decode("ascii", "replace").rstrip("\n").rpartition(" ")[2] if line.startswith(SEAL.encode()) else None


def read_sealed_json(path: Path, key: str | None = "-") -> Any:
    """Return the JSON value of a sealed file.

    Args:
        path: The file.
        key: The key it must have been written with; None accepts any.

    Returns:
        The value, or None as for `read_sealed`, or if the payload is not JSON.
    """
    payload = read_sealed(path, key)
    try:
        return None if payload is None else json.loads(payload)
    except (ValueError, RecursionError):
        return None


def _seal(payload: bytes, key: str) -> str:
    digest = hashlib.sha256(key.encode() + b"\n")
    digest.update(payload)
    return digest.hexdigest()


# ------------------------------------------------------------------ cache directory


def cache_dir() -> Path:
    """Return the cache directory of teachers and fingerprints: $DDKIT_CACHE, else `ddkit` in the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("DDKIT_CACHE") or Path(base) / "ddkit")


# ------------------------------------------------------------------ limits and links


STAMPS = ("size", "mtime_ns", "ctime_ns", "ino")  # fields of os.stat that show whether a file has changed


def stamp(path: Path) -> tuple[str, ...]:
    """Return the absolute path and the STAMPS of a file, which show whether it has changed.

    The ctime changes even if size and mtime are restored after an edit.

    Args:
        path: The file.
    """
    stat = path.stat()
    return str(path.absolute()), *(str(getattr(stat, f"st_{name}")) for name in STAMPS)


def read_limited(path: Path, most: int) -> bytes | None:
    """Read a regular file of limited size.

    Args:
        path: The file.
        most: Largest size, in bytes.

    Returns:
        The content, or None if the file is larger than `most` or grows beyond it while it is read.
    """
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size > most:
            return None
        data = bytearray()  # in parts: a buffer for `most` bytes would be allocated for a small file too
        while part := file.read(min(2**20, most + 1 - len(data))):
            data += part
    return bytes(data) if len(data) <= most else None


def file_sha256(path: Path) -> str:
    """Return the sha256, in hex, of the file at `path`, read in chunks."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def refuse_links(root: Path, names: Iterable[str], blobs: Path | None = None) -> None:
    """Check that a folder contains no symbolic links, which could lead out of the set.

    Args:
        root: The folder.
        names: Entries of `root` to check, with everything below them.
        blobs: The blob folder of the Hub client's cache; links to files in it are allowed.

    Raises:
        IntegrityError: There is a link.
    """
    for name in names:
        path = root / name
        for link in (path,) if path.is_symlink() else _links(path) if path.is_dir() else ():
            try:
                target = link.resolve()
            except (OSError, RuntimeError):  # links that form a cycle
                target = link
            if blobs is None or target.parent != blobs or not target.is_file():
                raise IntegrityError(
                    f"{root} holds a link ({link.relative_to(root)} -> {os.readlink(link)}), which ddkit does not "
                    "follow; put the file or folder itself there, or fetch the set again"
                )


def _links(folder: Path) -> Iterator[Path]:
    """The symbolic links below a folder; none is followed."""
    folders = [str(folder)]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_symlink():
                    yield Path(entry.path)
                elif entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
