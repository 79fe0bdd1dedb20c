"""Finds codecs by name."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

import ddkit.format.codecs
from ddkit.errors import FormatVersion, OptionError, unknown
from ddkit.format.codecs.interface import Codec, GpuCodec, Tensors


def _families() -> dict[str, type[Codec]]:
    """The codecs by family: those of every module of this folder that has a `CODEC`."""
    names = [module.name for module in pkgutil.iter_modules(ddkit.format.codecs.__path__)]
    modules = [
        importlib.import_module(f"{ddkit.format.codecs.__name__}.{name}") for name in names if name != "registry"
    ]
    return {module.CODEC.FAMILY: module.CODEC for module in modules if hasattr(module, "CODEC")}


FAMILIES = _families()


def codec_names() -> dict[str, str]:
    """Return the available codecs: how the name is written, and a one-line description."""
    return {codec.USAGE: codec.ABOUT for codec in FAMILIES.values()}


def find_codec(name: str, *, stored: bool = False) -> Codec:
    """Return a codec by name.

    Args:
        name: Name with parameters, such as "fp16" or "lowrank:32:i4+top5".
        stored: Whether the name comes from a set; an unknown one then means that the set needs a newer ddkit.

    Raises:
        OptionError: The codec is unknown (the message lists the available codecs), or its parameters are not valid.
        FormatVersion: The codec is unknown or has other parameters, and `stored` is true.
    """
    ends = [at for at in (name.find(":"), name.find("+")) if at >= 0]
    family = name[: min(ends, default=len(name))]
    codec = FAMILIES.get(family)
    try:
        if codec is not None:
            return codec.parse(name[len(family) :])
    except ValueError as error:
        if not stored:
            raise OptionError(f"codec {name[:60]!r}: {error}") from error
    if stored:
        raise FormatVersion(
            f"this set's labels use codec {name[:60]!r}, which needs a newer ddkit: pip install -U ddkit"
        )
    raise unknown("codec", name, [known.USAGE for known in FAMILIES.values()])


@dataclass(frozen=True)
class LabelDecoder:
    """Decodes the stored labels of a set, or of several sets that are joined.

    Attributes:
        codec: The codec.
        classes: C, the number of classes.
        shared: The tensors that all rows of the set share.
        others: Of further joined sets: position of the first row, and the tensors that its rows share.
    """

    codec: Codec
    classes: int
    shared: Tensors
    others: tuple[tuple[int, Tensors], ...] = ()

    def decode(self, tensors: Tensors, temperature: float = 20.0, rows: np.ndarray | None = None) -> np.ndarray:
        """Return logits, float32 [...,C].

        Args:
            tensors: The codec's tensors of some views.
            temperature: Temperature at which students learn.
            rows: Positions of the views' rows, int [B]; needed only if sets are joined.

        Raises:
            OptionError: The codec has no labels for this temperature, or stores none.
        """
        if not self.others or rows is None:
            return self.codec.decode(tensors, self.classes, temperature, self.shared)
        of = np.searchsorted([start for start, _ in self.others], rows, side="right")
        found = np.empty((len(rows), self.classes), np.float32)
        for number in np.unique(of):
            mine, shared = of == number, self.others[number - 1][1] if number else self.shared
            part = {name: tensor[mine] for name, tensor in tensors.items()}
            found[mine] = self.codec.decode(part, self.classes, temperature, shared)
        return found

    @property
    def on_gpu(self) -> bool:
        """Whether labels can be decoded on a CUDA GPU."""
        return isinstance(self.codec, GpuCodec) and not self.others

    def placed(self, tensors: Tensors, device: torch.device) -> dict[str, Tensor]:
        """Copy stored labels to a device, for `decode_on_device`.

        Args:
            tensors: The codec's tensors, of any number of views.
            device: The device.
        """
        signed = {name: tensor.astype(np.int32) if name == "index" else tensor for name, tensor in tensors.items()}
        return {name: torch.from_numpy(tensor).to(device) for name, tensor in signed.items()}

    def placed_bytes(self, tensors: Tensors) -> int:
        """Return the bytes that `placed` takes on the device.

        Args:
            tensors: The codec's tensors, of any number of views.
        """
        return sum(tensor.size * 4 if name == "index" else tensor.nbytes for name, tensor in tensors.items())

    def decode_on_device(self, tensors: Mapping[str, Tensor], shared: Mapping[str, Tensor]) -> Tensor:
        """Return the logits of `decode` at any temperature, float32 [...,C], on a CUDA GPU, where `on_gpu` is true.

        Args:
            tensors: Some views of what `placed` returned.
            shared: The attribute `shared` on the device.
        """
        assert isinstance(self.codec, GpuCodec)
        return self.codec.decode_on_device(tensors, shared)

    def joined(self, others: Sequence[tuple[int, LabelDecoder]]) -> LabelDecoder:
        """Return the decoder of this set and others behind it.

        Args:
            others: Position of the first row, and decoder, of each further set; all have this codec.
        """
        return replace(self, others=tuple((start, one.shared) for start, one in others)) if self.shared else self
