"""Goal 3: damaged shards, intact ones, and what plain readers of tars notice."""

from __future__ import annotations

import tarfile
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ddkit.mutator import BYTES, SHARDS, damage
from ddkit.mutator import ROWS as OF_ROWS
from trust.bench import CLASSES, Bench
from trust.goals import Goal, Outcome, Totals

ROWS = 4  # of a shard, so that the set has several
EACH = 20  # times that one trial damages the set
KINDS = (*BYTES, *OF_ROWS, *SHARDS)


def small_shards(rows: int) -> None:
    """Have sets made and opened in this process with shards of `rows` rows instead of the format's number."""
    import ddkit.format.consistency
    import ddkit.labelling.encoded
    import ddkit.pipeline.describing

    for module in (ddkit.format.consistency, ddkit.labelling.encoded, ddkit.pipeline.describing):
        module.shard_rows = lambda size: rows


def _set(bench: Bench) -> Path:
    teacher = bench.teacher()

    def make(folder: Path) -> None:
        from ddkit.pipeline import distill

        small_shards(ROWS)
        classes = ",".join(map(str, range(CLASSES)))
        distill(
            folder / "set", data="digits", classes=classes, method="random", ipc=8, protocol="rded", views=3,
            teacher=str(teacher), workers=1,
        )  # fmt: skip

    bench.made("damage", make)
    return bench.folder("damage") / "set"


def verifies(root: Path) -> bool:
    """Whether `verify` finds nothing."""
    from ddkit.errors import IntegrityError
    from ddkit.format.verification import directory_problems

    try:
        return directory_problems(root) == []
    except IntegrityError:
        return False


def replayed(root: Path, store: str) -> tuple[list[int], bool]:
    """The rows that an epoch of the loader yields, and whether it raises."""
    from ddkit import ReplayLoader
    from ddkit.errors import IntegrityError

    rows: list[int] = []
    try:
        for batch in ReplayLoader(root, batch_size=3, batch="dict", device="cpu", store=store, prefetch=0):
            rows += batch["rows"].tolist()
    except IntegrityError:
        return rows, True
    return rows, False


def tarfile_raises(path: Path) -> bool:
    """Whether reading every member of a tar with Python's tarfile raises."""
    try:
        with tarfile.open(path, "r|") as tar:
            for member in tar:
                file = tar.extractfile(member)
                if file is not None:
                    file.read()
    except (tarfile.TarError, EOFError, OSError, ValueError):
        return True
    return False


def webdataset_raises(paths: Sequence[Path]) -> bool:
    """Whether reading and decoding every sample with webdataset, which here raises what it meets, raises."""
    import webdataset

    urls = [str(path) for path in paths]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for _ in webdataset.WebDataset(urls, shardshuffle=False, empty_check=False).decode("pil"):
                pass
        except Exception:
            return True
    return False


def damage_trial(bench: Bench, trial: int) -> Outcome:
    """Damage the set twenty times, in other ways; after each, the intact set again."""
    small_shards(ROWS)
    root, rng = _set(bench), np.random.default_rng(trial)
    wrong, counts = list[str](), Counter[str]()
    files = {path: path.read_bytes() for path in (root / "data").iterdir()}
    tars = sorted(path for path in files if path.suffix == ".tar")
    whole = list(range(ROWS * len(tars)))
    for i in range(EACH):
        kind = KINDS[(trial * EACH + i) % len(KINDS)]
        done = damage(root, kind, rng)
        paths = [root / path for path in done.paths]
        hit = {tars.index(path.with_suffix(".tar")) * ROWS + row for path in paths for row in range(ROWS)}
        noticed = not verifies(root)
        in_memory, mapped = replayed(root, "memory"), replayed(root, "mapped")
        before = mapped[1] and not hit & set(mapped[0]) and in_memory == ([], True)
        if left := [path for path in paths if path.suffix == ".tar" and path.exists()]:
            counts["tars"] += 1
            counts["tarfile"] += any(map(tarfile_raises, left))
            counts["webdataset"] += webdataset_raises(left)
        for path in paths:
            path.write_bytes(files[path])
        intact, (rows, raised) = verifies(root), replayed(root, "mapped")
        accused = not intact or raised or sorted(rows) != whole
        counts.update(damaged=1, found=noticed, before=before, intact=1, accused=accused)
        counts[f"kind {kind}"] += 1
        if not (noticed and before) or accused:
            wrong.append(f"{kind}, {done.detail}: verify {noticed}, loader {mapped, in_memory}, accused {accused}")
    return Outcome(tuple(wrong), dict(counts))


def _damage(found: Totals) -> str:
    kinds = ", ".join(f"{name} {n}" for name, n in found.every("kind ").items())
    return (
        f"`verify` found {found['found']} of {found['damaged']} ({kinds}), the loader raised before the first affected "
        f"sample {found['before']} times; {found['accused']} of {found['intact']} intact ones accused. Of "
        f"{found['tars']} damaged tars tarfile raised on {found['tarfile']}, webdataset on {found['webdataset']}"
    )


GOALS = (
    Goal(
        3,
        "damage",
        "a shard or its row records damaged in thirteen ways, then intact again: `verify`, the loader with both "
        "stores, plain readers",
        2000 // EACH,
        damage_trial,
        _damage,
    ),
)
