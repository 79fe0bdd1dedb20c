"""Codec `topk:K`: the K largest logits exactly, mean and variance of the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from ddkit.format.codecs.interface import (
    FLOAT16,
    LARGEST,
    Codec,
    Layout,
    Tensors,
    not_finite,
    number,
    require_classes,
)
from ddkit.format.codecs.top import largest, put_top, top_layout, top_problem


@dataclass(frozen=True)
class TopK(Codec):
    """Stores `top` float16 [V,K] and `index` uint16 or uint32 [V,K], `rest_mean` and `rest_var` float16 [V].

    At temperature T each other logit is rest_mean + rest_var / (2T), whose softmax has the same total as theirs to
    second order: at T = 20 the others hold most of the probability. The K logits are exact to half precision; each
    other differs by at most the distance from their mean.

    Attributes:
        k: Number of logits that are kept.
    """

    FAMILY = "topk"
    USAGE = "topk:K"
    ABOUT = "the K largest logits exactly, the others as mean and variance: 4 K + 4 bytes a view"

    BY_TEMPERATURE = True

    k: int

    @classmethod
    def parse(cls, parameters: str) -> Self:
        if not parameters.startswith(":"):
            raise ValueError("the number of logits is missing, as in topk:100")
        return cls(number(parameters[1:], "K", 2**15))

    @property
    def name(self) -> str:
        return f"topk:{self.k}"

    def check(self, classes: int) -> None:
        require_classes(self, "K", self.k, classes)

    def layout(self, views: int, classes: int) -> Layout:
        rest: Layout = {"rest_mean": (FLOAT16, (views,)), "rest_var": (FLOAT16, (views,))}
        return top_layout(views, classes, self.k) | rest

    def encode(self, logits: np.ndarray, shared: Tensors, generator: np.random.Generator) -> dict[str, np.ndarray]:
        views, classes = logits.shape
        top, index = largest(logits, self.k)
        is_rest = np.ones_like(logits, bool)
        np.put_along_axis(is_rest, index, False, axis=-1)
        rest = logits[is_rest].reshape(views, classes - self.k).astype(np.float64)
        mean, var = np.zeros(views), np.zeros(views)
        if rest.size:
            mean, var = rest.mean(-1), rest.var(-1)
        return {
            "top": top, "index": index.astype(self.layout(1, classes)["index"][0]),
            "rest_mean": mean.astype(np.float16), "rest_var": np.minimum(var, LARGEST).astype(np.float16),
        }  # fmt: skip

    def decode(self, tensors: Tensors, classes: int, temperature: float, shared: Tensors) -> np.ndarray:
        rest = tensors["rest_mean"].astype(np.float32) + tensors["rest_var"].astype(np.float32) / (2 * temperature)
        logits = np.repeat(rest.astype(np.float32)[..., None], classes, axis=-1)
        put_top(logits, tensors)
        return logits

    def problem(self, tensors: Tensors, classes: int, thorough: bool) -> str | None:
        if not_finite(tensors["rest_mean"]) or not_finite(tensors["rest_var"]) or (tensors["rest_var"] < 0).any():
            return "a rest_mean or rest_var that is not a valid number"
        return top_problem(tensors, classes)


CODEC = TopK
