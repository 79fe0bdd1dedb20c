"""Codec `int8`: every logit as an 8-bit integer, with one scale per view."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ddkit.format.codecs.interface import FLOAT16, GpuCodec, Layout, Tensors, not_finite

STEPS = 127


@dataclass(frozen=True)
class Int8(GpuCodec):
    """Stores `logits` int8 [V,C] and `scale` float16 [V]; a logit is scale * integer.

    The error is at most scale / 2, where the scale is the largest centred logit of the view / 127, rounded up to half
    precision.
    """

    FAMILY = "int8"
    USAGE = "int8"
    ABOUT = "every logit as an 8-bit integer: 1 byte a class and view, error at most 0.4 % of the view's largest logit"

    def layout(self, views: int, classes: int) -> Layout:
        return {"logits": (np.dtype(np.int8), (views, classes)), "scale": (FLOAT16, (views,))}

    def encode(self, logits: np.ndarray, shared: Tensors, generator: np.random.Generator) -> dict[str, np.ndarray]:
        largest = np.abs(logits).max(axis=-1)
        scale = (largest / STEPS).astype(np.float16)
        scale = np.where(scale.astype(np.float32) * STEPS < largest, np.nextafter(scale, np.float16(np.inf)), scale)
        steps = logits / np.where(scale > 0, scale, 1).astype(np.float32)[..., None]
        return {"logits": np.rint(steps).astype(np.int8), "scale": scale}

    def decode(self, tensors: Tensors, classes: int, temperature: float, shared: Tensors) -> np.ndarray:
        found: np.ndarray = tensors["logits"].astype(np.float32) * tensors["scale"].astype(np.float32)[..., None]
        return found

    def decode_on_device(self, tensors: Mapping[str, Tensor], shared: Mapping[str, Tensor]) -> Tensor:
        return tensors["logits"].float() * tensors["scale"].float()[..., None]

    def problem(self, tensors: Tensors, classes: int, thorough: bool) -> str | None:
        scale = tensors["scale"]
        return "a scale that is not a positive number" if not_finite(scale) or (scale < 0).any() else None


CODEC = Int8
