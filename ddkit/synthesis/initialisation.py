"""What images begin as, before they are optimised: noise, real images, or the best patches of real images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ddkit.core.seeds import nested_choice
from ddkit.format.entries import Origin
from ddkit.synthesis.interface import Context
from ddkit.synthesis.patches import pool_and_keep, stitched
from ddkit.synthesis.settings import Inversion


@dataclass(frozen=True)
class Initialisation:
    """pixels: uint8 [3,S,S], None where no real image is read; origin: as in Synthetic."""

    pixels: np.ndarray | None
    origin: Origin


def images_needed(settings: Inversion, available: int, ipc: int) -> int:
    """Real images of a class that `initialised_from` chooses `ipc` starts from."""
    return pool_and_keep(settings.patch, available, ipc)[0] if settings.init == "patch" else ipc


def initialised_from(
    context: Context, settings: Inversion, label: int, images: np.ndarray, ranks: Sequence[int]
) -> list[Initialisation]:
    """One start for each rank of a class. images: positions in the source, in order of preference."""
    if not settings.needs_real:
        return [Initialisation(None, Origin(kind="noise")) for _ in ranks]
    if settings.init == "patch":
        keep = pool_and_keep(settings.patch, len(images), len(ranks))[1]
        made = stitched(context, settings.patch, label, images, keep, ranks)
        return [Initialisation(one.pixels, one.origin) for one in made]
    source = context.source
    return [
        Initialisation(
            source.whole(int(i), context.size).numpy(), Origin(kind=settings.init, rows=(int(source.rows[i]),))
        )
        for i in images[: len(ranks)]
    ]


def random_initialisations(
    context: Context, settings: Inversion, label: int, ranks: Sequence[int]
) -> list[Initialisation]:
    """Starts of a class from random real images, each from its own ones: IPC-k has a prefix of IPC-K's."""
    order = nested_choice(context.seed, context.source.members(label), "random", label)
    each = settings.patch.factor**2 if settings.init == "patch" else 1
    return [
        start
        for rank in ranks
        for start in initialised_from(context, settings, label, order[rank * each : (rank + 1) * each], [rank])
    ]
