"""The interface of codecs for soft labels.

Softmax ignores a constant, so every codec stores logits minus their mean over the classes.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Self

import numpy as np
from torch import Tensor

from ddkit.errors import OptionError

Tensors = Mapping[str, np.ndarray]
Layout = dict[str, tuple[np.dtype, tuple[int, ...]]]  # dtype and shape by name of a tensor

LARGEST = float(np.finfo(np.float16).max)  # largest centred logit that every codec can store
FLOAT16 = np.dtype(np.float16)


class Codec(ABC):
    """A codec, with its parameters.

    Attributes:
        FAMILY: First part of the codec's name, before any colon.
        USAGE: How the name is written, for example "topk:K".
        ABOUT: One-line description that states size and error.
        NAMES_CLASSES: Whether the metadata of a row holds the number of classes, which its tensors do not show.
        BY_TEMPERATURE: Whether decoded logits depend on the temperature.
        FROM_PIXELS: Whether no labels are stored: the loader runs the set's own teacher on the pixels of the views.
    """

    FAMILY: ClassVar[str]
    USAGE: ClassVar[str]
    ABOUT: ClassVar[str]
    NAMES_CLASSES: ClassVar[bool] = True
    BY_TEMPERATURE: ClassVar[bool] = False
    FROM_PIXELS: ClassVar[bool] = False

    @classmethod
    def parse(cls, parameters: str) -> Self:
        """Return the codec with the parameters that follow `FAMILY` in its name; by default it has none.

        Args:
            parameters: The rest of the name, with the separator: "", ":100" or "+top5".

        Raises:
            ValueError: The parameters are not valid.
        """
        if parameters:
            raise ValueError(f"{cls.FAMILY} has no parameters")
        return cls()

    @property
    def name(self) -> str:
        """The codec with its parameters, in one canonical spelling; `parse` reads it."""
        return self.FAMILY

    @abstractmethod
    def layout(self, views: int, classes: int) -> Layout:
        """Return the dtype and shape of each tensor of a row.

        Args:
            views: V, the number of views.
            classes: C, the number of classes.
        """

    @abstractmethod
    def encode(self, logits: np.ndarray, shared: Tensors, generator: np.random.Generator) -> dict[str, np.ndarray]:
        """Encode the logits of one row.

        Args:
            logits: Centred logits, float32 [V,C].
            shared: The tensors returned by `fit`; empty for codecs without them.
            generator: The row's own random numbers, for codecs that sample.
        """

    @abstractmethod
    def decode(self, tensors: Tensors, classes: int, temperature: float, shared: Tensors) -> np.ndarray:
        """Decode to logits, float32 [...,C]. The result for a view does not depend on the other views.

        Args:
            tensors: The tensors of some views, [...] in place of [V].
            classes: C, the number of classes.
            temperature: Temperature at which students learn.
            shared: The tensors that all rows of the set share.

        Raises:
            OptionError: The codec has no labels for this temperature, or none at all.
        """

    @abstractmethod
    def problem(self, tensors: Tensors, classes: int, thorough: bool) -> str | None:
        """Return why tensors of the right dtypes and shapes are not valid labels, or None.

        Args:
            tensors: The tensors [n,V,...] of n rows.
            classes: C, the number of classes.
            thorough: Also find errors that do not affect students.
        """

    def check(self, classes: int) -> None:  # noqa: B027 (most codecs suit any number of classes)
        """Check that the codec can encode labels of this many classes.

        Args:
            classes: C, the number of classes.

        Raises:
            OptionError: A parameter of the codec is too large for them.
        """

    def agree(self, stored: np.ndarray, computed: np.ndarray) -> np.ndarray:
        """Return which decoded labels can be those of the given logits: bool [B].

        By default the decoded labels of both may differ by a tenth: logits differ between kinds of hardware, which
        codecs that round or select can magnify.

        Args:
            stored: Decoded labels, float32 [B,C].
            computed: Decoded labels of logits that were computed again, float32 [B,C].
        """
        found: np.ndarray = _length(stored - computed) <= 0.1 * _length(computed) + 1e-3
        return found

    def temperatures(self, wanted: tuple[float, ...]) -> tuple[float, ...]:
        """Return those of some temperatures at which the codec has labels.

        Args:
            wanted: The temperatures.
        """
        return wanted

    def usual_temperature(self, wanted: float) -> float:
        """Return a temperature if the codec has labels for it, else the one that it has.

        Args:
            wanted: The temperature.
        """
        return self.temperatures((wanted, 1.0))[0]

    def check_temperature(self, temperature: float) -> None:
        """Check that the codec has labels for a temperature.

        Args:
            temperature: Temperature at which students learn.

        Raises:
            OptionError: It has none, or there is no such temperature.
        """
        if isinstance(temperature, bool) or not isinstance(temperature, int | float) or not 0 < temperature < math.inf:
            raise OptionError(f"temperature is {temperature!r:.40}; give a number above 0")
        if not self.temperatures((temperature,)):
            raise OptionError(
                f"labels of codec {self.name} are for losses at temperature 1, not {temperature:g}; use a protocol "
                "with temperature = 1, or a set with another codec"
            )

    def shared_layout(self, classes: int) -> Layout:
        """Return the dtype and shape of the tensors that all rows share; empty for most codecs.

        Args:
            classes: C, the number of classes.
        """
        return {}

    def prepared(self, shared: Tensors) -> Tensors:
        """Return the shared tensors in the types that `decode` computes in, converted once for a set.

        Args:
            shared: The tensors that all rows share.
        """
        return shared

    def fit(self, logits: np.ndarray, known: Tensors | None = None) -> dict[str, np.ndarray]:
        """Return the tensors that all rows share.

        Args:
            logits: Centred logits of a sample of views, float32 [N,C].
            known: What a codec of the same family was fitted to on the same logits; saves time where it can be reused.
        """
        return {}

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of the tensors of a row."""
        return tuple(self.layout(1, 2**16))

    def bytes_per_view(self, classes: int) -> int:
        """Return the bytes of one view's label.

        Args:
            classes: C, the number of classes.
        """
        return layout_bytes(self.layout(1, classes))


