"""Corrupts images with the reference implementations; run by `corruptions.py`, in an environment of their own.

    python corruptions_reference.py IMAGES.npy RESULT.npy NAME SEVERITY FIRST_SEED [MAKE_CIFAR_C.py]

Needs the package imagecorruptions (Michaelis et al., 2019), which implements ImageNet-C. It was written for older
versions of NumPy, SciPy and scikit-image; `main` gives back the names that these have removed. With MAKE_CIFAR_C.py,
the functions of that file (of the authors' repository, github.com/hendrycks/robustness) are used instead; what it blurs
with ImageMagick is blurred with the function of imagecorruptions.

Image i is corrupted after `np.random.seed(FIRST_SEED + i)`.
"""

import ast
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import scipy.ndimage
import skimage.filters
import skimage.util
from PIL import Image


def restore_removed_names() -> None:
    """Give NumPy, SciPy and scikit-image the names that the reference uses and that newer versions lack."""
    np.float_ = np.float64  # noqa: NPY201
    np.fromstring = np.frombuffer
    sys.modules["scipy.ndimage.interpolation"] = scipy.ndimage
    gaussian = skimage.filters.gaussian

    def gaussian_of_old(image, sigma=1, multichannel=False, **settings):
        return gaussian(image, sigma=sigma, channel_axis=-1 if multichannel else None, **settings)

    skimage.filters.gaussian = gaussian_of_old


class Blurred:
    """What the CIFAR-10-C code needs of ImageMagick: an image that is blurred by the function of imagecorruptions."""

    def __init__(self, blob: bytes) -> None:
        self.pixels = np.asarray(Image.open(BytesIO(blob)))

    def motion_blur(self, radius: float, sigma: float, angle: float) -> None:
        from imagecorruptions.corruptions import _motion_blur

        self.pixels = np.rint(_motion_blur(self.pixels, radius=radius, sigma=sigma, angle=angle)).astype(np.uint8)

    def make_blob(self) -> bytes:
        file = BytesIO()
        Image.fromarray(self.pixels).save(file, "PNG")
        return file.getvalue()


def functions_of(cifar_code: str | None) -> dict:
    """Return the reference functions by name: of imagecorruptions, or of the file `cifar_code`."""
    from imagecorruptions import corruptions

    names = vars(corruptions)
    if cifar_code is None:
        return names
    import os

    tree = ast.parse(Path(cifar_code).read_text())
    tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    names = dict(names, MotionImage=Blurred, PILImage=Image)
    exec(compile(tree, cifar_code, "exec"), names)
    os.chdir(Path(corruptions.__file__).parent / "frost")  # it reads the pictures from the current folder
    return names


def main(images: str, result: str, name: str, severity: str, first_seed: str, cifar_code: str | None = None) -> None:
    restore_removed_names()
    pixels = np.load(images)
    result = str(Path(result).absolute())
    function = functions_of(cifar_code)[name]
    random_noise = skimage.util.random_noise
    found = np.empty_like(pixels)
    for i, image in enumerate(pixels):
        seed = int(first_seed) + i
        np.random.seed(seed)  # noqa: NPY002
        skimage.util.random_noise = lambda *args, s=seed, **settings: random_noise(
            *args, rng=np.random.default_rng(s), **settings
        )
        with np.errstate(invalid="ignore"):
            found[i] = np.uint8(function(Image.fromarray(image), int(severity)))
    np.save(result, found)


if __name__ == "__main__":
    main(*sys.argv[1:])
