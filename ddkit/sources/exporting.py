"""`ddkit export`: a source, or the images of a set, written for others: tar shards, class folders or parquet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import yaml

from ddkit.core.console import progress
from ddkit.core.files import atomic_file, is_temporary, write_bytes
from ddkit.errors import OtherRun, SourceError, unknown
from ddkit.format.images import encode_image
from ddkit.sources.classes import match_classes, unique_names
from ddkit.sources.images import Source, SourceRef, reopen
from ddkit.sources.packed import pack_split, suffix_of, write_index
from ddkit.sources.tables import splits_of
from ddkit.specs import ClassName

Rows = Iterator[tuple[bytes | np.ndarray, int]]  # image and label
PARQUET_ROWS = 1000  # of a row group: what a reader takes into memory at once


def export(
    data: str,
    out: str | Path,
    *,
    as_: str = "shards",
    image_column: str | None = None,
    label_column: str | None = None,
) -> int:
    """Write a source, or the images of a set, into the new folder `out`, every labelled split; returns the image count.

    as_: `shards`, tar files of images and classes, which are a source again also where `datasets` is not installed;
    `folder`, class folders numbered in label order with `classes.txt`, below the split's name where there are several;
    `parquet`, one file a split with columns image and label, which `load_dataset` opens. Images keep their bytes.
    Raises SourceError, OptionError, OtherRun (out is not empty), ImagesUnreadable, DiskError.
    """
    if as_ not in WRITERS:
        raise unknown("--as", as_, WRITERS)
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(not is_temporary(path) for path in out.iterdir())):
        raise OtherRun(f"{out} is not empty; give the name of a new directory")
    splits: dict[str, Source] = {}
    for split in splits_of(data):
        source = reopen(SourceRef(data=data, split=split, image_column=image_column, label_column=label_column))
        if len(source):  # else a test split whose labels are hidden
            splits[split] = source
    if not splits:
        raise SourceError(f"{data} has no labelled images; nothing to export")
    names = next(iter(splits.values())).classes
    rows = {split: _rows(source, names, split) for split, source in splits.items()}
    WRITERS[as_](out, names, rows)
    return sum(len(source) for source in splits.values())


def _rows(source: Source, names: list[ClassName], split: str) -> Rows:
    """Image and label, in the order of `names`."""
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


def _as_folder(out: Path, names: list[ClassName], splits: dict[str, Rows]) -> None:
    width = max(5, len(str(len(names) - 1)))
    for split, rows in splits.items():
        root = out / split if len(splits) > 1 else out
        for i, (image, label) in enumerate(rows):
            data = _bytes(image)
            write_bytes(root / f"{label:0{width}d}" / f"{i:08d}.{suffix_of(data)}", data)
    write_bytes(out / "classes.txt", "".join(f"{c.name}\n" for c in names).encode())


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
