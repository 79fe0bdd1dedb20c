"""Opens what a loader replays: chooses the store, joins sets, selects classes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import numpy as np

from ddkit.core.device import available_memory
from ddkit.errors import OptionError, SetError, unknown
from ddkit.format.damage import row_records
from ddkit.format.entries import ShardEntry, files_of
from ddkit.format.manifest import Manifest
from ddkit.format.row_format import RowFormat
from ddkit.replay.dataset_rows import VIEWS_COLUMNS, column, row_key_of
from ddkit.replay.stores.dataset import load_dataset_rows
from ddkit.replay.stores.interface import RowStore
from ddkit.replay.stores.mapped import MappedStore
from ddkit.replay.stores.memory import load_sets
from ddkit.replay.stores.subset import SubsetStore
from ddkit.sets.opening import fetch_files, fetch_label_file, open_manifest

if TYPE_CHECKING:
    from datasets import Dataset

Source: TypeAlias = Union[str, Path, "Dataset", Manifest]

STORES = ("auto", "memory", "mapped", "streaming")
SHARE = 4  # "auto" keeps a set in memory if it takes at most the available memory divided by this


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a loader is asked for beside the source; the attributes are arguments of ReplayLoader."""

    manifest: str | Path | None
    ipc: int | None
    revision: str | None
    store: str
    classes: Sequence[str | int] | None


def open_store(source: Source | Sequence[Source], asked: Request) -> tuple[Manifest | None, RowStore]:
    """Open a source.

    Args:
        source: As for ReplayLoader.
        asked: What is asked for.

    Returns:
        The manifest, of joined sets that of the first, or None for a Dataset without one; and the store, on the CPU.

    Raises:
        SetError, IntegrityError, FormatVersion, OptionError, HubAccess, HubError.
    """
    if asked.store not in STORES:
        raise unknown("store", str(asked.store), STORES)
    sources = list(source) if isinstance(source, list | tuple) else [source]
    known: Manifest | None
    store: RowStore
    if len(sources) == 1 and not isinstance(sources[0], str | Path | Manifest):
        known, store = _open_dataset(sources[0], asked)
    else:
        if asked.manifest is not None:
            raise OptionError("manifest= belongs to a datasets.Dataset; a directory or Hub id has its own")
        manifests = [_open_manifest(one, asked.revision) for one in sources]
        if not manifests:
            raise SetError("source is an empty list; give a directory, a Hub id, or a list of them")
        for other in manifests[1:]:
            _require_equal(manifests[0], other)
        unfetched = [
            isinstance(one, str | Path) and bool(manifest.location.hub_id) for one, manifest in zip(sources, manifests)
        ]
        known, store = manifests[0], _open_sets(manifests, unfetched, asked)
    if asked.classes is not None:
        store = SubsetStore(store, asked.classes, known.where if known else "the dataset")
    return known, store


def _open_dataset(source: Any, asked: Request) -> tuple[Manifest | None, RowStore]:
    if isinstance(source, Mapping):
        raise SetError(f'source holds the splits {", ".join(map(str, source))}; pass one of them, as in ["train"]')
    if not hasattr(source, "column_names"):
        raise SetError(f"source is a {type(source).__name__}; give a directory or a datasets.Dataset")
    if asked.store not in ("auto", "memory"):
        raise OptionError(f'a datasets.Dataset is replayed from memory; leave out store="{asked.store}"')
    known = open_manifest(asked.manifest) if asked.manifest is not None else None
    if known is not None:
        fetch_label_file(known)
        if known.labels.file is not None:
            _require_rows_of(known, source)
    if asked.ipc is not None:
        raise OptionError("ipc= needs a directory; of a Dataset load the config of that prefix, for example 'ipc5'")
    return known, load_dataset_rows(source, known)


