"""Initialisation of optimised images: noise, real images, or the best patches of real images."""

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
    """Initialisation of one image.

    Attributes:
        pixels: Pixels of the real image, uint8 [3,S,S]; None if no real image is read.
        origin: As in `Synthetic`.
    """

    pixels: np.ndarray | None
    origin: Origin


def images_needed(settings: Inversion, available: int, ipc: int) -> int:
    """Return how many real images of a class `initialised_from` needs.

    Args:
        settings: Settings of the inversion.
        available: Number of images that can be used.
        ipc: Number of images to initialise.
    """
    return pool_and_keep(settings.patch, available, ipc)[0] if settings.init == "patch" else ipc


def initialised_from(
    context: Context, settings: Inversion, label: int, images: np.ndarray, ranks: Sequence[int]
) -> list[Initialisation]:
    """Return an initialisation for each rank of a class.

    Args:
        context: Context of the unit.
        settings: Settings of the inversion.
        label: The class.
        images: Positions in the source of the real images to use, in order of preference.
        ranks: IPC ranks of the images to initialise.
    """
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
    """Return an initialisation for each rank of a class, from random real images.

    Every rank has its own real images, so the initialisations of a smaller IPC are the first ones of a larger IPC.

    Args:
        context: Context of the unit.
        settings: Settings of the inversion.
        label: The class.
        ranks: IPC ranks of the images to initialise.
    """
    order = nested_choice(context.seed, context.source.members(label), "random", label)
    each = settings.patch.factor**2 if settings.init == "patch" else 1
    return [
        start
        for rank in ranks
        for start in initialised_from(context, settings, label, order[rank * each : (rank + 1) * each], [rank])
    ]
