"""Codec `teacher`: the set carries its teacher, and the loader computes the labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ddkit.errors import OptionError
from ddkit.format.codecs.interface import Codec, Layout, Tensors


@dataclass(frozen=True)
class CarriedTeacher(Codec):
    """Stores nothing per row. `teacher.safetensors` holds the network, its weights in half precision.

    The label of a view is the output of that network in eval mode for the view's pixels. It differs from the teacher's
    by the rounding of the weights, whose effect the manifest records, and in the last bits between devices.
    """

    FAMILY = "teacher"
    USAGE = "teacher"
    ABOUT = "no stored labels: the set carries its teacher in half precision, and every step runs it"
    FROM_PIXELS = True

    def layout(self, views: int, classes: int) -> Layout:
        return {}

    def encode(self, logits: np.ndarray, shared: Tensors, generator: np.random.Generator) -> dict[str, np.ndarray]:
        return {}

    def decode(self, tensors: Tensors, classes: int, temperature: float, shared: Tensors) -> np.ndarray:
        raise OptionError(
            "this set stores no labels but its teacher; run teacher.safetensors on the views, as ReplayLoader does"
        )

    def problem(self, tensors: Tensors, classes: int, thorough: bool) -> str | None:
        return None


CODEC = CarriedTeacher