def _require_rows_of(manifest: Manifest, dataset: Dataset) -> None:
    """Check that the first row of a dataset is one of a set, whose file of labels is needed to decode it."""
    row = next(iter(dataset.with_format(None)), None)
    if row is None:
        return
    key, views = row_key_of(row), row[column(row, VIEWS_COLUMNS, "views")]
    ends = np.cumsum([shard.rows for shard in manifest.shards])
    if key < ends[-1]:
        shard = manifest.shards[int(np.searchsorted(ends, key, side="right"))]
        if manifest.location.hub_id is not None:
            fetch_files(manifest, manifest.location.hub_id, {shard.rows_path: shard.rows_sha256})
        if not (manifest.root / shard.rows_path).is_file():  # a folder with the manifest and the labels alone
            return
        known = {record.row: record.views.sha256 for record in row_records(manifest, shard)}
        if isinstance(views, bytes) and hashlib.sha256(views).hexdigest() == known.get(key):
            return
    raise SetError(
        f"the dataset's rows are not those of {manifest.where}; give the directory or Hub id of the same set"
    )


def _open_manifest(source: Any, revision: str | None) -> Manifest:
    if isinstance(source, Manifest):
        return source
    if isinstance(source, str | Path):
        return open_manifest(source, revision)
    raise SetError(f"source is a list that holds {source!r:.40}; give directories and Hub ids")


def _open_sets(manifests: Sequence[Manifest], unfetched: Sequence[bool], asked: Request) -> RowStore:
    """Open sets. unfetched: for each whether its files may still have to be fetched from the Hub."""
    kind = asked.store
    if kind == "auto":
        large = sum(memory_needed(manifest, asked.ipc) for manifest in manifests) > available_memory() // SHARE
        streams = any(unfetched) and asked.classes is None
        kind = "memory" if not large else "streaming" if streams else "mapped"
    if kind == "streaming":
        if not any(unfetched):
            raise OptionError('store="streaming" is for a set on the Hub; replay a directory with store="mapped"')
        if asked.classes is not None:
            raise OptionError('classes= reads the labels of all rows first; use store="mapped"')
        for manifest in manifests:
            fetch_label_file(manifest)
        return MappedStore(manifests, asked.ipc, _fetch_shard)
    for manifest in (manifest for manifest, there in zip(manifests, unfetched) if there):
        fetch_files(manifest, str(manifest.location.hub_id), manifest.files(asked.ipc, images=False))
    return load_sets(manifests, asked.ipc) if kind == "memory" else MappedStore(manifests, asked.ipc)


def _fetch_shard(manifest: Manifest, shard: ShardEntry) -> None:
    """Fetch the files of one shard, unless they are in the client's cache, and compare them with the manifest."""
    if manifest.location.hub_id is not None:
        fetch_files(manifest, manifest.location.hub_id, files_of([shard], images=False))


def memory_needed(manifest: Manifest, ipc: int | None = None) -> int:
    """Return the bytes that the decoded images, views and labels of a set take.

    Args:
        manifest: The set.
        ipc: The prefix; None: the whole set.
    """
    form = RowFormat.of(manifest)
    return manifest.rows(ipc) * (3 * form.height * form.width + form.tensor_bytes)


def _require_equal(first: Manifest, other: Manifest) -> None:
    """Check that two sets can be joined."""
    for what, a in _compared(first).items():
        if a != (b := _compared(other)[what]):
            raise SetError(
                f"{first.where} and {other.where} cannot be joined: their {what} differ ({a!s:.60} and {b!s:.60}); "
                "replay them with a loader each"
            )


def _compared(manifest: Manifest) -> dict[str, Any]:
    """What joined sets have in common, by its name in messages."""
    form, seen = RowFormat.of(manifest), manifest.normalisation
    return {
        "teachers (hash of the weights)": manifest.teacher.hash,
        "classes": [(c.name, c.id) for c in manifest.classes],
        "view sizes": form.size,
        "normalisations": (tuple(seen.mean), tuple(seen.std)),
        "image sizes": (form.height, form.width),
        "label codecs": manifest.labels.codec,
        "views": {name: shape for name, (_, shape) in form.shapes.items()},
    }
