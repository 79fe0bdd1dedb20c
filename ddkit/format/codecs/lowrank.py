"""Codec `lowrank:R[:i4|i8|f16][+topK]`: coordinates in a shared basis, and the K largest logits exactly."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import torch
from torch import Tensor

from ddkit.format.codecs.interface import (
    FLOAT16,
    LARGEST,
    GpuCodec,
    Layout,
    Tensors,
    not_finite,
    number,
    require_classes,
)
from ddkit.format.codecs.top import largest, put_top, put_top_on_device, top_layout, top_problem

_NAME = re.compile(r":(\d+)(?::(i4|i8|f16))?(?:\+top(\d+))?")
LEVELS = {"i4": 7, "i8": 127}  # largest integer of a coordinate

# Sums over the basis are exact in double precision, so that decoded logits do not depend on the order of summation: on
# the number of views decoded together, on threads or on the processor. For this, basis and offset are multiples of
# GRID, float16 coordinates are multiples of CODE_GRID, and no scale is below the largest / SPREAD.
GRID = 2.0**-15
CODE_GRID = 2.0**-8
SPREAD = 2.0**10
LARGEST_CODE = 2.0**15  # of float16 coordinates of the sample; others may be twice as large


@dataclass(frozen=True)
class LowRank(GpuCodec):
    """Stores `code` [V,R], coordinates of the centred logits in `basis` [R,C], with +topK also `top` and `index`.

    The logits are code * scale @ basis + offset, then the K largest, limited to which are the others. `basis` float16
    [R,C] holds the principal components of the logits of the set's first prefix, `offset` float16 [C] their mean,
    `scale` float16 [R] the step of each coordinate; all rows share them. Codes are int8, float16, or pairs of 4-bit
    integers in uint8, the first in the low bits. The error is that of leaving the other components out, which has no
    bound per logit: the manifest records its effect. The K logits are exact to half precision.

    Attributes:
        rank: R, the number of components.
        code: Type of a coordinate.
        k: K, the number of logits that are kept exactly.
    """

    FAMILY = "lowrank"
    USAGE = "lowrank:R[:i4|i8|f16][+topK]"
    ABOUT = "coordinates in a basis of R components shared by the set, the K largest exactly: R/2, R or 2 R + 4 K bytes"

    rank: int
    code: Literal["i4", "i8", "f16"] = "i8"
    k: int = 0

    @classmethod
    def parse(cls, parameters: str) -> Self:
        found = _NAME.fullmatch(parameters)
        if found is None:
            raise ValueError("it must be written as in lowrank:32, lowrank:32:i4 or lowrank:32:i4+top5")
        rank, code, k = found.groups()
        kept = 0 if k is None else number(k, "K", 2**15)
        return cls(number(rank, "R", 4096), code or "i8", kept)  # type: ignore[arg-type]

    @property
    def name(self) -> str:
        code = "" if self.code == "i8" else f":{self.code}"
        return f"lowrank:{self.rank}{code}" + (f"+top{self.k}" if self.k else "")

    def check(self, classes: int) -> None:
        require_classes(self, "R", self.rank, classes)
        require_classes(self, "K", self.k, classes)

    def layout(self, views: int, classes: int) -> Layout:
        width = (self.rank + 1) // 2 if self.code == "i4" else self.rank
        dtype = np.dtype({"i4": np.uint8, "i8": np.int8, "f16": np.float16}[self.code])
        return {"code": (dtype, (views, width))} | (top_layout(views, classes, self.k) if self.k else {})

    def shared_layout(self, classes: int) -> Layout:
        return {
            "basis": (FLOAT16, (self.rank, classes)),
            "scale": (FLOAT16, (self.rank,)),
            "offset": (FLOAT16, (classes,)),
        }

    def prepared(self, shared: Tensors) -> Tensors:
        return {name: array.astype(np.float64, copy=False) for name, array in shared.items()}

    def fit(self, logits: np.ndarray, known: Tensors | None = None) -> dict[str, np.ndarray]:
        z = logits.astype(np.float64)
        offset = _on_grid(z.mean(axis=0))
        z -= offset
        if known is not None and len(known["basis"]) >= self.rank:
            basis = known["basis"][: self.rank]
        else:
            basis = _on_grid(_principal_components(z, self.rank))
        code = z @ basis.astype(np.float64).T
        scale = np.maximum(np.abs(code).max(axis=0) / LARGEST_CODE, 1.0)
        if self.code == "i8":
            scale = np.abs(code).max(axis=0) / LEVELS["i8"]
        elif self.code == "i4":
            scale = np.array([_best_step(column) for column in code.T])
        scale = np.maximum(scale, max(scale.max() / SPREAD, 2.0**-14))
        return {"basis": basis, "scale": np.minimum(scale, LARGEST).astype(np.float16), "offset": offset}

    def encode(self, logits: np.ndarray, shared: Tensors, generator: np.random.Generator) -> dict[str, np.ndarray]:
        basis, scale, offset = (self.prepared(shared)[name] for name in ("basis", "scale", "offset"))
        steps = (logits - offset) @ basis.T / scale
        if self.code == "f16":
            code = np.clip(np.rint(steps / CODE_GRID) * CODE_GRID, -LARGEST, LARGEST).astype(np.float16)
        else:
            most = LEVELS[self.code]
            code = np.clip(np.rint(steps), -most, most).astype(np.int8)
        if self.code == "i4":
            code = _pack_nibbles(code)
        encoded = {"code": code}
        if self.k:
            top, index = largest(logits, self.k)
            encoded |= {"top": top, "index": index.astype(self.layout(1, logits.shape[-1])["index"][0])}
        return encoded

    def decode(self, tensors: Tensors, classes: int, temperature: float, shared: Tensors) -> np.ndarray:
        code = tensors["code"]
        if self.code == "i4":
            code = _unpack_nibbles(code, self.rank)
        basis, scale, offset = (self.prepared(shared)[name] for name in ("basis", "scale", "offset"))
        steps = torch.from_numpy(code.astype(np.float64) * scale)
        logits: np.ndarray = ((steps @ torch.from_numpy(basis)).numpy() + offset).astype(np.float32)
        if self.k:
            put_top(logits, tensors)
        return logits

    def decode_on_device(self, tensors: Mapping[str, Tensor], shared: Mapping[str, Tensor]) -> Tensor:
        code = tensors["code"]
        if self.code == "i4":
            bits = torch.stack([code & 15, code >> 4], -1).flatten(-2)[..., : self.rank].to(torch.int8)
            code = torch.where(bits > 7, bits - 16, bits)
        logits = ((code.double() * shared["scale"]) @ shared["basis"] + shared["offset"]).float()
        return put_top_on_device(logits, tensors) if self.k else logits

    def problem(self, tensors: Tensors, classes: int, thorough: bool) -> str | None:
        if self.code == "f16" and not_finite(tensors["code"]):
            return "a code that is not finite"
        return top_problem(tensors, classes) if self.k else None


def _principal_components(z: np.ndarray, rank: int) -> np.ndarray:
    """The directions of largest variance, float64 [rank,C]; zeros where there are fewer. z: centred, [N,C]."""
    from scipy.linalg import eigh

    few = len(z) < z.shape[1]
    gram = z @ z.T if few else z.T @ z  # the smaller of the two has the same eigenvalues
    size = len(gram)
    found = min(rank, size)
    values, vectors = eigh(gram.T, subset_by_index=[size - found, size - 1], overwrite_a=True)  # .T: without a copy
    components = (z.T @ vectors if few else vectors)[:, ::-1].T
    length = np.linalg.norm(components, axis=1, keepdims=True)
    components = np.where(
        values[::-1, None] > 1e-12 * max(values[-1], 1e-300), components / np.maximum(length, 1e-300), 0.0
    )
    signs = np.sign(np.take_along_axis(components, np.abs(components).argmax(axis=1)[:, None], axis=1))
    padded = np.zeros((rank, z.shape[1]))
    padded[:found] = components * signs  # eigenvectors are unique up to their sign
    return padded


def _on_grid(values: np.ndarray) -> np.ndarray:
    """Round to float16 numbers that are multiples of GRID."""
    return (np.rint(values / GRID) * GRID).astype(np.float16)


def _best_step(column: np.ndarray) -> float:
    """The step of 4-bit integers with the smallest squared error for the coordinates of one component."""
    spread = float(column.std())
    steps = spread * np.linspace(0.2, 0.6, 17)
    most = LEVELS["i4"]
    errors = [np.square(column - step * np.clip(np.rint(column / step), -most, most)).sum() for step in steps if step]
    return float(steps[int(np.argmin(errors))]) if errors else 0.0


def _pack_nibbles(code: np.ndarray) -> np.ndarray:
    """int8 [V,R] in -8 to 7 as uint8 [V,ceil(R/2)]: two's complement, even columns in the low four bits."""
    bits = (code & 15).astype(np.uint8)
    if bits.shape[-1] % 2:
        bits = np.concatenate([bits, np.zeros_like(bits[..., :1])], axis=-1)
    packed: np.ndarray = bits[..., ::2] | (bits[..., 1::2] << 4)
    return packed


def _unpack_nibbles(packed: np.ndarray, rank: int) -> np.ndarray:
    """The inverse of `_pack_nibbles`."""
    bits = np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:-1], -1)[..., :rank].astype(np.int8)
    return np.where(bits > 7, bits - 16, bits).astype(np.int8)


CODEC = LowRank
