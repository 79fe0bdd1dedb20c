"""Verifies a set against its manifest: every shard, row and member. Problems name the damaged part."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ddkit.core.console import progress
from ddkit.core.device import cores
from ddkit.core.files import read_limited
from ddkit.errors import IntegrityError
from ddkit.format.damage import REMEDY, images_beside, images_problem, mapped, row_records
from ddkit.format.entries import ShardEntry
from ddkit.format.label_file import label_file_problem
from ddkit.format.manifest import Manifest
from ddkit.format.manifest_file import read_manifest
from ddkit.format.reading import SetReader
from ddkit.format.row_records import member

LARGEST_RENDERED = 4 * 2**20  # bytes of a card or `_info.json` that are read


def directory_problems(directory: str | Path, on_shard: Callable[[int], None] | None = None) -> list[str]:
    """Compare a set with its manifest: hashes, row records, counts, and the content of every row.

    Args:
        directory: Directory of the set.
        on_shard: Called with 1 after each shard; default: a progress bar.

    Returns:
        All problems, one line each, naming shard, row and member; empty if the set is intact.

    Raises:
        SetError, FormatVersion.
        IntegrityError: The manifest itself is damaged.
    """
    return set_problems(read_manifest(directory), on_shard)


def set_problems(manifest: Manifest, on_shard: Callable[[int], None] | None = None) -> list[str]:
    """Verify the set of a manifest in memory, which need not be written yet; otherwise as `directory_problems`.

    Args:
        manifest: Manifest of the set.
        on_shard: Called with 1 after each shard; default: a progress bar.
    """
    problems = [problem] if (problem := label_file_problem(manifest)) else []
    reader, first, good = SetReader(manifest, thorough=True), 0, True
    shards = manifest.shards
    with ThreadPoolExecutor(cores()) as pool, progress("verifying", len(shards), "shards") as advance:
        for number, shard in enumerate(shards):
            try:
                for _ in reader.shard(shard, first, pool):
                    pass
                problem = images_problem(manifest, shard) or _other_images(manifest, shard)
            except IntegrityError as error:
                problem = _without_remedy(manifest, error)
            good = good and problem is None
            last = number + 1 == len(shards) or shards[number + 1].prefix != shard.prefix
            if last and good:
                problem = reader.prefix_problem(shard.prefix)
            if problem:
                problems.append(problem)
            first += shard.rows
            (on_shard or advance)(1)
    return problems


def _without_remedy(manifest: Manifest, error: IntegrityError) -> str:
    """Return the message of an error without the set's name and the suggested next step.

    Args:
        manifest: Manifest of the set.
        error: An error about it.
    """
    text = str(error).removeprefix(f"{manifest.where}: ")
    return text.removesuffix("; fetch the set again").removesuffix(f"; {REMEDY}")


def _other_images(manifest: Manifest, shard: ShardEntry) -> str | None:
    """Whether the tar without labels holds other images than the shard, as a message; None if not."""
    if shard.images is None:
        return None
    tar = mapped(manifest.root / shard.path)
    pairs = zip(row_records(manifest, shard), images_beside(manifest, shard))
    if any(member(tar, record.image) != image for record, (_, image) in pairs):
        return f"{shard.images.path}: its images are not those of {shard.path}"
    return None


def stale_files(manifest: Manifest) -> list[str]:
    """Return the rendered files (card, `_info.json`) that are missing or do not contain the manifest's content hash.

    They do not make a set invalid; the next `distill` or `card` writes them again.

    Args:
        manifest: Manifest of the set.
    """
    content, stale = manifest.content, []
    for name in ("README.md", "_info.json"):
        path = manifest.root / name
        text = read_limited(path, LARGEST_RENDERED) if path.is_file() else None
        if text is None or content.encode() not in text:
            stale.append(name)
    return stale
