"""Reading and writing `ddkit.json`. It is written last, by rename, so its existence means that the set is complete."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ddkit.core.console import size_words
from ddkit.core.files import read_limited, refuse_links, write_bytes
from ddkit.core.serialization import Mismatch, read_dataclass, strict_json
from ddkit.errors import FormatVersion, IntegrityError, OptionError, SetError
from ddkit.format.consistency import manifest_problem
from ddkit.format.entries import NEWEST_FORMAT
from ddkit.format.manifest import Manifest, self_hash

FILE = "ddkit.json"
OURS = (FILE, "data", "images", "README.md", "_info.json", "preview.png", "labels.safetensors", "teacher.safetensors")
LARGEST_MANIFEST = 64 * 2**20  # bytes
MOST_VALUES = 1_000_000  # JSON values in a manifest: more take gigabytes to parse


def is_set(root: Path) -> bool:
    """Return whether the directory `root` holds a finished set."""
    return (root / FILE).is_file()


def work_beside(root: Path) -> Path:
    """Return OUT.work, the directory beside a set for its unfinished, cached and private files; it is never pushed.

    Args:
        root: Directory of the set.

    Raises:
        OptionError: `root` is the root of the file system.
    """
    named = root if root.name not in ("", "..") else root.resolve()
    if not named.name:
        raise OptionError(f"{root} cannot hold a set; give the name of a new directory")
    return named.with_name(named.name + ".work")


def kept_manifest(root: Path) -> Path:
    """Return the copy of `ddkit.json` in OUT.work, from which `ddkit repair` restores it.

    Args:
        root: Directory of the set.
    """
    return work_beside(root) / FILE


def write_manifest(root: Path, manifest: Manifest) -> Manifest:
    """Write `ddkit.json` atomically and return the manifest, located in `root`. A copy in OUT.work is replaced too.

    Args:
        root: Directory of the set.
        manifest: Manifest to write.

    Raises:
        DiskError: The file cannot be written.
    """
    kept = kept_manifest(root)
    write_bytes(root / FILE, manifest.to_bytes())
    if kept.is_file() and not kept.is_symlink() and not kept.parent.is_symlink():
        write_bytes(kept, manifest.to_bytes())
    return manifest.at(root)


def read_manifest(root: str | Path) -> Manifest:
    """Read and validate the `ddkit.json` of a directory.

    Args:
        root: Directory of the set.

    Raises:
        SetError: The directory holds no finished set.
        FormatVersion: The set was written by a newer ddkit.
        IntegrityError: The file was changed, is not a valid manifest, or part of the set is a link.
    """
    root = Path(root)
    path = root / FILE
    if not root.is_dir():
        raise SetError(f"no directory {root}; give the OUT of a `ddkit distill`")
    check_links(root)
    if not path.is_file():
        unfinished = work_beside(root).is_dir()
        step = "run its `ddkit distill` again to finish it" if unfinished else "make one with `ddkit distill`"
        raise SetError(f"{root} is not a finished distilled set (it has no {FILE}); {step}")
    text = read_limited(path, LARGEST_MANIFEST)
    if text is None:
        raise IntegrityError(
            f"{path} is larger than a manifest can be ({size_words(LARGEST_MANIFEST)}); fetch the set again"
        )
    return parse_manifest(text, path).at(root)


def check_links(root: Path) -> None:
    """Check that no file of a set is a link.

    Links are accepted only in the cache of the Hub client, which stores files as links into its `blobs` folder.

    Args:
        root: Directory of the set.

    Raises:
        IntegrityError: A file is a link.
    """
    cached = root.absolute().parent
    blobs = cached.parent / "blobs"
    is_cache = cached.name == "snapshots" and blobs.is_dir() and not blobs.is_symlink()
    refuse_links(root, OURS, blobs.resolve() if is_cache else None)


def parse_manifest(text: bytes, path: Path) -> Manifest:
    """Parse and validate an untrusted manifest.

    Args:
        text: Bytes of the file.
        path: Its path, for messages.

    Raises:
        FormatVersion, IntegrityError.
    """
    if len(text) > LARGEST_MANIFEST or sum(text.count(mark) for mark in (b",", b"[", b"{")) > MOST_VALUES:
        raise IntegrityError(f"{path} holds more values than a manifest can; fetch the set again")
    try:
        data = strict_json(text)
        version = data["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{path} is damaged ({error or type(error).__name__}); fetch the set again") from error
    if type(version) is not int or version > NEWEST_FORMAT:
        raise FormatVersion(
            f"{path} is format {version!r:.40}, this ddkit reads up to {NEWEST_FORMAT}; pip install -U ddkit"
        )
    try:
        same = is_unchanged(data)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{path} is damaged ({error}); fetch the set again") from error
    if not same:
        raise IntegrityError(f"{path} was changed after it was written (its own sha256 differs); fetch the set again")
    try:
        return manifest_of(data)
    except Mismatch as error:
        raise IntegrityError(f"{path} is not a valid manifest: {error}; fetch or create the set again") from error


def is_unchanged(data: dict[str, Any]) -> bool:
    """Return whether a manifest holds its own hash.

    Args:
        data: The JSON object of a `ddkit.json`.

    Raises:
        ValueError, RecursionError: The object cannot be written as JSON.
    """
    return bool(data.get("self") == self_hash(data))


def manifest_of(data: dict[str, Any]) -> Manifest:
    """Build a manifest from JSON values.

    Args:
        data: The JSON object of a `ddkit.json` whose format version is known.

    Raises:
        Mismatch: The values are not a valid manifest.
    """
    own = {key: value for key, value in data.items() if key not in ("format", "self", "content")}
    if data["format"] < 1:
        raise Mismatch(f"format is {data['format']}")
    manifest = read_dataclass(Manifest, own)
    if data["format"] < manifest.format:
        raise Mismatch(f"format is {data['format']}, for a codec of format {manifest.format}")
    if problem := manifest_problem(manifest):
        raise Mismatch(problem)
    if data.get("content") != manifest.content:
        raise Mismatch("content is not the hash of its files")
    return manifest
