"""Views as integers: drawing them from an augmentation policy, and holding them (docs/format.md)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from ddkit.core.seeds import rng
from ddkit.specs import ViewSpec

UNMIXED = 65535  # value of `partner` for a view without mixing
CROP_TRIES = 10  # tries of RandomResizedCrop before it falls back to a centre crop


@dataclass(frozen=True)
class Views:
    """V views of n rows as integers (docs/format.md). Optional arrays are None for all rows of a set or for none.

    Attributes:
        box: [n,V,4] crop: top, left, height, width in pixels of the stored image.
        flip: [n,V] 1: mirrored left to right, 0: not.
        partner: [n,V] position in the shard of the row that is mixed in, 65535: none.
        mix_box: [n,V,4] region taken from the partner: top, left, height, width in pixels of the view.
        mix_lam: float32 [n,V] weight of the row's own pixels.
        patches: [n,V,N] order of the patches.
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
        """Number of views per row."""
        found: int = self.box.shape[1]
        return found

    def tensors(self) -> dict[str, np.ndarray]:
        """Return the arrays that are not None, by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}

    def rows(self, index: Sequence[int] | np.ndarray | slice) -> Views:
        """Return the views of some rows. Partners remain positions in the shard.

        Args:
            index: Positions of the rows.
        """
        return Views(**{name: array[index] for name, array in self.tensors().items()})

    def partners(self, rows: np.ndarray, view_indices: np.ndarray) -> np.ndarray:
        """Return the position of the row mixed into each view, int64 [B], -1: none.

        A `partner` array that is not uint16, as of joined shards, already uses -1.

        Args:
            rows: Positions of the rows, int [B].
            view_indices: View index of each row, int [B].
        """
        assert self.partner is not None
        partner = self.partner[rows, view_indices].astype(np.int64)
        return np.where(partner == UNMIXED, -1, partner) if self.partner.dtype == np.uint16 else partner

    @classmethod
    def stack(cls, parts: Sequence[Views]) -> Views:
        """Concatenate the rows of several parts.

        Args:
            parts: Views with the same arrays.
        """
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
    """Draw the views of one shard: `policy.count` for each of its rows.

    The integers of row r depend only on (seed, r, extent of the shard); view v does not depend on the number of views.
    Sources: torchvision's RandomResizedCrop; CutMix, arXiv 1905.04899; RDED, arXiv 2312.03526.

    Args:
        policy: Augmentation policy.
        seed: Seed of the run.
        first: Row number of the shard's first row.
        rows: Number of rows.
        height: Height of the stored images in pixels.
        width: Width of the stored images in pixels.
        size: Side of a view in pixels.
        patches: N of the stitched grid.
        groups: Mixing group of each row, int [rows]; partners come from the same group. None: no groups.
    """
    small = max(height, width, size) <= 255
    dtype = np.uint8 if small else np.int16
    factor = math.isqrt(patches)
    parts = []
    members = _members(rows, groups)
    for row in range(rows):
        # One row of uniforms per view, in a fixed layout: flip, partner, lambda, mix centre (2), 10 crop tries
        # (4 each), column order, row order. Changing this layout changes the views of every set.
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
    """For each row, the positions of its mixing group, including its own; rows of a group share one array."""
    if groups is None:
        return [np.arange(rows)] * rows
    by_group = {group: np.flatnonzero(groups == group) for group in np.unique(groups)}
    return [by_group[group] for group in groups]


def _choose(members: np.ndarray, row: int, u: np.ndarray) -> np.ndarray:
    """A member other than `row` for each uniform, uint16; 65535 if there is no other."""
    others = len(members) - 1
    if others == 0:
        return np.full(len(u), UNMIXED, np.uint16)
    pick = (u * others).astype(np.int64)
    pick += pick >= np.searchsorted(members, row)
    return members[pick].astype(np.uint16)


def _beta(u: np.ndarray, alpha: float) -> np.ndarray:
    """Beta(alpha, alpha) by its inverse distribution function, so that each lambda depends on one uniform."""
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
    """Turn uniforms into crop boxes by the rule of torchvision's RandomResizedCrop.

    The first of ten tries that fits is used, or the centre if none fits.

    Args:
        u: Uniforms [V,10,4].
        scale: Lowest and highest share of the area, each a number or an array [V,1].
        ratio: Lowest and highest width over height.
        height: Height of the image in pixels.
        width: Width of the image in pixels.

    Returns:
        Boxes int64 [V,4]: top, left, height, width.
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
    """The largest centred box with an aspect ratio within `ratio`."""
    w, h = width, height
    if width / height < ratio[0]:
        h = min(height, max(1, round(width / ratio[0])))
    elif width / height > ratio[1]:
        w = min(width, max(1, round(height * ratio[1])))
    return np.array([(height - h) // 2, (width - w) // 2, h, w])


def _mix_boxes(lam: np.ndarray, centre_y: np.ndarray, centre_x: np.ndarray, size: int) -> np.ndarray:
    """CutMix regions [V,4]: side int(S*sqrt(1-lambda)), uniform centre, clipped to the view; zeros if empty."""
    side = (size * np.sqrt(1 - lam)).astype(np.int64)
    y, x = (centre_y * size).astype(np.int64), (centre_x * size).astype(np.int64)
    top, left = np.clip(y - side // 2, 0, size), np.clip(x - side // 2, 0, size)
    bottom, right = np.clip(y + side // 2, 0, size), np.clip(x + side // 2, 0, size)
    boxes = np.stack([top, left, bottom - top, right - left], axis=-1)
    found: np.ndarray = boxes * ((bottom > top) & (right > left))[:, None]
    return found
