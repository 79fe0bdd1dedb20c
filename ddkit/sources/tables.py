"""Opens a source: finds its files, split and columns, and returns a table of encoded images without decoding them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ddkit.core.console import note
from ddkit.core.files import read_limited, stamp
from ddkit.core.serialization import fingerprint
from ddkit.errors import SourceError, first_few
from ddkit.format.damage import open_images
from ddkit.format.manifest_file import is_set, read_manifest
from ddkit.sources.archives import Archive
from ddkit.sources.decoding import LARGEST_BYTES, SUFFIXES
from ddkit.sources.digits import digits_split
from ddkit.sources.online import fetch_split, is_online, look_up
from ddkit.sources.packed import is_packed, open_packed, packed_splits
from ddkit.sources.tar_checks import check_tar

if TYPE_CHECKING:
    from datasets import Dataset

SPLITS = {"train": "train", "training": "train", "validation": "validation", "valid": "valid", "val": "val"}
SPLITS |= {"dev": "validation", "test": "test", "testing": "test"}
VALIDATION = ("validation", "valid", "val", "test")
HEIF = (".heic", ".heif", ".avif")
# Image formats that ddkit does not read; messages suggest converting them.
UNREAD = (*HEIF, ".jxl", ".jp2", ".j2k", ".dng", ".cr2", ".nef", ".arw", ".psd", ".tga", ".svg")
_IMAGE_NAMES = ("image", "img", "images", "png", "jpg", "jpeg", "webp", "picture", "pixels")
_LABEL_NAMES = ("label", "labels", "cls", "class", "fine_label", "target", "category")


@dataclass(frozen=True)
class Table:
    """One split of a source.

    Attributes:
        raw: Returns the encoded bytes of a row, or its pixels, uint8 [3, H, W].
        labels: int64 [n]; -1: no label.
        names: Names of the classes.
        row_name: Returns the name of a row, for messages.
        files: The files that were opened.
    """

    raw: Callable[[int], bytes | np.ndarray]
    labels: np.ndarray
    names: list[str]
    row_name: Callable[[int], str]
    files: tuple[Path, ...] = ()


def splits_of(data: str) -> dict[str, Any]:
    """Return the splits of the source `data`, by name. Raises SourceError if it cannot be opened."""
    return _kind(data)[1]


def open_table(
    data: str, split: str, image_column: str | None = None, label_column: str | None = None, *, again: bool = False
) -> Table:
    """Open one split of a source.

    Args:
        data: The source.
        split: Name of the split.
        image_column: Column of the images in a table; default: determined from types and names.
        label_column: Column of the labels, likewise.
        again: Whether to recreate what `datasets` has cached of it.

    Raises:
        SourceError: The split or a column does not exist, or the column is ambiguous.
    """
    kind, splits = _kind(data)
    if split not in splits:
        raise SourceError(f"{data} has no split {split!r}; it has {', '.join(splits)}")
    if kind == "digits":
        images, labels, rows = digits_split(split)
        return Table(
            lambda i: images[rows[i]].copy(), labels[rows], [str(d) for d in range(10)], lambda i: f"digit {rows[i]}"
        )
    if kind == "folders":
        return _folders(splits[split])
    if kind == "set":
        return _distilled(splits[split])
    if kind == "packed":
        packed = open_packed(splits[split], split)
        return Table(packed.raw, packed.labels, packed.names, lambda i: f"row {i}", packed.files)
    if kind == "zip":
        return _zipped(splits[split])
    if kind == "online":
        source = look_up(data)
        files = fetch_split(source, splits[split])
        return _dataset(data, source.kind, files, image_column, label_column, source.features, again)
    return _dataset(data, kind, splits[split], image_column, label_column, None, again)


def is_available(data: str) -> bool:
    """Return whether the source `data` is available: built in, local, or an id on the Hub."""
    return data == "digits" or os.path.exists(data) or is_online(data)


def _kind(data: str) -> tuple[str, dict[str, Any]]:
    """The kind of a source, and its splits: name -> files or folder."""
    if data == "digits":
        return "digits", {"train": None, "test": None}
    path = Path(data)
    if is_online(data):
        return "online", {SPLITS.get(name, name): name for name in look_up(data).splits}
    if not path.exists():
        raise SourceError(
            f"no such folder or file: {data}; give digits, a folder of class folders, parquet or tar, or ORG/NAME"
        )
    if is_set(path):
        return "set", {"train": path}
    if is_packed(path):
        return "packed", dict.fromkeys(packed_splits(path), path)
    for kind, suffix in (("parquet", ".parquet"), ("webdataset", ".tar")):
        files = [path] if path.suffix == suffix else []
        if path.is_dir():
            files = sorted(f for f in (*path.glob(f"*{suffix}"), *path.glob(f"*/*{suffix}")) if f.name[0] != ".")
        if files:
            return kind, _group_by_split(files, path)
    zips = [path] if path.suffix == ".zip" else sorted(path.glob("*.zip")) if path.is_dir() else []
    if zips:
        return "zip", {"train": zips}
    if not path.is_dir():
        raise SourceError(f"{data} is not a parquet, tar or zip file; give a folder, .parquet, .tar or .zip")
    children = {child.name.lower(): child for child in sorted(path.iterdir()) if child.is_dir()}
    found = {SPLITS[name]: child for name, child in children.items() if name in SPLITS}
    if found and all(any(grandchild.is_dir() for grandchild in child.iterdir()) for child in found.values()):
        return "folders", found
    return "folders", {"train": path}


def _group_by_split(files: Sequence[Path], root: Path) -> dict[str, list[Path]]:
    """Group files by the split that their name, or folder, begins with; others are `train`."""
    groups: dict[str, list[Path]] = {}
    for file in files:
        parts = file.relative_to(root).parts if file != root else (file.name,)
        words = [re.split(r"[-_.]", part.lower())[0] for part in parts]
        split = next((SPLITS[word] for word in reversed(words) if word in SPLITS), "train")
        groups.setdefault(split, []).append(file)
    return groups


def validation_splits(splits: Sequence[str]) -> list[str]:
    """Return those of `splits` that are suited to evaluation, in order of preference."""
    return [name for name in VALIDATION if name in splits]


# ------------------------------------------------------------------ a distilled set


def _distilled(root: Path) -> Table:
    """The images of a distilled set, verified as they are read."""
    manifest = read_manifest(root)
    rows = [row for shard in manifest.shards for row in open_images(manifest, shard)]
    labels = np.array([record.label for record, _ in rows])
    return Table(lambda i: rows[i][1], labels, manifest.class_names, lambda i: f"row {i}")


# ------------------------------------------------------------------ class folders


def _folders(root: Path) -> Table:
    """A folder of class folders: the class is the first folder below the root, rows are sorted by path.

    A note lists what is ignored: files that are not images, and class folders without images. Hidden files are skipped.
    """
    folders = sorted(child for child in root.iterdir() if child.is_dir() and not child.name.startswith("."))
    if odd := next((child.name for child in folders if not _is_utf8(child.name)), None):
        raise SourceError(f"{root}: the name of folder {os.fsencode(odd)!r} is not UTF-8; rename it")
    paths: list[Path] = []
    labels: list[int] = []
    names: list[str] = []
    other: dict[str, int] = {}
    empty: list[str] = []
    for folder in folders:
        files = []
        for file in sorted(f for f in folder.rglob("*") if not f.name.startswith(".") and not f.is_dir()):
            if file.suffix.lower() in SUFFIXES and file.is_file():
                files.append(file)
            else:
                kind = "broken link" if not file.exists() else file.suffix.lower() or "no suffix"
                other[kind] = other.get(kind, 0) + 1
        if files:
            labels += [len(names)] * len(files)
            names.append(folder.name)
            paths += files
        else:
            empty.append(folder.name)
    loose = [f for f in root.iterdir() if f.is_file() and f.suffix.lower() in SUFFIXES and not f.name.startswith(".")]
    if not paths:
        raise SourceError(_no_images(root, other, len(loose)))
    ignored = _counted(other)
    ignored += [f"{len(loose)} {'image' if len(loose) == 1 else 'images'} outside class folders"] if loose else []
    ignored += [f"folders without images: {first_few(empty)}"] if empty else []
    if ignored:
        note(f"{root}: ignored: {'; '.join(ignored)}{_how_to_convert(other)}")
    return Table(
        lambda i: _image_file(paths[i]),
        np.array(labels),
        names,
        lambda i: str(paths[i].relative_to(root)),
        tuple(paths),
    )


def _no_images(root: Path, other: dict[str, int], loose: int) -> str:
    """Error message for a folder without images in class folders.

    Args:
        root: The folder.
        other: Number of files in class folders, by suffix.
        loose: Number of images outside class folders.
    """
    expected = f"expected {root}/CLASS/IMAGE.jpg"
    if not other:
        why = "its images are not in class folders" if loose else "it is empty or its folders are"
        return f"{root} holds no class folders with images ({why}); {expected}"
    message = f"the class folders of {root} hold no images that ddkit reads, only {first_few(_counted(other))}"
    message += f", and outside them {loose} that it reads" if loose else ""
    return message + (_how_to_convert(other) or f"; {expected}, of the suffixes {', '.join(sorted(SUFFIXES))}")


def _counted(files: dict[str, int]) -> list[str]:
    """Phrases such as `1 file (.txt)` and `3 files (.heic)`. files: number of files by suffix."""
    return [f"{count} {'file' if count == 1 else 'files'} ({kind})" for kind, count in sorted(files.items())]


def _how_to_convert(files: dict[str, int]) -> str:
    """How to convert images of formats that ddkit does not read, if any. files: number of files by suffix."""
    found = [suffix for suffix in UNREAD if suffix in files]
    if not found:
        return ""
    tool = "heif-convert" if found[0] in HEIF else "ImageMagick"
    return f"; save the {' and '.join(found)} files as JPEG or PNG to use them, for example with {tool}"


def _is_utf8(name: str) -> bool:
    return os.fsencode(name) == name.encode("utf-8", "replace")


def _image_file(path: Path) -> bytes:
    """The bytes of an image file. Raises OSError if it is too large or cannot be read."""
    data = read_limited(path, LARGEST_BYTES)
    if data is None:
        raise OSError(f"it has more than {LARGEST_BYTES} bytes")
    return data


def _zipped(files: list[Path]) -> Table:
    """Class folders inside zip files."""
    archive = Archive(files)
    folders = archive.class_folders()
    names = sorted(set(folders))
    index = {name: i for i, name in enumerate(names)}
    labels = np.array([index[folder] for folder in folders])
    return Table(archive.read, labels, names, archive.names.__getitem__, tuple(files))


# ------------------------------------------------------------------ parquet and tar, through `datasets`


def _dataset(
    data: str,
    kind: str,
    files: list[Path],
    image_column: str | None,
    label_column: str | None,
    features: Any,
    again: bool,
) -> Table:
    import datasets
    import pyarrow

    table = _loaded(data, kind, files, features, again)
    image = _find_column(data, table, image_column, "image", datasets.Image, _IMAGE_NAMES)
    label = _find_column(data, table, label_column, "label", datasets.ClassLabel, _LABEL_NAMES)
    try:
        labels, names = _labels(table, label)
    except (OverflowError, TypeError, ValueError) as error:
        raise SourceError(
            f"column {label!r} of {data} holds no classes ({error}); name another with --label-column"
        ) from error
    if isinstance(table.features[image], datasets.Value) and "string" in str(table.features[image].dtype):
        raise SourceError(
            f"column {image!r} of {data} holds text, perhaps paths: ddkit reads images, not files that a table names; "
            "make class folders of them, or save the table with the images in it"
        )
    try:
        encoded = table.select_columns([image]).cast_column(image, datasets.Image(decode=False))
    except (pyarrow.ArrowException, TypeError, ValueError) as error:
        held = table.features[image]
        raise SourceError(
            f"column {image!r} of {data} holds {held}, not images; name another with --image-column"
        ) from error

    fetched = {str(file) for file in files} if kind == "imagefolder" else set()  # paths that cells may refer to

    def raw(i: int) -> bytes:
        try:
            cell = encoded[int(i)][image]
        except UnicodeDecodeError as error:
            raise OSError(f"the cell holds text that is not UTF-8 ({error.reason})") from error
        if cell is None or (cell["bytes"] is None and cell["path"] is None):
            raise OSError("the cell is empty")
        if cell["bytes"] is not None:
            found: bytes = cell["bytes"]
            return found
        if cell["path"] not in fetched:
            raise OSError("the cell names a file instead of holding an image; ddkit does not open it")
        return _image_file(Path(cell["path"]))

    return Table(raw, labels, names, lambda i: f"row {i}", tuple(files))


def _loaded(data: str, kind: str, files: list[Path], features: Any, again: bool) -> Dataset:
    """Load files with a builder of `datasets`. again: ignore its cache. Raises SourceError."""
    import datasets

    datasets.disable_progress_bars()
    for file in files if kind == "webdataset" else ():
        check_tar(file)
    try:
        named = {"train": [str(file) for file in files]}
        # Part of the cache key of `datasets`, which otherwise depends on names and mtimes only.
        kept_as = fingerprint([stamp(file) for file in files])[:16]
        mode = datasets.DownloadMode.FORCE_REDOWNLOAD if again else None
        return datasets.load_dataset(
            kind, kept_as, data_files=named, split="train", features=features, download_mode=mode
        )
    except Exception as error:  # builders raise arbitrary exceptions
        reason = str(error.__cause__ or error).splitlines()[0]
        raise SourceError(f"{data} cannot be opened as {kind}: {reason}; check that the files are complete") from error


def _find_column(data: str, table: Dataset, asked: str | None, what: str, kind: type, names: tuple[str, ...]) -> str:
    """The image or label column: as requested, else the only one of its type, else the only one of its usual names."""
    option, columns = f"--{what}-column", table.column_names
    if asked is not None:
        if asked not in columns:
            raise SourceError(f"{data} has no column {asked!r} ({option}); it has {', '.join(columns)}")
        return asked
    typed = [name for name, feature in table.features.items() if isinstance(feature, kind)]
    candidates = typed or [name for name in columns if name.lower() in names]
    if len(candidates) == 1:
        found: str = candidates[0]
        return found
    found = f"several {what} columns ({', '.join(candidates)})" if candidates else f"no {what} column"
    raise SourceError(f"{data} has {found} among {', '.join(columns)}; name it with {option}")


def _labels(table: Dataset, column: str) -> tuple[np.ndarray, list[str]]:
    """int64 labels (-1: none) and class names: those of the ClassLabel, else the sorted distinct values."""
    from datasets import ClassLabel

    feature = table.features[column]
    values = table.select_columns([column]).with_format("arrow")[:].column(column).to_pylist()
    if isinstance(feature, ClassLabel):
        labels = np.array([-1 if v is None else v for v in values], np.int64)
        if len(labels) and (labels.min() < -1 or labels.max() >= feature.num_classes):
            raise SourceError(
                f"column {column!r} holds {labels.min()} to {labels.max()}, not the {feature.num_classes} classes"
            )
        return labels, list(feature.names)
    if all(isinstance(v, int) or v is None for v in values):
        values = [None if v is None or v < 0 else str(int(v)) for v in values]
        return _by_name(values, sorted({v for v in values if v is not None}, key=int))
    if not all(isinstance(v, str) or v is None for v in values):
        raise SourceError(f"column {column!r} holds {feature}, which is not a class; name another with --label-column")
    return _by_name(values, sorted({v for v in values if v is not None}))


def _by_name(values: Sequence[str | None], names: list[str]) -> tuple[np.ndarray, list[str]]:
    index = {name: i for i, name in enumerate(names)}
    return np.array([-1 if v is None else index[v] for v in values], np.int64), names
