"""`ddkit.json`: what a directory holds. Written last, by rename, so its existence means complete."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddkit.core.console import size_words
from ddkit.core.files import read_limited, refuse_links, write_bytes
from ddkit.core.serialization import canonical, from_plain, strict_json
from ddkit.errors import FormatVersion, IntegrityError, OptionError, SetError
from ddkit.format.schema import manifest_problem
from ddkit.format.shards import FORMAT, rows_path
from ddkit.specs import ClassName, EvalTransform, Protocol, ViewSpec

FILE = "ddkit.json"
OURS = (FILE, "data", "images", "README.md", "_info.json", "preview.png", "labels.safetensors", "teacher.safetensors")
LARGEST = 64 * 2**20  # bytes of a manifest
MOST_VALUES = 1_000_000  # of its JSON: more take gigabytes when they are parsed

_KEYS = {
    *("format", "self", "content", "name", "created_by", "install", "repo", "license", "classes", "ipc", "image"),
    *("image_tars", "views", "normalisation", "eval", "labels", "method", "recipe", "seed", "fingerprint"),
    *("prefixes", "shard_rows", "recommended", "real_pixels", "log", "cost", "devices", "source", "teachers"),
    *("shards", "relabelled_from", "subset_of", "results"),
}


RESULT_KEY = ("of", "ipc", "arch", "protocol", "labels", "val", "seeds")  # measuring the same again replaces it


@dataclass(frozen=True)
class Manifest:
    """A checked manifest. `data` is the JSON itself; the properties are its facts under their types; repo: the Hub id,
    where it was opened by it."""

    root: Path
    data: Mapping[str, Any]
    repo: str | None = None

    @property
    def where(self) -> str:
        """What people call it: the Hub id, or the directory."""
        return self.repo or str(self.root)

    @property
    def classes(self) -> list[ClassName]:
        return [ClassName(name=c["name"], id=c["id"]) for c in self.data["classes"]]

    @property
    def class_names(self) -> list[str]:
        return [c["name"] for c in self.data["classes"]]

    @property
    def prefixes(self) -> list[int]:
        return list(self.data["prefixes"])

    @property
    def ipc(self) -> int:
        return self.data["ipc"]

    @property
    def view_spec(self) -> ViewSpec:
        """The law the views were drawn by, with their count."""
        views = self.data["views"]
        law = {key: views[key] for key in ("scale", "ratio", "flip", "mix", "mix_alpha", "patches", "count")}
        return from_plain(ViewSpec, law, f"{FILE} views")

    @property
    def size(self) -> int:
        """Output side of a view, pixels."""
        return self.data["views"]["size"]

    @property
    def image_size(self) -> int:
        """Side of the stored images, pixels."""
        return self.data["image"]["size"]

    @property
    def image_codec(self) -> str:
        return self.data["image"]["codec"]

    @property
    def patches(self) -> int:
        """N of the stitched grid the images are made of; 1 = none."""
        return self.data["image"]["patches"]

    @property
    def mean(self) -> tuple[float, ...]:
        return tuple(self.data["normalisation"]["mean"])

    @property
    def std(self) -> tuple[float, ...]:
        return tuple(self.data["normalisation"]["std"])

    @property
    def eval(self) -> EvalTransform:
        return EvalTransform(resize=self.data["eval"]["resize"], crop=self.data["eval"]["crop"])

    def protocol(self, name: str | None = None) -> Protocol:
        """A protocol by name or file, by default the recommended one, which the set may carry itself; what the set
        names is data or a shipped protocol, never a file. Raises OptionError."""
        own = self.data["recommended"]
        if name in (None, own["protocol"]) and own.get("definition"):
            return Protocol.from_table(own["definition"], f"{FILE} recommended.definition")
        return Protocol.shipped(own["protocol"]) if name in (None, own["protocol"]) else Protocol.load(name)

    @property
    def dataset(self) -> str | None:
        """The dataset's name that protocols override by."""
        return self.data["recipe"]["dataset"]

    def shards(self, ipc: int | None = None) -> list[dict[str, Any]]:
        """The shards of the prefixes up to `ipc` (default: all). Raises SetError where no prefix is that IPC."""
        if ipc is not None and ipc not in self.prefixes:
            have = ", ".join(str(p) for p in self.prefixes)
            raise SetError(f"{self.where} has no prefix of {ipc} images per class; it has {have}")
        return [shard for shard in self.data["shards"] if ipc is None or shard["prefix"] <= ipc]

    def files(self, ipc: int | None = None, *, labels: bool = True, images: bool = True) -> dict[str, str]:
        """path -> sha256 of what the set consists of, or a prefix of it; without labels or the images beside them."""
        return files_of(self.shards(ipc), labels=labels, images=images)

    def rows(self, ipc: int | None = None) -> int:
        return sum(shard["rows"] for shard in self.shards(ipc))


