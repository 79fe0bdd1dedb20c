"""Nearest neighbours of images by pixels and by features, recall and coverage."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ddkit.format.manifest import Manifest
from ddkit.sources.decoding import centre_square
from ddkit.sources.images import Source
from ddkit.specs import EvalTransform

BLOCK = 1024  # rows of a distance matrix computed at once


def sampled_source(
    source: Source, transform: EvalTransform, per_class: int, draw: np.random.Generator, also: np.ndarray | None = None
) -> tuple[Tensor, Tensor, np.ndarray]:
    """Load a sample of a source.

    Args:
        source: The source.
        transform: Sizes of resize and centre crop.
        per_class: Largest number of images of each class.
        draw: Draws them.
        also: Indices of images that are taken in any case.

    Returns:
        (images, uint8 [n,3,S,S]; labels, int64 [n]; indices in the source, int64 [n], ascending).
    """
    chosen = [np.asarray(also if also is not None else [], np.int64)]
    for label in range(len(source.classes)):
        mine = source.members(label)
        chosen.append(draw.permutation(mine)[:per_class])
    indices = np.unique(np.concatenate(chosen))
    return source.squares(indices, transform), torch.from_numpy(source.labels[indices]), indices


def as_seen(images: Tensor, manifest: Manifest) -> Tensor:
    """Return images of a set at the size that its networks see, uint8 [n,3,S,S].

    Args:
        images: uint8 [n,3,H,W].
        manifest: The set.
    """
    side = manifest.eval.crop
    if images.shape[-2:] == (side, side):
        return images
    return torch.stack([centre_square(image, side, side) for image in images])


def pixel_rows(images: Tensor) -> Tensor:
    """Return images as rows whose Euclidean distance is the root mean square difference, in grey levels (0 to 255).

    Args:
        images: uint8 [n,3,S,S].
    """
    rows = images.flatten(1).float()
    scaled: Tensor = rows / rows.shape[1] ** 0.5
    return scaled


def unit_rows(features: Tensor) -> Tensor:
    """Return features at unit length; the distance d of two has cosine 1 - d² / 2.

    Args:
        features: float [n,F].
    """
    return torch.nn.functional.normalize(features, dim=1)


def nearest(queries: Tensor, points: Tensor, *, same: bool = False) -> tuple[Tensor, Tensor]:
    """Return (distance, index) of the nearest point of each query, float [n] and int64 [n].

    Args:
        queries: float [n,F].
        points: float [m,F].
        same: Queries and points are the same rows: a row is not its own neighbour.
    """
    distances, indices = [], []
    for start in range(0, len(queries), BLOCK):
        block = torch.cdist(queries[start : start + BLOCK], points)
        if same:
            rows = torch.arange(len(block))
            block[rows, start + rows] = torch.inf
        found = block.argmin(1)
        distances.append((queries[start : start + BLOCK] - points[found]).norm(dim=1))  # exact: 0 for a copy
        indices.append(found)
    return torch.cat(distances), torch.cat(indices)


def radii(points: Tensor, k: int) -> Tensor:
    """Return the distance of each point to its k-th nearest other point, float64 [n].

    Args:
        points: float [n,F].
        k: From 1; with fewer other points, the farthest one.
    """
    k, points = min(k, len(points) - 1), points.double()
    found = [torch.cdist(block, points).kthvalue(k + 1, dim=1).values for block in points.split(BLOCK)]
    return torch.cat(found)


def recall(real: Tensor, synthetic: Tensor, k: int) -> float:
    """Return the share of real points within the ball of a synthetic one (Kynkäänniemi et al. 2019).

    Args:
        real: float [n,F].
        synthetic: float [m,F]; a ball reaches to the k-th nearest synthetic point.
        k: From 1.
    """
    reach, synthetic = radii(synthetic, k), synthetic.double()
    inside = [(torch.cdist(block.double(), synthetic) <= reach).any(1) for block in real.split(BLOCK)]
    return float(torch.cat(inside).float().mean())


def coverage(real: Tensor, synthetic: Tensor, k: int) -> float:
    """Return the share of real points whose ball holds a synthetic one (Naeem et al. 2020).

    Args:
        real: float [n,F]; a ball reaches to the k-th nearest real point.
        synthetic: float [m,F].
        k: From 1.
    """
    distances, _ = nearest(real, synthetic)
    return float((distances <= radii(real, k)).float().mean())
