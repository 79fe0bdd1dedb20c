"""Evaluation transforms, and inference with trained students."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ddkit import hub
from ddkit.errors import OptionError
from ddkit.format.manifest import Manifest
from ddkit.format.view_pixels import normalise
from ddkit.networks.checkpoints import load_checkpoint
from ddkit.networks.registry import forward
from ddkit.replay.loader import ReplayLoader
from ddkit.sources.decoding import centre_square
from ddkit.specs import EvalTransform, TeacherSpec


@dataclass(frozen=True)
class EvalPipeline:
    """The evaluation transform of a set: resize, centre crop, then the teacher's normalisation.

    Attributes:
        transform: Sizes of resize and crop, pixels.
        mean: Mean per channel, for pixels in [0, 1].
        std: Standard deviation per channel, for pixels in [0, 1].
    """

    transform: EvalTransform
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, image: Any) -> Tensor:
        """Transform one image: PIL image or uint8 [3,H,W] -> float32 [3,S,S]."""
        if not isinstance(image, Tensor):
            image = torch.from_numpy(np.asarray(image.convert("RGB")).transpose(2, 0, 1).copy())
        square = centre_square(image, self.transform.resize, self.transform.crop)
        return normalise(square[None], self.mean, self.std)[0]


def eval_transform(source: ReplayLoader | Manifest) -> EvalPipeline:
    """Return the evaluation transform of a set, for a DataLoader over real images.

    Args:
        source: A loader of the set, or its manifest.

    Raises:
        OptionError: The loader has no manifest.
    """
    manifest = source if isinstance(source, Manifest) else source.manifest
    if manifest is None:
        raise OptionError("a loader over a Dataset has no evaluation transform; give ReplayLoader(..., manifest=DIR)")
    return EvalPipeline(manifest.eval, manifest.normalisation.mean, manifest.normalisation.std)


@dataclass(frozen=True)
class Student:
    """A trained network for inference: `student(image)` returns the most likely classes.

    Attributes:
        network: The network in evaluation mode, float32 [B,3,S,S] -> logits [B,C].
        spec: Its metadata, with classes, normalisation and accuracy.
    """

    network: nn.Module
    spec: TeacherSpec

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the logits."""
        return self.spec.classes

    @property
    def transform(self) -> EvalPipeline:
        """The transform that prepares an image for the network."""
        return EvalPipeline(self.spec.transform, self.spec.mean, self.spec.std)

    def __call__(self, image: Any, top: int = 5) -> list[tuple[str, float]]:
        """Return the most likely classes of an image.

        Args:
            image: A PIL image or uint8 [3,H,W].
            top: Largest number of classes to return.

        Returns:
            (name, probability) of each class, most likely first.
        """
        probabilities = forward(self.network, self.transform(image)[None])[0].float().softmax(0)
        best = probabilities.topk(min(top, len(self.classes)))
        return [(self.classes[i], float(p)) for p, i in zip(best.values.tolist(), best.indices.tolist())]


def load_student(source: str | Path) -> Student:
    """Load a student or teacher that ddkit trained, from its checkpoint or its repository on the Hub.

    Args:
        source: A `.safetensors` file, or "ORG/NAME" of a model pushed with `--push-to`.

    Raises:
        TeacherError, HubAccess, HubError.
    """
    named = hub.parse_id(str(source).removeprefix("hf-hub:"))
    path = Path(source)
    if named is not None and not path.suffix:
        path = hub.fetch(named[0], "model.safetensors", revision=named[1], kind="model")
    return Student(*load_checkpoint(path))