def content_hash(data: Mapping[str, Any]) -> str:
    """sha256 over the sorted `path sha256` lines of shards and row records: same run, same content."""
    lines = sorted(f"{path} {sha256}\n" for path, sha256 in files_of(data["shards"]).items())
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def files_of(shards: Iterable[Mapping[str, Any]], *, labels: bool = True, images: bool = True) -> dict[str, str]:
    """path -> sha256 of the files of some shards. A shard without an images tar counts among the images, too."""
    files = {}
    for shard in shards:
        if labels or not shard["images"]:
            files[shard["path"]] = shard["sha256"]
        files[rows_path(shard["path"])] = shard["rows_sha256"]
        if images and shard["images"]:
            files[shard["images"]["path"]] = shard["images"]["sha256"]
    return files


def merged_results(first: Sequence[dict[str, Any]], then: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """All measured rows of both; of the same measurement (RESULT_KEY) the one in `first`."""

    def key(result: dict[str, Any]) -> tuple[str, ...]:
        return tuple(str(result[name]) for name in RESULT_KEY)

    known = {key(result) for result in first}
    return [*first, *(result for result in then if key(result) not in known)]


def seal(data: Mapping[str, Any]) -> dict[str, Any]:
    """`data` with `format`, `content` and `self` made true. Raises AssertionError where a key is missing (our bug)."""
    sealed = {key: value for key, value in data.items() if key != "self"}
    sealed |= {"format": FORMAT, "content": content_hash(data)}
    assert set(sealed) >= _KEYS - {"self"}, f"manifest keys: {(_KEYS - {'self'}) - set(sealed)}"
    return sealed | {"self": self_hash(sealed)}


def self_hash(data: Mapping[str, Any]) -> str:
    """sha256 of the canonical JSON without the key `self`."""
    return hashlib.sha256(canonical({k: v for k, v in data.items() if k != "self"}).encode()).hexdigest()


def write_manifest(root: Path, data: Mapping[str, Any]) -> Manifest:
    """Seal and write `ddkit.json`, atomically."""
    sealed = seal(data)
    write_bytes(root / FILE, (canonical(sealed) + "\n").encode())
    return Manifest(root, sealed)


def work_beside(root: Path) -> Path:
    """OUT.work: what is unfinished, kept or private of a set, beside its directory; never pushed.

    Raises OptionError for the root of the file system.
    """
    named = root if root.name not in ("", "..") else root.resolve()
    if not named.name:
        raise OptionError(f"{root} cannot hold a set; give the name of a new directory")
    return named.with_name(named.name + ".work")


def is_set(root: Path) -> bool:
    return (root / FILE).is_file()


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
    text = read_limited(path, LARGEST)
    if text is None:
        raise IntegrityError(f"{path} is larger than any manifest ({size_words(LARGEST)}); fetch the set again")
    return Manifest(root, parse_manifest(text, path))


def check_links(root: Path) -> None:
    """Raises IntegrityError where anything of a set is a link. Only the Hub client's cache, where a set lies as links
    into its folder of contents, is read as it is."""
    cached = root.absolute().parent
    blobs = cached.parent / "blobs"
    is_cache = cached.name == "snapshots" and blobs.is_dir() and not blobs.is_symlink()
    refuse_links(root, OURS, blobs.resolve() if is_cache else None)


def parse_manifest(text: bytes, path: Path) -> dict[str, Any]:
    """The checked JSON of a manifest. path: for messages. Raises FormatVersion, IntegrityError."""
    if len(text) > LARGEST or sum(text.count(mark) for mark in (b",", b"[", b"{")) > MOST_VALUES:
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
    problem = f"format is {version}" if version < 1 else None
    if missing := _KEYS - set(data):
        problem = f"{', '.join(sorted(missing))} is missing"
    problem = problem or manifest_problem(data)
    if problem is None and data["content"] != content_hash(data):
        problem = "its content is not the hash of its files"
    if problem:
        raise IntegrityError(f"{path} is no true manifest: {problem}; fetch or make the set again")
    return data
