"""Codecs for soft labels. A codec turns logits [V,C] into named tensors and back.

`find_codec` looks codecs up by name. Softmax ignores a constant, so logits are stored minus their mean over the
classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import torch

from ddkit.errors import FormatVersion, unknown

TEMPERATURES = (1.0, 4.0, 20.0)


class Codec(Protocol):
    """Interface of a codec.

    Attributes:
        NAME: Name of the codec in the manifest.
        ABOUT: One-line description that states its error.
        TENSORS: Names of the tensors that `encode` returns.
    """

    NAME: str
    ABOUT: str
    TENSORS: tuple[str, ...]

    def encode(self, logits: np.ndarray) -> dict[str, np.ndarray]:
        """Encode the logits of one row.

        Args:
            logits: float32 [V,C].
        """
        ...

    def decode(
        self,
        tensors: Mapping[str, np.ndarray],
        temperature: float = 20.0,
        shared: Mapping[str, np.ndarray] | None = None,
    ) -> np.ndarray:
        """Decode to centred logits, float32 [V,C].

        Args:
            tensors: The tensors of a row.
            temperature: Temperature at which students learn.
            shared: Tensors that all rows of a set share.
        """
        ...

    def shapes(self, views: int, classes: int) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
        """Return the dtype and shape of each tensor of a row.

        Args:
            views: V, the number of views.
            classes: C, the number of classes.
        """
        ...

    def problem(self, tensors: Mapping[str, np.ndarray], thorough: bool) -> str | None:
        """Return why tensors are not valid labels, or None.

        Args:
            tensors: The tensors [n,V,...] of n rows.
            thorough: Also find errors that do not affect students.
        """
        ...


ONE_THREAD = 32_000  # values per torch operation: larger ones use several threads, which is slower for this check
CENTRED = 2.0**-10  # tolerance for the mean of rounded, centred logits, relative to the largest logit
LARGEST = float(np.finfo(np.float16).max)  # largest centred logit that every codec can store


class Fp16:
    """Stores logits [V,C] as float16.

    The error is at most 2^-11 of the centred logit (rounding), or 2^-25 below 2^-14.
    """

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
        # inf and NaN are 0x7C00 and above, or 0xFC00 and above with the sign bit; integer maxima need no copy
        if logits.view(np.int16).max() >= 0x7C00 or logits.view(np.uint16).max() >= 0xFC00:
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


_CODECS: dict[str, Codec] = {codec.NAME: codec for codec in (Fp16(),)}


def codec_names() -> dict[str, str]:
    """Return the available codecs: name to one-line description."""
    return {name: codec.ABOUT for name, codec in _CODECS.items()}


def find_codec(name: str, *, stored: bool = False) -> Codec:
    """Return a codec by name.

    Args:
        name: Name of the codec.
        stored: Whether the name comes from a set; an unknown one then means that the set needs a newer ddkit.

    Raises:
        OptionError: The codec is unknown; the message lists the available codecs.
        FormatVersion: The codec is unknown and `stored` is true.
    """
    if name in _CODECS:
        return _CODECS[name]
    if stored:
        raise FormatVersion(f"this set's labels use codec {name!r}, which needs a newer ddkit: pip install -U ddkit")
    raise unknown("codec", name, _CODECS)


def fidelity_sums(logits: np.ndarray, decoded: np.ndarray) -> np.ndarray:
    """Compare decoded with original logits.

    Args:
        logits: The teacher's logits [...,C].
        decoded: The decoded logits, same shape.

    Returns:
        Sums over views, float64 [5]: KL(teacher || decoded) in nats at T = 1, 4, 20; top-1 agreements; views.
    """
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
