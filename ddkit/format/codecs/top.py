"""The largest logits of a view with their classes, as several codecs store them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from ddkit.format.codecs.interface import FLOAT16, Layout, Tensors, not_finite

BELOW = 2.0**-11  # how far below the smallest stored logit all others are, relative to it


def index_dtype(classes: int) -> np.dtype:
    """Return the type of stored class indices: uint16, or uint32 above 65,536 classes.

    Args:
        classes: C, the number of classes.
    """
    return np.dtype(np.uint16 if classes <= 2**16 else np.uint32)


def top_layout(views: int, classes: int, k: int) -> Layout:
    """Return the dtype and shape of the tensors `top` and `index`.

    Args:
        views: V, the number of views.
        classes: C, the number of classes.
        k: K, the number of logits that are kept.
    """
    return {"top": (FLOAT16, (views, k)), "index": (index_dtype(classes), (views, k))}


def largest(logits: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the K largest logits of each view and their classes, largest first, equal ones by class.

    Args:
        logits: Centred logits, float32 [V,C].
        k: K.

    Returns:
        (float16 [V,K], class indices int64 [V,K]).
    """
    values = logits.astype(np.float16)
    bits = values.view(np.int16).astype(np.int64)
    bits[bits == -(2**15)] = 0  # -0.0 equals 0.0
    order = np.where(bits < 0, -(bits + 2**15), bits)  # integers in the order of the floats
    classes = logits.shape[-1]
    keys = order * 2**32 + (classes - 1 - np.arange(classes))  # all different, so that the result is unique
    top = np.sort(np.partition(keys, classes - k, axis=-1)[..., classes - k :], axis=-1)[..., ::-1]
    index = classes - 1 - (top & (2**32 - 1))
    return np.take_along_axis(values, index, axis=-1), index


def put_top(logits: np.ndarray, tensors: Tensors) -> None:
    """Write stored logits into decoded ones, in place.

    The others are limited to just below the smallest stored one, since the stored ones are the largest: by 1/2048 of
    its magnitude, half of a step in half precision, which is exact in single precision.

    Args:
        logits: float32 [...,C].
        tensors: `top` [...,K] and `index` [...,K].
    """
    top = tensors["top"].astype(np.float32)
    least = top[..., -1:]
    np.minimum(logits, least - np.abs(least) * np.float32(BELOW), out=logits)
    np.put_along_axis(logits, tensors["index"].astype(np.int64), top, axis=-1)


def put_top_on_device(logits: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
    """Write stored logits into decoded ones as `put_top` does, on a device; returns the result.

    Args:
        logits: float32 [...,C].
        tensors: `top` [...,K], and `index` int32 [...,K].
    """
    top = tensors["top"].float()
    least = top[..., -1:]
    return torch.minimum(logits, least - least.abs() * BELOW).scatter_(-1, tensors["index"].long(), top)


def top_problem(tensors: Tensors, classes: int) -> str | None:
    """Return why `top` [n,V,K] and `index` [n,V,K] are not valid, or None.

    Args:
        tensors: The tensors.
        classes: C, the number of classes.
    """
    top, index = tensors["top"], tensors["index"]
    if not_finite(top):
        return "logits that are not finite"
    if (top[..., 1:] > top[..., :-1]).any():
        return "largest logits that are not in descending order"
    if index.max() >= classes:
        return f"an index that is not one of the {classes} classes"
    ordered = np.sort(index, axis=-1)
    return "a class with two logits" if (ordered[..., 1:] == ordered[..., :-1]).any() else None
