"""`ddkit export`: writes a source, or the images of a set, as tar shards, class folders or parquet."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import yaml

from ddkit.core.console import note, progress
from ddkit.core.files import atomic_file, disk_errors, host, is_abandoned, is_temporary, write_bytes
from ddkit.errors import OptionError, OtherRun, SourceError, first_few, unknown
from ddkit.format.images import encode_image
from ddkit.sources.classes import match_classes, unique_names
from ddkit.sources.images import Source, SourceRef, reopen
from ddkit.sources.packed import pack_split, suffix_of, write_index
from ddkit.sources.tables import splits_of
from ddkit.specs import ClassName
from ddkit.text import one_printable_line

Rows = Iterator[tuple[bytes | np.ndarray, int]]  # image and label
CLASSES_FILE = "classes.txt"
LONGEST_FOLDER = 200  # bytes of a class folder's name; most file systems allow 255
PARQUET_ROWS = 1000  # per row group, which a reader loads at once


def export(
    data: str,
    out: str | Path,
    *,
    as_: str = "shards",
    folder_names: str = "numbers",
    image_column: str | None = None,
    label_column: str | None = None,
) -> int:
    """Export every labelled split of a source, or the images of a set; returns the number of images.

    Images keep their encoded bytes. `out` is complete at the end of an export, or does not exist.

    Args:
        data: The source or set.
        out: A new or empty folder.
        as_: `shards`: tar files of images and classes, which ddkit can open as a source even without `datasets`.
            `folder`: class folders, below the name of the split if there are several, with the names of the classes in
            label order in `classes.txt`. `parquet`: one file per split with the columns image and label, for
            `load_dataset`.
        folder_names: Names of class folders: `numbers`, in label order, or `names`, those of the classes, changed where
            a file system does not allow them.
        image_column: Column of the images in a table; default: determined from types and names.
        label_column: Column of the labels, likewise.

    Raises:
        OtherRun: `out` is not empty.
        SourceError, OptionError, ImagesUnreadable, DiskError.
    """
    if as_ not in WRITERS:
        raise unknown("--as", as_, WRITERS)
    if folder_names not in ("numbers", "names"):
        raise unknown("--folder-names", folder_names, ("numbers", "names"))
    if folder_names == "names" and as_ != "folder":
        raise OptionError(f"--folder-names names is for --as folder; --as {as_} writes no class folders")
    out = Path(out)
    splits: dict[str, Source] = {}
    for split in splits_of(data):
        source = reopen(SourceRef(data=data, split=split, image_column=image_column, label_column=label_column))
        if len(source):  # a test split may have hidden labels only
            splits[split] = source
    if not splits:
        raise SourceError(f"{data} has no labelled images; nothing to export")
    names = next(iter(splits.values())).classes
    rows = {split: _rows(source, names, split) for split, source in splits.items()}
    with all_or_nothing(out) as unfinished:
        if as_ == "folder":
            _as_folder(unfinished, names, rows, folder_names)
        else:
            WRITERS[as_](unfinished, names, rows)
    return sum(len(source) for source in splits.values())


@contextlib.contextmanager
def all_or_nothing(out: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `out` that is renamed to `out` if the block succeeds.

    If `out` exists (it may be a mount point or the current folder), the temporary folder lies in it and its entries are
    moved at the end. Temporary folders of processes of this machine that no longer run are removed.

    Args:
        out: A new or empty folder.

    Raises:
        OtherRun: `out` is not empty.
        DiskError: It cannot be written.
    """
    if out.exists() and (not out.is_dir() or any(not is_temporary(path) for path in out.iterdir())):
        raise OtherRun(f"{out} is not empty; give the name of a new directory")
    with disk_errors(out):
        inside = out.is_dir()
        parent = out if inside else out.absolute().parent
        parent.mkdir(parents=True, exist_ok=True)
        begin = f".{out.absolute().name[:40]}.export."
        unfinished = parent / f"{begin}{host()}.{os.getpid()}.tmp"
        for path in [path for path in parent.iterdir() if path.name.startswith(begin) and path.is_dir()]:
            if path == unfinished or is_abandoned(path):
                shutil.rmtree(path)
        unfinished.mkdir()
    try:
        yield unfinished
        with disk_errors(out):
            if hasattr(os, "sync"):
                os.sync()  # once, since fsync of every file takes longer than writing them
            if inside:
                for path in sorted(unfinished.iterdir(), key=lambda path: path.is_file()):  # classes.txt last
                    path.rename(out / path.name)
            else:
                unfinished.rename(out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _rows(source: Source, names: list[ClassName], split: str) -> Rows:
    """Yield (image, label) of a split, with labels in the order of `names`."""
    order = match_classes(names, source.classes, what=f"{source.ref.data} {split}")
    place = {int(theirs): mine for mine, theirs in enumerate(order)}
    with progress(f"exporting {split}", len(source), "images") as advance:
        for i in range(len(source)):
            yield source.encoded(i), place[int(source.labels[i])]
            advance(1)


def _bytes(image: bytes | np.ndarray) -> bytes:
    return encode_image(image) if isinstance(image, np.ndarray) else image


def _as_shards(out: Path, names: list[ClassName], splits: dict[str, Rows]) -> None:
    packed = {split: pack_split(out, split, rows) for split, rows in splits.items()}
    files = [{"split": split, "path": [entry["path"] for entry in entries]} for split, entries in packed.items()]
    card = yaml.safe_dump({"configs": [{"config_name": "default", "data_files": files}]}, sort_keys=False)
    write_bytes(out / "README.md", f"---\n{card}---\nTar shards written by `ddkit export`.\n".encode())
    write_index(out, [{"name": c.name, "id": c.id} for c in names], packed)


def _as_folder(out: Path, names: list[ClassName], splits: dict[str, Rows], folder_names: str = "numbers") -> None:
    width = max(5, len(str(len(names) - 1)))
    numbers = [f"{label:0{width}d}" for label in range(len(names))]
    folders = numbers if folder_names == "numbers" else _folders_by_name(unique_names(names))
    for split, rows in splits.items():
        root = out / split if len(splits) > 1 else out
        made: set[int] = set()
        for i, (image, label) in enumerate(rows):
            data = _bytes(image)
            with disk_errors(out):
                if label not in made:
                    (root / folders[label]).mkdir(parents=True)
                    made.add(label)
                (root / folders[label] / f"{i:08d}.{suffix_of(data)}").write_bytes(data)
    write_bytes(out / CLASSES_FILE, "".join(f"{c.name}\n" for c in names).encode())


def _folders_by_name(names: Sequence[str]) -> list[str]:
    """Folder names for classes: without characters that a file system forbids, unique ignoring case."""
    taken: set[str] = {CLASSES_FILE}
    folders: list[str] = []
    for label, name in enumerate(names):
        plain = (
            re.sub(r'[/\\:*?"<>|]+', "-", one_printable_line(name)).encode()[:LONGEST_FOLDER].decode("utf-8", "ignore")
        )
        plain = plain.strip(". ") or f"class {label}"
        folder, number = plain, label
        while _caseless(folder) in taken:
            folder, number = f"{plain} ({number})", number + 1
        taken.add(_caseless(folder))
        folders.append(folder)
    changed = [f"{folder} for {name}" for name, folder in zip(names, folders) if folder != name]
    if changed:
        note(f"classes whose names cannot be those of folders get others: {first_few(changed)}")
    return folders


def _caseless(name: str) -> str:
    """The normal form of a name on file systems that ignore case."""
    return unicodedata.normalize("NFC", name.casefold())


def _as_parquet(out: Path, names: list[ClassName], splits: dict[str, Rows]) -> None:
    import pyarrow
    from datasets import ClassLabel, Features, Image
    from pyarrow import parquet

    features = Features({"image": Image(), "label": ClassLabel(names=unique_names(names))})
    for split, rows in splits.items():
        schema, path = features.arrow_schema, out / f"{split}-00000-of-00001.parquet"
        with atomic_file(path) as temporary, parquet.ParquetWriter(temporary, schema) as writer:
            while batch := [row for _, row in zip(range(PARQUET_ROWS), rows)]:
                images = [{"bytes": _bytes(image), "path": None} for image, _ in batch]
                table = {"image": images, "label": [label for _, label in batch]}
                writer.write_table(pyarrow.Table.from_pydict(table, schema=schema))


WRITERS: dict[str, Callable[[Path, list[ClassName], dict[str, Rows]], None]] = {
    "shards": _as_shards,
    "folder": _as_folder,
    "parquet": _as_parquet,
}
