"""Views as integers: how they are drawn and held (docs/format.md)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from ddkit.core.seeds import rng
from ddkit.specs import ViewSpec

UNMIXED = 65535
CROP_TRIES = 10  # of RandomResizedCrop, before it falls back to the centre


@dataclass(frozen=True)
class Views:
    """V views of n rows as integers (docs/format.md). Optional members are None for all rows of a set, or for none.

    box: [n,V,4] top, left, height, width in pixels of the stored image; flip: [n,V] 0 or 1; partner: [n,V] position
    in the shard, 65535 = not mixed; mix_box: [n,V,4] in output pixels; mix_lam: float32 [n,V]; patches: [n,V,N].
    """

    box: np.ndarray
    flip: np.ndarray
    partner: np.ndarray | None = None
    mix_box: np.ndarray | None = None
    mix_lam: np.ndarray | None = None
    patches: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.box)

    @property
    def count(self) -> int:
        found: int = self.box.shape[1]
        return found

    def tensors(self) -> dict[str, np.ndarray]:
        """The members that are there, by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}

    def rows(self, index: Sequence[int] | np.ndarray | slice) -> Views:
        """The views of some rows (their partners still count in the shard)."""
        return Views(**{name: array[index] for name, array in self.tensors().items()})

    def partners(self, rows: np.ndarray, view_indices: np.ndarray) -> np.ndarray:
        """int64 [B]: the rows mixed in, -1 = not mixed. (Readers that join shards store int64 and -1 themselves.)"""
        assert self.partner is not None
        partner = self.partner[rows, view_indices].astype(np.int64)
        return np.where(partner == UNMIXED, -1, partner) if self.partner.dtype == np.uint16 else partner

    @classmethod
    def stack(cls, parts: Sequence[Views]) -> Views:
        """Rows of several parts, one after the other."""
        names = parts[0].tensors()
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def draw(
    policy: ViewSpec,
    *,
    seed: int,
    first: int,
    rows: int,
    height: int,
    width: int,
    size: int,
    patches: int = 1,
    groups: np.ndarray | None = None,
) -> Views:
    """The views of one shard: `policy.count` for each of its rows.

    first: row number of the shard's first row; height, width: of the stored images; size: output side; all in pixels.
    patches: N of the stitched grid; groups: int [rows], partners come from the same group only (`mix_groups`).
    Row r's integers depend on (seed, r, the shard's extent) alone, and view v does not depend on the count.
    Source: torchvision's RandomResizedCrop; CutMix, arXiv 1905.04899; RDED, arXiv 2312.03526.
    """
    small = max(height, width, size) <= 255
    dtype = np.uint8 if small else np.int16
    factor = math.isqrt(patches)
    parts = []
    members = _members(rows, groups)
    for row in range(rows):
        # One row of uniforms a view, in a fixed layout: flip, partner, lambda, mix centre (2), 10 crop tries (4 each),
        # column order, row order. Changing this layout changes every set that is made again.
        u = rng(seed, "view", first + row).random((policy.count, 5 + 4 * CROP_TRIES + 2 * factor))
        tries, orders = u[:, 5 : 5 + 4 * CROP_TRIES], u[:, 5 + 4 * CROP_TRIES :]
        view: dict[str, np.ndarray] = {
            "box": crop_boxes(tries.reshape(-1, CROP_TRIES, 4), policy.scale, policy.ratio, height, width).astype(
                dtype
            )[None],
            "flip": (u[:, 0] < policy.flip).astype(np.uint8)[None],
        }
        if policy.mix != "none":
            partner = _choose(members[row], row, u[:, 1])
            mixed = partner != UNMIXED
            lam = _beta(u[:, 2], policy.mix_alpha)
            view["partner"] = partner[None]
            if policy.mix == "cutmix":
                box = _mix_boxes(lam, u[:, 3], u[:, 4], size) * mixed[:, None]
                view["mix_box"] = box.astype(dtype)[None]
            else:
                view["mix_lam"] = np.where(mixed, lam, 1.0).astype(np.float32)[None]
        if policy.patches == "shuffle" and patches > 1:
            columns = np.argsort(orders[:, :factor], axis=1, kind="stable")
            strips = np.argsort(orders[:, factor:], axis=1, kind="stable")
            grid = strips[:, :, None] * factor + columns[:, None, :]
            view["patches"] = grid.reshape(len(grid), -1).astype(np.uint8)[None]
        parts.append(Views(**view))
    return Views.stack(parts)


