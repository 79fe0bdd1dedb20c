"""Codec `fp16`: every logit in half precision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ddkit.format.codecs.interface import FLOAT16, LARGEST, GpuCodec, Layout, Tensors, not_finite

ONE_THREAD = 32_000  # values per torch operation: larger ones use several threads, which is slower for this check
CENTRED = 2.0**-10  # tolerance for the mean of rounded, centred logits, relative to the largest logit


@dataclass(frozen=True)
class Fp16(GpuCodec):
    """Stores `logits` float16 [V,C].

    The error is at most 2^-11 of the centred logit (rounding), or 2^-25 below 2^-14.
    """

    FAMILY = "fp16"
    USAGE = "fp16"
    ABOUT = "every logit in half precision: 2 bytes a class and view, error at most 0.05 % of the logit"
    NAMES_CLASSES = False

    def layout(self, views: int, classes: int) -> Layout:
        return {"logits": (FLOAT16, (views, classes))}

    def encode(self, logits: np.ndarray, shared: Tensors, generator: np.random.Generator) -> dict[str, np.ndarray]:
        return {"logits": np.clip(logits, -LARGEST, LARGEST).astype(np.float16)}

    def decode(self, tensors: Tensors, classes: int, temperature: float, shared: Tensors) -> np.ndarray:
        return tensors["logits"].astype(np.float32)

    def decode_on_device(self, tensors: Mapping[str, Tensor], shared: Mapping[str, Tensor]) -> Tensor:
        return tensors["logits"].float()

    def agree(self, stored: np.ndarray, computed: np.ndarray) -> np.ndarray:
        largest = np.abs(computed).max(axis=-1)
        found: np.ndarray = np.abs(stored - computed).max(axis=-1) <= 0.02 * largest + 1e-3
        return found

    def problem(self, tensors: Tensors, classes: int, thorough: bool) -> str | None:
        logits = tensors["logits"]  # [n,V,C]
        if not_finite(logits):
            return "logits that are not finite"
        first = logits[:, 0].astype(np.float32)  # softmax ignores an offset: one view per row suffices
        if (np.abs(first.mean(-1)) > CENTRED * (1 + np.abs(first).max(-1))).any():
            return "logits that are not centred"
        views = torch.from_numpy(logits.reshape(-1, logits.shape[-1]))
        part = max(1, ONE_THREAD // logits.shape[-1])
        for start in range(0, len(views) if thorough else 0, part):
            some = views[start : start + part]
            off = some.mean(-1, dtype=torch.float32).abs()
            if float(off.max()) > CENTRED and bool((off > CENTRED * (1 + some.float().abs().amax(-1))).any()):
                return "logits that are not centred"
        return None


CODEC = Fp16