class GpuCodec(Codec):
    """A codec whose labels can be decoded on a CUDA GPU as well."""

    @abstractmethod
    def decode_on_device(self, tensors: Mapping[str, Tensor], shared: Mapping[str, Tensor]) -> Tensor:
        """Decode on a device, at any temperature, to the values of `decode`: float32 [...,C].

        Args:
            tensors: The tensors of some views on the device, class indices as int32.
            shared: The result of `prepared` on the device.
        """


def _length(values: np.ndarray) -> np.ndarray:
    found: np.ndarray = np.linalg.norm(values.astype(np.float64), axis=-1)
    return found


def layout_bytes(layout: Layout) -> int:
    """Return the bytes of tensors with these dtypes and shapes, without headers."""
    return sum(dtype.itemsize * math.prod(shape) for dtype, shape in layout.values())


def centred(logits: np.ndarray) -> np.ndarray:
    """Return logits minus their mean over the last axis, limited to what half precision can hold: float32.

    Args:
        logits: float [...,C].
    """
    z = logits.astype(np.float32, copy=False)
    found: np.ndarray = np.clip(z - z.mean(axis=-1, keepdims=True), -LARGEST, LARGEST)
    return found


def number(text: str, what: str, most: int) -> int:
    """Parse a parameter of a codec: a whole number from 1 to `most`. Raises ValueError, naming `what` it is."""
    if not (text.isascii() and text.isdigit() and not text.startswith("0") and int(text) <= most):
        raise ValueError(f"{what} is {text[:20]!r}; it must be a whole number from 1 to {most}")
    return int(text)


def require_classes(codec: Codec, what: str, needed: int, classes: int) -> None:
    """Raise OptionError if a parameter of a codec is larger than the number of classes.

    Args:
        codec: The codec.
        what: The parameter's letter.
        needed: Its value.
        classes: C, the number of classes.
    """
    if needed > classes:
        raise OptionError(
            f"codec {codec.name} has {what} = {needed}, above the {classes} classes; use at most {classes}"
        )


def not_finite(array: np.ndarray) -> bool:
    """Return whether a float16 array holds inf or NaN, by its bits and without a copy."""
    # inf and NaN are 0x7C00 and above, or 0xFC00 and above with the sign bit
    return bool(array.size) and bool(array.view(np.int16).max() >= 0x7C00 or array.view(np.uint16).max() >= 0xFC00)