def _members(rows: int, groups: np.ndarray | None) -> list[np.ndarray]:
    """For each row, the positions it may be mixed with, its own among them (one shared array a group)."""
    if groups is None:
        return [np.arange(rows)] * rows
    by_group = {group: np.flatnonzero(groups == group) for group in np.unique(groups)}
    return [by_group[group] for group in groups]


def _choose(members: np.ndarray, row: int, u: np.ndarray) -> np.ndarray:
    """uint16: one of the members other than `row` for each uniform; 65535 where there is no other."""
    others = len(members) - 1
    if others == 0:
        return np.full(len(u), UNMIXED, np.uint16)
    pick = (u * others).astype(np.int64)
    pick += pick >= np.searchsorted(members, row)
    return members[pick].astype(np.uint16)


def _beta(u: np.ndarray, alpha: float) -> np.ndarray:
    """Beta(alpha, alpha) by its inverse distribution, so that a lambda is a function of one uniform."""
    if alpha == 1:
        return u
    from scipy.special import betaincinv

    found: np.ndarray = betaincinv(alpha, alpha, u)
    return found


def crop_boxes(
    u: np.ndarray,
    scale: tuple[float | np.ndarray, float | np.ndarray],
    ratio: tuple[float, float],
    height: int,
    width: int,
) -> np.ndarray:
    """Uniforms [V,10,4] -> boxes int64 [V,4]: the first of ten tries that fits, else the centre (torchvision's rule).

    scale: lowest and highest share of the area, each one number or [V,1]; ratio: width over height; pixels.
    """
    area = height * width * (scale[0] + (scale[1] - scale[0]) * u[..., 0])
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = np.exp(low + (high - low) * u[..., 1])
    w = np.rint(np.sqrt(area * aspect)).astype(np.int64)
    h = np.rint(np.sqrt(area / aspect)).astype(np.int64)
    fits = np.asarray((w > 0) & (w <= width) & (h > 0) & (h <= height))
    top = np.floor(u[..., 2] * (height - h + 1)).astype(np.int64)
    left = np.floor(u[..., 3] * (width - w + 1)).astype(np.int64)
    boxes = np.stack([top, left, h, w], axis=-1)
    first = np.argmax(fits, axis=1)
    chosen = boxes[np.arange(len(boxes)), first]
    return np.where(np.max(fits, axis=1, keepdims=True), chosen, _centre_box(ratio, height, width))


def _centre_box(ratio: tuple[float, float], height: int, width: int) -> np.ndarray:
    """The largest centred box whose aspect ratio that `ratio` allows."""
    w, h = width, height
    if width / height < ratio[0]:
        h = min(height, max(1, round(width / ratio[0])))
    elif width / height > ratio[1]:
        w = min(width, max(1, round(height * ratio[1])))
    return np.array([(height - h) // 2, (width - w) // 2, h, w])


def _mix_boxes(lam: np.ndarray, centre_y: np.ndarray, centre_x: np.ndarray, size: int) -> np.ndarray:
    """CutMix's regions [V,4]: side int(S*sqrt(1-lambda)), centre uniform, clipped to the image; 0 where empty."""
    side = (size * np.sqrt(1 - lam)).astype(np.int64)
    y, x = (centre_y * size).astype(np.int64), (centre_x * size).astype(np.int64)
    top, left = np.clip(y - side // 2, 0, size), np.clip(x - side // 2, 0, size)
    bottom, right = np.clip(y + side // 2, 0, size), np.clip(x + side // 2, 0, size)
    boxes = np.stack([top, left, bottom - top, right - left], axis=-1)
    found: np.ndarray = boxes * ((bottom > top) & (right > left))[:, None]
    return found
