"""Goals 4, 5 and 6: every sample once, one order for every number of processes, and the card's own snippet."""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ddkit.mutator import damage
from trust.bench import Bench
from trust.goals import Goal, Outcome

WORLDS, WORKERS = (1, 2, 3, 4, 8), (0, 1, 2, 4)
BATCH, EPOCHS = 9, 2  # of 26 rows: three steps an epoch, eight rows in the last one
SETTINGS = list(itertools.product(WORLDS, WORKERS))


def samples_trial(bench: Bench, trial: int) -> Outcome:
    """Ids of an epoch under a drawn batch size, store, prefetch and world; then a sample is missing from a copy."""
    import datasets

    from ddkit import ReplayLoader
    from ddkit.errors import DdkitError

    rng, root = random.Random(trial), bench.sets()[trial % 2]
    rows = [4 * 3, 4 * 2][trial % 2]
    world, batch = rng.choice([(1, rng.randint(1, rows)), (2, 4), (3, 4), (4, 4)])
    options = {"batch_size": batch, "store": rng.choice(["memory", "mapped"]), "prefetch": rng.choice([0, 2])}
    yielded = [
        int(row)
        for rank in range(world)
        for part in ReplayLoader(root, batch="dict", device="cpu", rank=rank, world_size=world, **options)
        for row in part["rows"]
    ]
    wrong = [] if sorted(yielded) == list(range(rows)) else [f"{options}, {world} ranks: rows {sorted(yielded)}"]
    copy = shutil.copytree(root, bench.scratch / "copy")
    (shard,) = damage(copy, "deleted row", np.random.default_rng(trial)).paths
    try:
        datasets.load_dataset(str(copy), split="train", cache_dir=str(bench.scratch / "hf"))
        wrong.append(f"load_dataset loads a set without a row of {shard}")
    except datasets.exceptions.NonMatchingSplitsSizesError:
        pass
    try:
        list(ReplayLoader(copy, batch_size=4, device="cpu"))
        wrong.append(f"the loader replays a set without a row of {shard}")
    except DdkitError:
        pass
    raised = not any("without" in line for line in wrong)
    return Outcome(tuple(wrong), {"rows": len(yielded), "missing": 1, "raised": raised})


def chain(batches: Iterator[dict[str, Any]]) -> Iterator[str]:
    """For each batch the hash of it and all before it: rows, pixels, logits and labels."""
    digest = hashlib.sha256()
    for batch in batches:
        for name in ("rows", "pixel_values", "teacher_logits", "labels"):
            digest.update(batch[name].contiguous().numpy().tobytes())
        yield digest.hexdigest()


def stream(root: Path, world: int, workers: int, stop: int) -> list[str]:
    """The chain over the global batches of EPOCHS epochs, each rank stopping after `stop` steps and going on anew."""
    import torch

    from ddkit import ReplayLoader

    def of_rank(rank: int) -> Iterator[dict[str, Any]]:
        def loader() -> Any:
            return ReplayLoader(root, batch_size=BATCH, batch="dict", device="cpu", seed=7, rank=rank, world_size=world)

        first, second = loader(), loader()
        yield from itertools.islice(itertools.chain.from_iterable(iter(first) for _ in range(EPOCHS)), stop)
        second.load_state_dict(first.state_dict())
        source = torch.utils.data.DataLoader(second, batch_size=None, num_workers=workers) if workers else second
        for _ in range(EPOCHS - second.state_dict()["epoch"]):
            yield from source

    steps = zip(*(of_rank(rank) for rank in range(world)), strict=True)
    return list(chain({name: torch.cat([part[name] for part in step]) for name in step[0]} for step in steps))


def order_trial(bench: Bench, trial: int) -> Outcome:
    """One world size and number of workers, stopped after some number of steps."""
    (world, workers), stop = SETTINGS[trial % len(SETTINGS)], trial // len(SETTINGS)
    root = _mixed_set(bench)
    got, want = stream(root, world, workers, stop), stream(root, 1, 0, 0)
    wrong = [] if got == want else [f"{world} ranks, {workers} workers, stopped after {stop}: another stream"]
    return Outcome(tuple(wrong), {"steps": len(got), f"world {world}": 1, f"workers {workers}": 1, f"stop {stop}": 1})


def _mixed_set(bench: Bench) -> Path:
    """A set of 26 rows with mixed views: three steps of BATCH an epoch, eight rows in the last."""
    from ddkit.testing import untrained_teacher

    def make(folder: Path) -> None:
        from ddkit.pipeline import distill

        teacher = untrained_teacher(folder / "t.safetensors", classes=2, size=16)
        distill(
            folder / "set", data="digits", classes="0,1", method="random", ipc=13, protocol="rded", views=4,
            teacher=str(teacher), workers=1,
        )  # fmt: skip

    bench.made("order", make)
    return bench.folder("order") / "set"


def card_trial(bench: Bench, trial: int) -> Outcome:
    """A thousand sampled crops by the snippet that the card prints, and by the loader: equal pixels and logits."""
    import pytest
    import test_card

    from ddkit.format.manifest_file import read_manifest

    views, wrong = 1000, []
    manifest = read_manifest(bench.sets()[trial % 2])
    here = Path.cwd()
    try:
        with pytest.MonkeyPatch.context() as patch:
            test_card.replayed_like_the_card(manifest, patch, views)
    except AssertionError as error:
        wrong.append(f"{manifest.name}: {str(error).splitlines()[0]}")
    finally:
        os.chdir(here)
    return Outcome(tuple(wrong), {"crops": views})


GOALS = (
    Goal(
        4,
        "no partial sample, no silent skip",
        "rows of an epoch under drawn batch size, ranks, store and prefetch; then a row is cut out of a shard",
        40,
        samples_trial,
        lambda found: (
            f"{found['rows']} rows yielded, each once: {found.trials - found.wrong} of {found.trials} trials; "
            f"`load_dataset` and the loader raised for {found['raised']} of {found['missing']} missing rows"
        ),
    ),
    Goal(
        5,
        "order, crops and labels",
        "world {1,2,3,4,8} × DataLoader workers {0,1,2,4} × stopped after every step: a hash chain over rows, pixels, "
        "logits and labels of every global step",
        len(SETTINGS) * 6,
        order_trial,
        lambda found: (
            f"{found['steps']} steps in {found.trials} settings: {found.trials - found.wrong} of {found.trials} "
            "streams equal that of one process"
        ),
    ),
    Goal(
        6,
        "exact replay",
        "crops rebuilt by the snippet that the card prints, and by the loader",
        10,
        card_trial,
        lambda found: (
            f"{found['crops']} sampled crops and their logits equal in {found.trials - found.wrong} of {found.trials} "
            "trials"
        ),
    ),
)
