"""How images are prepared for evaluation, and trained students used on them."""

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
    """Resize, centre crop, normalise as the teacher did: PIL image or uint8 [3,H,W] -> float32 [3,S,S].

    mean, std: per channel, for pixels in [0, 1].
    """

    transform: EvalTransform
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, image: Any) -> Tensor:
        """Prepare one image."""
        if not isinstance(image, Tensor):
            image = torch.from_numpy(np.asarray(image.convert("RGB")).transpose(2, 0, 1).copy())
        square = centre_square(image, self.transform.resize, self.transform.crop)
        return normalise(square[None], self.mean, self.std)[0]


def eval_transform(source: ReplayLoader | Manifest) -> EvalPipeline:
    """The evaluation transform of a set, for a DataLoader over real images.

    source: a loader of the set, or its manifest. Raises OptionError for a loader without a manifest.
    """
    manifest = source if isinstance(source, Manifest) else source.manifest
    if manifest is None:
        raise OptionError("a loader over a Dataset knows no evaluation transform; give ReplayLoader(..., manifest=DIR)")
    return EvalPipeline(manifest.eval, manifest.normalisation.mean, manifest.normalisation.std)


@dataclass(frozen=True)
class Student:
    """A trained network with what it needs to be used: `student(image)` names the classes it sees.

    network: in evaluation mode, float32 [B,3,S,S] -> logits [B,C]; spec: its classes, normalisation and accuracy.
    """

    network: nn.Module
    spec: TeacherSpec

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the logits."""
        return self.spec.classes

    @property
    def transform(self) -> EvalPipeline:
        """What prepares an image for the network."""
        return EvalPipeline(self.spec.transform, self.spec.mean, self.spec.std)

    def __call__(self, image: Any, top: int = 5) -> list[tuple[str, float]]:
        """The most likely classes of an image with their probabilities.

        image: a PIL image or uint8 [3,H,W]; top: how many.
        """
        probabilities = forward(self.network, self.transform(image)[None])[0].float().softmax(0)
        best = probabilities.topk(min(top, len(self.classes)))
        return [(self.classes[i], float(p)) for p, i in zip(best.values.tolist(), best.indices.tolist())]


def load_student(source: str | Path) -> Student:
    """A student, or teacher, that ddkit trained: from its checkpoint, or from its repository on the Hub.

    source: a `.safetensors` file, or "ORG/NAME" of a model pushed with `--push-to`. Raises TeacherError, HubAccess,
    HubError.
    """
    named = hub.parse_id(str(source).removeprefix("hf-hub:"))
    path = Path(source)
    if named is not None and not path.suffix:
        path = hub.fetch(named[0], "model.safetensors", revision=named[1], kind="model")
    return Student(*load_checkpoint(path))
