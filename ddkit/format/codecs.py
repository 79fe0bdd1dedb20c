"""How soft labels are stored. A codec turns logits [V,C] into named tensors and back, and states its error.

A codec is a class with NAME, ABOUT, `encode` and `decode`; `find_codec` knows them by name. Softmax ignores a constant,
so logits are stored minus their mean over the classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import torch

from ddkit.errors import FormatVersion, unknown

TEMPERATURES = (1.0, 4.0, 20.0)


class Codec(Protocol):
    """encode: float32 [V,C] -> named tensors; decode: back to float32 [V,C], centred, for students that learn at a
    temperature, with the tensors that all rows of a set share; TENSORS: the names it writes.

    shapes: name -> (dtype, shape) of the tensors of one row; problem: why the tensors [n,V,…] of some rows cannot be
    labels, or None; thorough: also where no student would notice.
    """

    NAME: str
    ABOUT: str
    TENSORS: tuple[str, ...]

    def encode(self, logits: np.ndarray) -> dict[str, np.ndarray]: ...

    def decode(
        self,
        tensors: Mapping[str, np.ndarray],
        temperature: float = 20.0,
        shared: Mapping[str, np.ndarray] | None = None,
    ) -> np.ndarray: ...

    def shapes(self, views: int, classes: int) -> dict[str, tuple[np.dtype, tuple[int, ...]]]: ...

    def problem(self, tensors: Mapping[str, np.ndarray], thorough: bool) -> str | None: ...


ONE_THREAD = 32_000  # values: torch shares out more among threads, which is slow inside a row (and on a busy machine)
CENTRED = 2.0**-10  # the most that the mean of rounded, centred logits is off, as a share of the largest
LARGEST = float(np.finfo(np.float16).max)  # centred logit that every codec holds


class Fp16:
    """`logits` f16 [V,C]. Error at most 2^-11 of the centred logit (its rounding), 2^-25 below 2^-14."""

    NAME = "fp16"
    ABOUT = "every logit in half precision: 2 bytes a class and view, error at most 0.05 % of the logit"
    TENSORS: tuple[str, ...] = ("logits",)

    def encode(self, logits: np.ndarray) -> dict[str, np.ndarray]:
        centred = logits - logits.mean(axis=-1, keepdims=True)
        return {"logits": np.clip(centred, -LARGEST, LARGEST).astype(np.float16)}

    def decode(
        self,
        tensors: Mapping[str, np.ndarray],
        temperature: float = 20.0,
        shared: Mapping[str, np.ndarray] | None = None,
    ) -> np.ndarray:
        return tensors["logits"].astype(np.float32)

    def shapes(self, views: int, classes: int) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
        return {"logits": (np.dtype(np.float16), (views, classes))}

    def problem(self, tensors: Mapping[str, np.ndarray], thorough: bool) -> str | None:
        logits = tensors["logits"]  # [n,V,C]
        # not finite: 0x7C00 and above, with the sign 0xFC00 and above; two maxima of integers tell it without a copy
        if logits.view(np.int16).max() >= 0x7C00 or logits.view(np.uint16).max() >= 0xFC00:
            return "logits that are not finite"
        first = logits[:, 0].astype(np.float32)  # softmax ignores what a view is off by: a look at one is enough
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


_CODECS: dict[str, Codec] = {codec.NAME: codec for codec in (Fp16(),)}


def codec_names() -> dict[str, str]:
    """The codecs there are, with one line each."""
    return {name: codec.ABOUT for name, codec in _CODECS.items()}


def find_codec(name: str, *, stored: bool = False) -> Codec:
    """The codec called `name`. stored: it comes from a set, so an unknown one means a newer ddkit.

    Raises OptionError listing the codecs there are, or FormatVersion for a stored one.
    """
    if name in _CODECS:
        return _CODECS[name]
    if stored:
        raise FormatVersion(f"this set's labels use codec {name!r}, which needs a newer ddkit: pip install -U ddkit")
    raise unknown("codec", name, _CODECS)


def fidelity_sums(logits: np.ndarray, decoded: np.ndarray) -> np.ndarray:
    """Sums over views, float64 [5]: KL(teacher || decoded) in nats at T = 1, 4, 20; top-1 agreements; views."""
    sums = []
    for temperature in TEMPERATURES:
        p, q = (_log_softmax(z.astype(np.float64) / temperature) for z in (logits, decoded))
        sums.append(float((np.exp(p) * (p - q)).sum()))
    agree = float((logits.argmax(-1) == decoded.argmax(-1)).sum())
    return np.array([*sums, agree, float(np.prod(logits.shape[:-1]))])


def _log_softmax(z: np.ndarray) -> np.ndarray:
    z = z - z.max(axis=-1, keepdims=True)
    found: np.ndarray = z - np.log(np.exp(z).sum(axis=-1, keepdims=True))
    return found
