"""How images are prepared for evaluation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ddkit.errors import OptionError
from ddkit.format.manifest import Manifest
from ddkit.format.view_pixels import normalise
from ddkit.replay.loader import ReplayLoader
from ddkit.sources.decoding import centre_square


class EvalPipeline:
    """Resize, centre crop, normalise as the teacher did: PIL image or uint8 [3,H,W] -> float32 [3,S,S]."""

    def __init__(self, manifest: Manifest) -> None:
        self.transform, self.mean, self.std = manifest.eval, manifest.normalisation.mean, manifest.normalisation.std

    def __call__(self, image: Any) -> Tensor:
        if not isinstance(image, Tensor):
            import numpy as np

            image = torch.from_numpy(np.asarray(image.convert("RGB")).transpose(2, 0, 1).copy())
        square = centre_square(image, self.transform.resize, self.transform.crop)
        return normalise(square[None], self.mean, self.std)[0]


def eval_transform(source: ReplayLoader | Manifest) -> EvalPipeline:
    """The evaluation transform of a set, for a DataLoader over real images. Raises OptionError without a manifest."""
    manifest = source if isinstance(source, Manifest) else source.manifest
    if manifest is None:
        raise OptionError("a loader over a Dataset knows no evaluation transform; give ReplayLoader(..., manifest=DIR)")
    return EvalPipeline(manifest)
