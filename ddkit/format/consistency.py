"""Checks of a manifest that involve several values: prefixes, shards, views, results."""

from __future__ import annotations

import itertools
import math

from ddkit.errors import OptionError, first_few
from ddkit.format.codecs.interface import layout_bytes
from ddkit.format.codecs.registry import find_codec
from ddkit.format.entries import images_path, shard_path, shard_rows, shard_sizes
from ddkit.format.manifest import Manifest
from ddkit.format.views_member import LARGEST_HEADER
from ddkit.specs import Protocol

LARGEST_SHARD = 32 * 2**30  # bytes
LARGEST_TEACHER = 16 * 2**30  # bytes
LARGEST_ROW = 2**28  # bytes of the labels of one image


def manifest_problem(manifest: Manifest) -> str | None:
    """Return the first inconsistency in a manifest, or None.

    Args:
        manifest: A manifest whose single values are valid.
    """
    checks = (_labels_problem, _shards_problem, _pixels_problem, _results_problem)
    return next((problem for check in checks if (problem := check(manifest))), None)


def _labels_problem(manifest: Manifest) -> str | None:
    """The first inconsistency between codec, classes and shared file, or None. Raises FormatVersion."""
    codec, classes, file = find_codec(manifest.labels.codec, stored=True), len(manifest.classes), manifest.labels.file
    try:
        codec.check(classes)
    except OptionError as error:
        return str(error)
    if codec.name != manifest.labels.codec:
        return f"labels.codec is {manifest.labels.codec}, which is written {codec.name}"
    shared = codec.shared_layout(classes)
    due = "teacher.safetensors" if codec.FROM_PIXELS else "labels.safetensors" if shared else None
    if due != (file.path if file else None):
        return f"labels.file is {file.path if file else None}, {due} belongs to codec {codec.name}"
    most = LARGEST_TEACHER if codec.FROM_PIXELS else layout_bytes(shared) + LARGEST_HEADER
    if file and file.bytes > most:
        return f"{file.path} has {file.bytes} bytes, at most {most} are due"
    return None


def _shards_problem(manifest: Manifest) -> str | None:
    """The first inconsistency between prefixes and shards, or None."""
    prefixes, shards, classes = list(manifest.prefixes), manifest.shards, len(manifest.classes)
    if sorted(set(prefixes)) != prefixes or prefixes[-1] != manifest.ipc:
        return f"prefixes are {first_few(prefixes)}, which do not increase up to its ipc {manifest.ipc}"
    if manifest.shard_rows != shard_rows(manifest.image.size):
        return f"shard_rows is {manifest.shard_rows}, {shard_rows(manifest.image.size)} at {manifest.image.size} px"
    increments = [(prefix, list(mine)) for prefix, mine in itertools.groupby(shards, lambda shard: shard.prefix)]
    if [prefix for prefix, _ in increments] != prefixes:
        order = dict.fromkeys(prefix for prefix, _ in increments)
        return f"shards are of prefixes {first_few(order)}, not of {first_few(prefixes)}"
    for low, (prefix, mine) in zip((0, *prefixes), increments):
        due, rows = (prefix - low) * classes, [shard.rows for shard in mine]
        if len(mine) != -(-due // manifest.shard_rows) or rows != shard_sizes(due, manifest.shard_rows):
            return f"shards of ipc {prefix} hold {first_few(rows)} rows, {due} are due"
        for number, shard in enumerate(mine):
            path = shard_path(prefix, number)
            if shard.path != path:
                return f"shard {number} of ipc {prefix} is {shard.path}, not {path}"
            if shard.images and shard.images.path != images_path(path):
                return f"the images of {path} are {shard.images.path}"
    if manifest.image_tars != all(shard.images for shard in shards):
        return f"image_tars is {manifest.image_tars}, its shards say otherwise"
    most = largest_row(manifest)
    for shard in shards:
        for entry in (shard, shard.images):
            if entry and (entry.bytes > shard.rows * most + 20480 or entry.bytes > LARGEST_SHARD):
                return f"{entry.path} has {entry.bytes} bytes, more than {shard.rows} rows can have"
    return None


def largest_row(manifest: Manifest) -> int:
    """Return an upper bound for the bytes of a row in a tar: an incompressible image, its metadata, views and labels.

    Args:
        manifest: Its size of images, view count, classes and codec are read.
    """
    side, views, codec = manifest.image.size, manifest.views.count, find_codec(manifest.labels.codec, stored=True)
    image = 6 * side * side + 2**20
    return image + layout_bytes(codec.layout(views, len(manifest.classes))) + views * 300 + 2**16


def _pixels_problem(manifest: Manifest) -> str | None:
    """The first problem with the images, the augmentation policy, the protocol or the normalisation, or None."""
    views, image, classes = manifest.views, manifest.image, len(manifest.classes)
    try:
        assert views.policy
        if definition := manifest.recommended.definition:
            Protocol.from_table(definition, "recommended.definition")
    except (ValueError, OptionError) as error:
        return f"views: {error}" if isinstance(error, ValueError) else str(error)
    factor = math.isqrt(image.patches)
    if factor * factor != image.patches or image.patches > 256 or image.size % factor:
        return f"image.patches is {image.patches}, of images of {image.size} px"
    if views.count * classes * 4 > LARGEST_ROW:
        return f"{views.count} views of {classes} classes are more than a row can hold"
    if views.mix_groups is not None and len(views.mix_groups) != classes:
        return f"views.mix_groups is of {len(views.mix_groups)} classes, not {classes}"
    if min(manifest.normalisation.std) <= 0:
        return f"normalisation.std is {list(manifest.normalisation.std)}"
    if manifest.eval.crop != views.size or manifest.eval.resize < views.size:
        return f"eval crops {manifest.eval.crop} of {manifest.eval.resize} px, for views of {views.size} px"
    if manifest.labels.temperature <= 0:
        return f"labels.temperature is {manifest.labels.temperature}"
    return None


def _results_problem(manifest: Manifest) -> str | None:
    """The first inconsistency in the results, or None."""
    prefixes = set(manifest.prefixes)
    for i, result in enumerate(manifest.results):
        values = result.values
        if result.n_students < result.n_sets or (values is not None and len(values) != result.n_sets):
            return f"results[{i}] is of {result.n_sets} sets and {result.n_students} students"
        if result.ipc not in prefixes:
            return f"results[{i}] is of ipc {result.ipc}, which is not a prefix"
    return None
