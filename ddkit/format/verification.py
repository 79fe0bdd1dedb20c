"""Checking a set against its manifest: every shard, every row, every member. Says which one is wrong."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ddkit.core.console import progress
from ddkit.core.device import cores
from ddkit.core.files import read_limited
from ddkit.errors import IntegrityError
from ddkit.format.damage import images_beside, images_problem, mapped, row_records
from ddkit.format.entries import ShardEntry
from ddkit.format.manifest import Manifest
from ddkit.format.manifest_file import read_manifest
from ddkit.format.reading import SetReader
from ddkit.format.row_records import member

LARGEST_RENDERED = 4 * 2**20  # bytes of a card or `_info.json` that are looked at


def directory_problems(directory: str | Path, on_shard: Callable[[int], None] | None = None) -> list[str]:
    """Compare a set with its manifest: bytes, row records, counts, and that every row reads as the format says.

    Returns every problem, one line each, naming shard, row and member; an empty list means all is well.
    Raises SetError, FormatVersion, or IntegrityError where the manifest itself cannot be trusted.
    """
    return set_problems(read_manifest(directory), on_shard)


def set_problems(manifest: Manifest, on_shard: Callable[[int], None] | None = None) -> list[str]:
    """As `directory_problems`, of a manifest at hand, which need not be written yet."""
    problems: list[str] = []
    reader, first, good = SetReader(manifest, thorough=True), 0, True
    shards = manifest.shards
    with ThreadPoolExecutor(cores()) as pool, progress("verifying", len(shards), "shards") as advance:
        for number, shard in enumerate(shards):
            try:
                for _ in reader.shard(shard, first, pool):
                    pass
                problem = images_problem(manifest, shard) or _other_images(manifest, shard)
            except IntegrityError as error:
                problem = bare(manifest, error)
            good = good and problem is None
            last = number + 1 == len(shards) or shards[number + 1].prefix != shard.prefix
            if last and good:
                problem = reader.prefix_problem(shard.prefix)
            if problem:
                problems.append(problem)
            first += shard.rows
            (on_shard or advance)(1)
    return problems


def bare(manifest: Manifest, error: IntegrityError) -> str:
    """What an error says is wrong, without the set's name and the next step."""
    text = str(error).removeprefix(f"{manifest.where}: ")
    return text.removesuffix("; fetch the set again").removesuffix("; fetch or make the set again")


def _other_images(manifest: Manifest, shard: ShardEntry) -> str | None:
    """Whether the tar without labels holds other images than the shard."""
    if shard.images is None:
        return None
    tar = mapped(manifest.root / shard.path)
    pairs = zip(row_records(manifest, shard), images_beside(manifest, shard))
    if any(member(tar, record.image) != image for record, (_, image) in pairs):
        return f"{shard.images.path}: its images are not those of {shard.path}"
    return None


def stale_files(manifest: Manifest) -> list[str]:
    """The rendered files (card, `_info.json`) that are missing or of another content than the manifest: no failure,
    the next `distill` or `card` makes them anew."""
    content, stale = manifest.content, []
    for name in ("README.md", "_info.json"):
        path = manifest.root / name
        text = read_limited(path, LARGEST_RENDERED) if path.is_file() else None
        if text is None or content.encode() not in text:
            stale.append(name)
    return stale
