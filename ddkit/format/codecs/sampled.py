"""Codec `sampled:K`: K classes drawn from the teacher's softmax, an unbiased estimate at temperature 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from ddkit.format.codecs.interface import Codec, Layout, Tensors, number
from ddkit.format.codecs.top import index_dtype

ABSENT = -100.0  # logit of a class that was not drawn: its softmax is 0 in single precision


@dataclass(frozen=True)
class Sampled(Codec):
    """Stores `index` uint16 or uint32 [V,K], the classes drawn with replacement, and `count` uint8 [V,K], how often.

    count / K is an unbiased estimate of softmax(z) with variance p (1 - p) / K per class (RS-KD, arXiv 2503.16870). It
    says nothing about other temperatures. Unused places at the end have count 0.

    Attributes:
        k: Number of draws.
    """

    FAMILY = "sampled"
    USAGE = "sampled:K"
    ABOUT = "K classes drawn from the softmax, unbiased at temperature 1 and for that only: 3 K bytes a view"

    k: int

    @classmethod
    def parse(cls, parameters: str) -> Self:
        if not parameters.startswith(":"):
            raise ValueError("the number of draws is missing, as in sampled:50")
        return cls(number(parameters[1:], "K", 255))

    @property
    def name(self) -> str:
        return f"sampled:{self.k}"

    def temperatures(self, wanted: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(t for t in wanted if t == 1)

    def layout(self, views: int, classes: int) -> Layout:
        return {"index": (index_dtype(classes), (views, self.k)), "count": (np.dtype(np.uint8), (views, self.k))}

    def encode(self, logits: np.ndarray, shared: Tensors, generator: np.random.Generator) -> dict[str, np.ndarray]:
        z = logits.astype(np.float64)
        ends = np.cumsum(np.exp(z - z.max(axis=-1, keepdims=True)), axis=-1)
        places = generator.random((len(z), self.k)) * ends[:, -1:]
        views = [np.searchsorted(end, place, side="right") for end, place in zip(ends, places)]
        drawn = np.minimum(np.sort(np.array(views), axis=-1), z.shape[-1] - 1)
        index = np.zeros((len(z), self.k), index_dtype(z.shape[-1]))
        count = np.zeros((len(z), self.k), np.uint8)
        for view, classes in enumerate(drawn):
            different, times = np.unique(classes, return_counts=True)
            index[view, : len(different)], count[view, : len(different)] = different, times
        return {"index": index, "count": count}

    def decode(self, tensors: Tensors, classes: int, temperature: float, shared: Tensors) -> np.ndarray:
        self.check_temperature(temperature)
        index, count = tensors["index"].astype(np.int64), tensors["count"].astype(np.float32)
        share = np.zeros((*index.shape[:-1], classes), np.float32)
        flat, places, counts = share.reshape(-1, classes), index.reshape(-1, self.k), count.reshape(-1, self.k)
        np.add.at(flat, (np.arange(len(flat))[:, None], places), counts)
        with np.errstate(divide="ignore"):
            logits: np.ndarray = np.maximum(np.log(share / np.float32(self.k)), np.float32(ABSENT))
        return logits

    def agree(self, stored: np.ndarray, computed: np.ndarray) -> np.ndarray:
        apart = np.linalg.norm(np.exp(stored) - np.exp(computed), axis=-1)
        found: np.ndarray = apart <= 6 / np.sqrt(self.k)  # two samples of K draws are about sqrt(2 / K) apart
        return found

    def problem(self, tensors: Tensors, classes: int, thorough: bool) -> str | None:
        if tensors["index"].max() >= classes:
            return f"an index that is not one of the {classes} classes"
        drawn = tensors["count"].sum(-1, dtype=np.int64)
        return f"counts that do not add up to {self.k}" if (drawn != self.k).any() else None


CODEC = Sampled
