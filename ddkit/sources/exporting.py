"""`ddkit export`: a source written as tar shards, which is a source again (packed.py)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ddkit.errors import OtherRun, SourceError
from ddkit.runtime import is_temporary, progress
from ddkit.sources.classes import match_classes
from ddkit.sources.images import Source, SourceRef, reopen
from ddkit.sources.packed import pack_split, write_index
from ddkit.sources.tables import splits_of
from ddkit.specs import ClassName

Row = tuple[bytes | np.ndarray, int]


def export(data: str, out: str | Path, *, image_column: str | None = None, label_column: str | None = None) -> int:
    """Write a source as tar shards into the new folder `out`, every labelled split; returns the images written.

    Images keep their bytes. What comes out is a source again, also where `datasets` is not installed (sources/packed).
    Raises SourceError, OtherRun (out is not empty), ImagesUnreadable, DiskError.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(not is_temporary(path) for path in out.iterdir())):
        raise OtherRun(f"{out} is not empty; give the name of a new directory")
    splits, total = {}, 0
    names: list[ClassName] = []
    for split in splits_of(data):
        ref = SourceRef(data=data, split=split, image_column=image_column, label_column=label_column)
        source = reopen(ref)
        if not len(source):
            continue  # a test split whose labels are hidden
        names = names or source.classes
        order = match_classes(names, source.classes, what=f"{data} {split}")
        place = {int(theirs): mine for mine, theirs in enumerate(order)}
        with progress(f"exporting {split}", len(source), "images") as advance:

            def rows(
                source: Source = source, place: dict[int, int] = place
            ) -> Iterator[tuple[bytes | np.ndarray, int]]:
                for i in range(len(source)):
                    yield source.encoded(i), place[int(source.labels[i])]
                    advance(1)  # noqa: B023 (used up inside the loop)

            splits[split] = pack_split(out, split, rows())
        total += len(source)
    if not splits:
        raise SourceError(f"{data} has no labelled images; nothing to export")
    write_index(out, [{"name": c.name, "id": c.id} for c in names], splits)
    return total
