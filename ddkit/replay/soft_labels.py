"""The soft labels of views: decoded from what a set stores, or computed by the teacher that it carries."""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import Tensor

from ddkit.core.console import note
from ddkit.core.device import each_on_one_thread
from ddkit.errors import SetError
from ddkit.format.codecs.registry import LabelDecoder
from ddkit.format.manifest import Manifest
from ddkit.replay.stores.interface import StoredLabels
from ddkit.teachers.carried import load_carried


class SoftLabels:
    """Returns the teacher's logits for views.

    Args:
        decoder: Decoder of the set's labels.
        manifest: The set; needed if it carries its teacher.
        temperature: Temperature at which students learn.
        device: Device of the logits.
        columns: The columns of the logits to return, int [C']; None: all.

    Raises:
        OptionError: The set has no labels for this temperature.
        SetError: The set carries its teacher, and `manifest` is None.
        IntegrityError: The carried teacher is missing or damaged.
    """

    def __init__(
        self,
        decoder: LabelDecoder,
        manifest: Manifest | None,
        temperature: float,
        device: torch.device,
        columns: np.ndarray | None = None,
    ) -> None:
        self._decoder, self._temperature, self._device = decoder, temperature, device
        self._columns = None if columns is None else torch.from_numpy(columns)
        self._teacher = None
        self._shared = {}
        if device.type == "cuda":
            self._shared = {name: torch.from_numpy(array).to(device) for name, array in decoder.shared.items()}
        decoder.codec.check_temperature(temperature)
        if decoder.codec.FROM_PIXELS:
            if manifest is None:
                raise SetError("the set stores its teacher instead of labels; pass manifest=, its directory or Hub id")
            self._teacher = load_carried(manifest, device)

    def logits(self, tensors: StoredLabels, inputs: Tensor, rows: np.ndarray | None = None) -> Tensor:
        """Return the logits of some views, float32 [B,C], on the device.

        Args:
            tensors: The codec's tensors [B,...]; on the device where the store keeps them there.
            inputs: The normalised views, float32 [B,3,S,S]; a carried teacher computes the logits from them.
            rows: Positions of their rows, int [B]; needed only of joined sets.
        """
        if self._teacher is not None:
            logits = self._teacher.logits(inputs).clone()  # not an inference tensor: losses save it
        else:
            logits = self._decoded(tensors, rows)
        return (logits if self._columns is None else logits[:, self._columns.to(logits.device)]).to(self._device)

    def _decoded(self, stored: StoredLabels, rows: np.ndarray | None) -> Tensor:
        """Decode labels on the GPU, where that is possible, so that only the stored bytes are copied to it.

        On a CPU they are decoded on one thread: the threads of a matrix product wait actively, while images need the
        cores.
        """
        there = {name: tensor for name, tensor in stored.items() if isinstance(tensor, Tensor)}
        if there:
            return self._decoder.decode_on_device(there, self._shared)
        tensors = {name: tensor for name, tensor in stored.items() if not isinstance(tensor, Tensor)}
        if self._device.type == "cuda" and self._decoder.on_gpu:
            return self._decoder.decode_on_device(self._decoder.placed(tensors, self._device), self._shared)
        decoded: list[np.ndarray] = []
        each_on_one_thread(
            lambda _: decoded.append(self._decoder.decode(tensors, self._temperature, rows)), 1, side_by_side=False
        )
        return torch.from_numpy(decoded[0])

    def report_cost(self, inputs: Tensor) -> None:
        """Print what labelling a batch costs, if a carried teacher computes the labels.

        Args:
            inputs: The normalised views of one batch.
        """
        if self._teacher is None:
            return
        self._teacher.logits(inputs)
        began = time.perf_counter()
        self._teacher.logits(inputs).cpu()
        spent = 1000 * (time.perf_counter() - began)
        note(
            f"labels are computed by the set's own teacher ({self._teacher.spec.arch}): {spent:.0f} ms for each batch "
            f"of {len(inputs)}"
        )
