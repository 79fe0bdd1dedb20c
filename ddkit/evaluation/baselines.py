"""The `random` baseline of a set: as many real images, with the same teacher, views and seed."""

from __future__ import annotations

from typing import Any

from ddkit.core.console import note
from ddkit.format.manifest import Manifest
from ddkit.pipeline.distilling import distill
from ddkit.pipeline.record import load_record, work_dir
from ddkit.sources.tables import is_available


def make_baseline(manifest: Manifest, data: str | None = None, teacher: str | None = None) -> Manifest | None:
    """Make the `random` baseline of a set in OUT.work, with the set's teacher, views and seed.

    Args:
        manifest: The set.
        data: The source, as for `distill`. Default: the one recorded in OUT.work.
        teacher: The teacher, as for `distill`; used if OUT.work does not record it.

    Returns:
        The baseline; the set itself if its method is `random`; None if source or teacher are unavailable or are not
        the set's own.
    """
    record = load_record(manifest.root)
    unnamed = record.unnamed() if record else []
    data = data or (record.data if record and "data" not in unnamed else None)
    if record and "teacher" not in unnamed:
        teacher = record.teacher
    if data is None or teacher is None or not is_available(data):
        lacking = " and ".join(f"--{name}" for name, value in (("data", data), ("teacher", teacher)) if value is None)
        note(f"{manifest.root}: no baseline random, {f'for want of {lacking}' if lacking else f'{data} is not there'}")
        return None
    if manifest.method == "random":
        return manifest
    note(f"{manifest.root}: baseline random, same teacher, views and seed")
    kept = ("split", "image_column", "label_column", "classes", "holdout", "skip_bad")
    same: dict[str, Any] = {key: getattr(record, key) or None for key in kept} if record else {}
    made = distill(
        work_dir(manifest.root) / "baseline",
        data=data, method="random", ipc=manifest.ipc, prefixes=manifest.prefixes, seed=manifest.seed,
        protocol=manifest.protocol(manifest.views.protocol), views=manifest.views.count, size=manifest.image.size,
        teacher=teacher, codec=manifest.labels.codec, image_format=manifest.image.codec, yes=True, **same,
    )  # fmt: skip
    for what, ours, theirs in (
        ("source", manifest.source.fingerprint, made.source.fingerprint),
        ("teacher", manifest.teacher.hash, made.teacher.hash),
    ):
        if ours != theirs:
            note(f"{manifest.root}: no baseline random, the available {what} is not the one the set was made with")
            return None
    return made
