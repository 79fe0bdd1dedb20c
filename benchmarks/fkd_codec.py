"""The codec `renorm:K`: labels cut off and renormalised as FKD does, for `labels.py`.

Sets with it are for measuring only: ddkit does not read them elsewhere, and their card describes `topk:K`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ddkit.format.codecs.interface import Layout, Tensors
from ddkit.format.codecs.registry import FAMILIES
from ddkit.format.codecs.sampled import ABSENT
from ddkit.format.codecs.top import largest, put_top, top_layout, top_problem
from ddkit.format.codecs.topk import TopK

NAME = "renorm"


@dataclass(frozen=True)
class Renormalised(TopK):
    """The K largest probabilities at temperature 1, divided by their sum; the others are 0 (FKD, arXiv 2112.01528).

    Its softmax is biased towards the classes that are kept (RS-KD, arXiv 2503.16870). Stores `top` float16 [V,K] and
    `index` [V,K].

    Attributes:
        k: Number of probabilities that are kept.
    """

    USAGE = "renorm:K"
    ABOUT = "the K largest probabilities, renormalised, for temperature 1 only: 4 K bytes a view"
    BY_TEMPERATURE = False

    @property
    def name(self) -> str:
        return f"{NAME}:{self.k}"

    def temperatures(self, wanted: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(t for t in wanted if t == 1)

    def layout(self, views: int, classes: int) -> Layout:
        return top_layout(views, classes, self.k)

    def encode(self, logits: np.ndarray, shared: Tensors, generator: np.random.Generator) -> dict[str, np.ndarray]:
        top, index = largest(logits, self.k)
        return {"top": top, "index": index.astype(self.layout(1, logits.shape[-1])["index"][0])}

    def decode(self, tensors: Tensors, classes: int, temperature: float, shared: Tensors) -> np.ndarray:
        self.check_temperature(temperature)
        top = tensors["top"].astype(np.float32)
        logits = np.repeat(top[..., :1] + np.float32(ABSENT), classes, axis=-1)
        put_top(logits, tensors)
        return logits

    def problem(self, tensors: Tensors, classes: int, thorough: bool) -> str | None:
        return top_problem(tensors, classes)


def register() -> None:
    """Make the codec known in this process."""
    FAMILIES[NAME] = Renormalised
