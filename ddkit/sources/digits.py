"""The built-in source `digits`: scikit-learn's 8x8 digits, 32x32 RGB, bilinear."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ddkit.core.worker_state import STATE


def digits_split(split: str) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
    """Return (images, labels, rows): all images, uint8 [1797,3,32,32], their labels, and the rows of one split.

    Every fifth image of each class is the test split.

    Args:
        split: `train` or `test`.
    """
    images, labels = STATE.constant("digits", _load)
    test = np.zeros(len(labels), bool)
    for label in range(10):
        test[np.flatnonzero(labels == label)[4::5]] = True
    return images, labels, np.flatnonzero(test if split == "test" else ~test)


def _load() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    import torch
    from sklearn.datasets import load_digits
    from torch.nn.functional import interpolate

    digits = load_digits()
    grey = torch.from_numpy(np.rint(digits.images * (255 / 16)).astype(np.uint8))[:, None]
    images = interpolate(grey, (32, 32), mode="bilinear", align_corners=False).repeat(1, 3, 1, 1).numpy()
    labels = digits.target.astype(np.int64)
    images.flags.writeable = labels.flags.writeable = False  # shared by all that open the source
    return images, labels
