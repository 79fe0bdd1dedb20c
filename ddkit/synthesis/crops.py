"""Augmentation of inversion: one crop, flip and roll per step for the whole batch, as two matrix products.

A(x) = R x C^T, with R and C [S,S] computed from the integers of the step: exact, with a deterministic backward pass.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ddkit.format.resampling import resize_matrices
from ddkit.format.views import CROP_TRIES, crop_boxes
from ddkit.synthesis.settings import Crop

RATIO = (3 / 4, 4 / 3)


def least_scale(crop: Crop, steps: int) -> np.ndarray:
    """Return the lower bound of the crop's share of the area at each step, float64 [steps].

    Source: CDA, arXiv 2311.18838.

    Args:
        crop: Settings of the crop.
        steps: Number of steps.
    """
    if crop.direction == "constant":
        return np.full(steps, crop.min)
    end = crop.milestone * steps
    t = np.minimum(np.arange(steps) / max(end, 1e-9), 1.0)
    curve = {"step": np.ones(steps), "linear": 1 - t, "cosine": (1 + np.cos(math.pi * t)) / 2}[crop.curve]
    low = crop.min + (1 - crop.min) * np.where(np.arange(steps) < end, curve, 0.0)
    return low if crop.direction == "global-to-local" else 1 + crop.min - low


@dataclass(frozen=True)
class Crops:
    """Crop, flip and roll of all T steps.

    Attributes:
        boxes: Crop boxes (top, left, height, width) in pixels, int64 [T,4].
        flips: Whether the image is flipped, bool [T].
        rolls: Pixels to roll by, rows then columns, int64 [T,2].
    """

    boxes: np.ndarray
    flips: np.ndarray
    rolls: np.ndarray

    @classmethod
    def draw(cls, crop: Crop, steps: int, side: int, random: np.random.Generator) -> Crops:
        """Draw crop, flip and roll of all steps.

        Args:
            crop: Settings of the crop.
            steps: Number of steps.
            side: Side of the images, pixels.
            random: The random generator.
        """
        low = least_scale(crop, steps)[:, None]
        tries = random.random((steps, CROP_TRIES, 4))
        flips = random.random(steps) < crop.flip
        least = -crop.jitter if crop.both else 0
        rolls = random.integers(least, crop.jitter, (steps, 2), endpoint=True)
        return cls(crop_boxes(tries, (low, 1.0), RATIO, side, side), flips, rolls)

    def matrices(self, steps: slice, side: int, crop: Crop, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the matrices (R, C) of some steps, float32 [T,S,S] each.

        Args:
            steps: The steps.
            side: Side of the images, pixels.
            crop: Settings of the crop.
            device: Device of the matrices.
        """
        top, left, height, width = torch.from_numpy(self.boxes[steps]).T
        rows = resize_matrices(top, height, side, side, torch.float32, crop.antialias)
        columns = resize_matrices(left, width, side, side, torch.float32, crop.antialias)
        flipped = torch.from_numpy(self.flips[steps])[:, None, None]
        columns = torch.where(flipped, columns.flip(1), columns)
        down, right = torch.from_numpy(self.rolls[steps]).T
        return _rolled(rows, down).to(device), _rolled(columns, right).to(device)


def _rolled(matrices: Tensor, by: Tensor) -> Tensor:
    """Roll the rows of each matrix, [T,S,S], by its own number, which rolls the image that the matrix produces."""
    side = matrices.shape[-1]
    source = (torch.arange(side) - by[:, None]) % side
    return matrices.gather(1, source[:, :, None].expand_as(matrices))


def augment(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Crop, resize, flip and roll a batch of images.

    Args:
        x: Images, float32 [B,3,S,S].
        rows: The matrix R of a step, [S,S].
        columns: The matrix C of a step, [S,S].

    Returns:
        R x C^T, float32 [B,3,S,S].
    """
    return torch.matmul(rows, torch.matmul(x, columns.T))
