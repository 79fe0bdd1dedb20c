"""`ddkit.json`: read with every byte checked, and written last, by rename, so that its existence means complete."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ddkit.core.console import size_words
from ddkit.core.files import read_limited, refuse_links, write_bytes
from ddkit.core.serialization import Mismatch, read_dataclass, strict_json
from ddkit.errors import FormatVersion, IntegrityError, OptionError, SetError
from ddkit.format.consistency import manifest_problem
from ddkit.format.entries import FORMAT
from ddkit.format.manifest import Manifest, self_hash

FILE = "ddkit.json"
OURS = (FILE, "data", "images", "README.md", "_info.json", "preview.png", "labels.safetensors", "teacher.safetensors")
LARGEST_MANIFEST = 64 * 2**20  # bytes of a manifest
MOST_VALUES = 1_000_000  # of its JSON: more take gigabytes when they are parsed


def is_set(root: Path) -> bool:
    """Whether a directory holds a finished set."""
    return (root / FILE).is_file()


def work_beside(root: Path) -> Path:
    """OUT.work: what is unfinished, kept or private of a set, beside its directory; never pushed.

    Raises OptionError for the root of the file system.
    """
    named = root if root.name not in ("", "..") else root.resolve()
    if not named.name:
        raise OptionError(f"{root} cannot hold a set; give the name of a new directory")
    return named.with_name(named.name + ".work")


def write_manifest(root: Path, manifest: Manifest) -> Manifest:
    """Write `ddkit.json` atomically; returns the manifest as of a set in `root`. Raises DiskError."""
    write_bytes(root / FILE, manifest.to_bytes())
    return manifest.at(root)


def read_manifest(root: str | Path) -> Manifest:
    """Read and check `ddkit.json` of a directory.

    Raises SetError (no distilled set there), FormatVersion (written by a newer ddkit), IntegrityError (its bytes are
    not what was written, or name files a set cannot have).
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
            f"{path} is larger than any manifest ({size_words(LARGEST_MANIFEST)}); fetch the set again"
        )
    return parse_manifest(text, path).at(root)


def check_links(root: Path) -> None:
    """Raise IntegrityError where anything of a set is a link. Only the Hub client's cache, where a set lies as links
    into its folder of contents, is read as it is."""
    cached = root.absolute().parent
    blobs = cached.parent / "blobs"
    is_cache = cached.name == "snapshots" and blobs.is_dir() and not blobs.is_symlink()
    refuse_links(root, OURS, blobs.resolve() if is_cache else None)


def parse_manifest(text: bytes, path: Path) -> Manifest:
    """Validate an untrusted manifest. path: for messages. Raises FormatVersion, IntegrityError."""
    if len(text) > LARGEST_MANIFEST or sum(text.count(mark) for mark in (b",", b"[", b"{")) > MOST_VALUES:
        raise IntegrityError(f"{path} holds more values than any manifest; fetch the set again")
    try:
        data = strict_json(text)
        version = data["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{path} is damaged ({error or type(error).__name__}); fetch the set again") from error
    if type(version) is not int or version > FORMAT:
        raise FormatVersion(f"{path} is format {version!r:.40}, this ddkit reads up to {FORMAT}; pip install -U ddkit")
    try:
        same = data.get("self") == self_hash(data)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{path} is damaged ({error}); fetch the set again") from error
    if not same:
        raise IntegrityError(f"{path} was changed after it was written (its own sha256 differs); fetch the set again")
    try:
        return manifest_of(data)
    except Mismatch as error:
        raise IntegrityError(f"{path} is not a valid manifest: {error}; fetch or make the set again") from error


def manifest_of(data: dict[str, Any]) -> Manifest:
    """The manifest that JSON values are. Raises Mismatch for what no set can say."""
    own = {key: value for key, value in data.items() if key not in ("format", "self", "content")}
    if data["format"] < 1:
        raise Mismatch(f"format is {data['format']}")
    manifest = read_dataclass(Manifest, own)
    if problem := manifest_problem(manifest):
        raise Mismatch(problem)
    if data.get("content") != manifest.content:
        raise Mismatch("content is not the hash of its files")
    return manifest
