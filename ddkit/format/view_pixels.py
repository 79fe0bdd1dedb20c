"""The pixels of views: crop, resize, flip, CutMix and Mixup of stored images, as the stored integers specify.

Labelling and replay both use this module, so teacher and student see the same pixels.

On a CPU each view is computed by one thread, from the crop to the float32 result, so that its pixels stay in the
processor's cache. Images that lie in memory pixel by pixel (`resampling.stack_images`) are resized twice as fast.
On a CUDA GPU one kernel computes the same integers (view_kernel.py); elsewhere, or without Triton, pixels are resized
in float32 and differ by at most 1/255.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ddkit.core.device import each_on_one_thread, has_triton
from ddkit.core.worker_state import STATE
from ddkit.format.resampling import resample_array, resample_banded, unshuffle
from ddkit.format.views import Views

if TYPE_CHECKING:
    from ddkit.format.view_kernel import KernelViews

CHUNK = 2**16  # output pixels that a thread computes as a unit; as float32 they fit into a second-level cache
Images = Tensor | Sequence[np.ndarray]  # uint8 [n,3,H,W] on any device, or n of uint8 [H,W,3]
CPU = torch.device("cpu")
SIDE_BY_SIDE = 96  # side of views from which on several are computed at a time; smaller ones mostly wait for Python


@dataclass(frozen=True)
class Unmixed:
    """Views without mixing: which image, patch order, crop and flip each of them has.

    Attributes:
        images: Stored images.
        rows: Index of each view's image, int [B].
        box: Crops, int [B,4].
        flip: 1: mirrored left to right, [B].
        patches: Patch orders [B,N], or None.
    """

    images: Images
    rows: np.ndarray
    box: np.ndarray
    flip: np.ndarray
    patches: np.ndarray | None

    @classmethod
    def of(cls, images: Images, views: Views, rows: np.ndarray, view_indices: np.ndarray) -> Unmixed:
        """Select some views; the arguments are those of `view_pixels`."""
        at = rows, view_indices
        return cls(images, rows, views.box[at], views.flip[at], None if views.patches is None else views.patches[at])

    @functools.cached_property
    def arrays(self) -> Sequence[np.ndarray]:
        """The images on a CPU: uint8 [H,W,3] each."""
        if not isinstance(self.images, Tensor):
            return self.images
        found: Sequence[np.ndarray] = self.images.permute(0, 2, 3, 1).numpy()  # type: ignore[assignment]
        return found

    @functools.cached_property
    def boxes(self) -> list[list[int]]:
        """The crops as Python integers, which is faster than converting them one by one."""
        found: list[list[int]] = self.box.tolist()
        return found

    def one(self, i: int, size: int) -> np.ndarray:
        """Return the pixels of view `i` on a CPU, uint8 [3,size,size], as a view of any strides."""
        image = self.arrays[self.rows[i]]
        if self.patches is not None:
            image = unshuffle(image.transpose(2, 0, 1), self.patches[i]).transpose(1, 2, 0)
        pixels = resample_array(image, self.boxes[i], size).transpose(2, 0, 1)
        if not self.flip[i]:
            return pixels
        return torch.from_numpy(pixels).flip(-1).numpy()  # five times faster than copying from negative strides

    def stacked(self, device: torch.device) -> Tensor:
        """Return the images of the views, one for each, on a device: uint8 [B,3,H,W]."""
        if isinstance(self.images, Tensor):
            return self.images[torch.as_tensor(self.rows, device=device)]
        if not len(self.rows):
            return torch.empty((0, 3, 1, 1), dtype=torch.uint8, device=device)
        return torch.from_numpy(np.stack([self.images[row].transpose(2, 0, 1) for row in self.rows])).to(device)

    def on_device(self, size: int, device: torch.device) -> Tensor:
        """Return the pixels of all views on a device that is not the CPU: uint8 [B,3,size,size]."""
        batch = self.stacked(device)
        if self.patches is not None:
            for order in np.unique(self.patches, axis=0):
                chosen = torch.as_tensor(np.flatnonzero((self.patches == order).all(axis=1)), device=device)
                batch[chosen] = unshuffle(batch[chosen], order)
        boxes = torch.as_tensor(self.box.astype(np.int64), device=device)
        pixels = resample_banded(batch.float(), boxes, size).round_().clamp_(0, 255).to(torch.uint8)
        flipped = torch.as_tensor(self.flip.astype(bool), device=device)[:, None, None, None]
        return torch.where(flipped, pixels.flip(-1), pixels)


@dataclass(frozen=True)
class ViewPixels:
    """Some views, whose pixels are computed by `pixels` or `network_input`.

    Attributes:
        own: The views without mixing.
        size: Side of a view in pixels.
        device: Device of the result.
        mixed: Indices of the views that CutMix or Mixup applies to, ascending, int [M].
        partners: Unmixed views of their partners, M of them; None without mixing.
        regions: CutMix: the regions taken from the partners, int [M,4].
        weights: Mixup: the weights of the views' own pixels, float32 [M].
    """

    own: Unmixed
    size: int
    device: torch.device
    mixed: np.ndarray
    partners: Unmixed | None = None
    regions: np.ndarray | None = None
    weights: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.own.rows)

    def pixels(self) -> Tensor:
        """Return the pixels with CutMix but without Mixup: uint8 [B,3,S,S]."""
        if _has_kernel(self.device):
            from ddkit.format.view_kernel import view_pixels_on_gpu

            return view_pixels_on_gpu(self.for_kernel())
        if self.device.type != "cpu":
            return self._pixels_on_device()
        pixels = torch.empty((len(self), 3, self.size, self.size), dtype=torch.uint8)
        arrays, partner = pixels.numpy(), self._partner_of()

        def make(start: int, stop: int) -> None:
            for i in range(start, stop):
                self._draw(i, partner, arrays[i])

        self._each(make)
        return pixels

    def network_input(self, mean: Sequence[float], std: Sequence[float], out: Tensor | None = None) -> Tensor:
        """Return the network input: float32 [B,3,S,S], normalised, with Mixup.

        Args:
            mean: Mean per channel of the teacher's normalisation, for pixels in [0, 1].
            std: Standard deviation per channel of the teacher's normalisation.
            out: On a CPU: the contiguous tensor to write to.
        """
        if _has_kernel(self.device):
            from ddkit.format.view_kernel import network_input_on_gpu

            return network_input_on_gpu(self.for_kernel(), _values(mean, std, self.device))
        if self.device.type != "cpu":
            return self._input_on_device(mean, std)
        inputs = torch.empty((len(self), 3, self.size, self.size)) if out is None else out
        partner, constants = self._partner_of(), _constants(mean, std)

        def make(start: int, stop: int) -> None:
            drawn = _scratch(stop - start, self.size)
            arrays = drawn.numpy()
            for i in range(start, stop):
                self._draw(i, partner, arrays[i - start])
            _normalise_into(inputs[start:stop], drawn, constants)
            if self.weights is not None:
                self._mix_up(start, stop, inputs, constants)

        self._each(make)
        return inputs

    def _each(self, make: Callable[[int, int], None]) -> None:
        """Call `make(start, stop)` for chunks of views in single-threaded threads."""
        n, step = len(self), max(1, CHUNK // self.size**2)
        each_on_one_thread(
            lambda chunk: make(chunk * step, min(n, (chunk + 1) * step)), -(-n // step),
            side_by_side=self.size >= SIDE_BY_SIDE,
        )  # fmt: skip

    def _partner_of(self) -> dict[int, int]:
        """Position in `partners` by index of the view."""
        return {int(i): position for position, i in enumerate(self.mixed)}

    def _draw(self, i: int, partner: Mapping[int, int], target: np.ndarray) -> None:
        """Write the pixels of view `i`, with CutMix, to `target`, uint8 [3,S,S]."""
        position = partner.get(i) if self.regions is not None else None
        if position is None or self.partners is None or self.regions is None:
            np.copyto(target, self.own.one(i, self.size))
            return
        top, left, height, width = self.regions[position].tolist()
        if height < self.size or width < self.size:
            np.copyto(target, self.own.one(i, self.size))
        region = (slice(None), slice(top, top + height), slice(left, left + width))
        np.copyto(target[region], self.partners.one(position, self.size)[region])

    def _mix_up(self, start: int, stop: int, inputs: Tensor, constants: Constants) -> None:
        """Apply Mixup to the views `start` to `stop` - 1 of `inputs`, which hold their own pixels."""
        assert self.partners is not None and self.weights is not None
        other = torch.empty(inputs.shape[1:])
        for position in range(*np.searchsorted(self.mixed, (start, stop))):
            pixels = np.ascontiguousarray(self.partners.one(position, self.size))
            _normalise_into(other[None], torch.from_numpy(pixels)[None], constants)
            own, lam = inputs[int(self.mixed[position])], self.weights[position]
            own.mul_(float(lam)).add_(other.mul_(float(np.float32(1) - lam)))

    def for_kernel(self) -> KernelViews:
        """Return the views as the kernel of view_kernel.py reads them."""
        from ddkit.format.view_kernel import CUTMIX, MIXUP, NO_MIX, KernelViews

        own, other, n = self.own, self.partners, len(self)
        mine, theirs = own.rows, own.rows if other is None else other.rows
        if isinstance(own.images, Tensor):
            images = own.images
        else:
            parts = [own.stacked(self.device)] + ([] if other is None else [other.stacked(self.device)])
            images, mine, theirs = torch.cat(parts), np.arange(n), n + np.arange(len(self.mixed))
        table = np.zeros((n, 17), np.int32)
        table[:, 0], table[:, 1:5], table[:, 5], table[:, 6] = mine, own.box, own.flip, -1
        orders = None
        if own.patches is not None:
            orders = np.zeros((n, 2, own.patches.shape[1]), np.int32)
            orders[:, 0] = own.patches
        if other is None:
            return KernelViews(images, table, orders, self.size, NO_MIX)
        to = self.mixed
        table[to, 6], table[to, 7:11], table[to, 11] = theirs, other.box, other.flip
        if orders is not None and other.patches is not None:
            orders[to, 1] = other.patches
        if self.regions is not None:
            table[to, 12:16] = self.regions
            return KernelViews(images, table, orders, self.size, CUTMIX)
        assert self.weights is not None
        table[to, 16] = self.weights.astype(np.float32).view(np.int32)
        return KernelViews(images, table, orders, self.size, MIXUP)

    def _pixels_on_device(self) -> Tensor:
        pixels = self.own.on_device(self.size, self.device)
        if self.partners is None or self.regions is None:
            return pixels
        other = self.partners.on_device(self.size, self.device)
        box = torch.as_tensor(self.regions, device=self.device)
        line = torch.arange(self.size, device=self.device)
        inside = _between(line, box[:, 0], box[:, 2])[:, :, None] & _between(line, box[:, 1], box[:, 3])[:, None, :]
        index = torch.as_tensor(self.mixed, device=self.device)
        pixels[index] = torch.where(inside[:, None], other, pixels[index])
        return pixels

    def _input_on_device(self, mean: Sequence[float], std: Sequence[float]) -> Tensor:
        inputs = normalise(self._pixels_on_device(), mean, std)
        if self.partners is not None and self.weights is not None:
            other = normalise(self.partners.on_device(self.size, self.device), mean, std)
            lam = torch.as_tensor(self.weights, device=self.device)[:, None, None, None]
            index = torch.as_tensor(self.mixed, device=self.device)
            inputs[index] = lam * inputs[index] + (1 - lam) * other
        return inputs


def _has_kernel(device: torch.device) -> bool:
    """Whether the kernel of view_kernel.py computes views on a device."""
    if not has_triton(device):
        return False
    from ddkit.format.view_kernel import runs_on

    return runs_on(device)


def _between(line: Tensor, start: Tensor, length: Tensor) -> Tensor:
    return (line >= start[:, None]) & (line < (start + length)[:, None])


def view_pixels(
    images: Images,
    views: Views,
    rows: np.ndarray,
    view_indices: np.ndarray,
    size: int,
    device: torch.device = CPU,
) -> ViewPixels:
    """Select some views and their mixing partners; their pixels are computed from the result.

    A CutMix region shows the partner's own unmixed view with the same view index.

    Args:
        images: The stored images.
        views: Views of the same n rows.
        rows: Positions of the rows to use, int [B].
        view_indices: View index of each of them, int [B].
        size: Side of a view in pixels.
        device: Device of the result where `images` is not a tensor.
    """
    where = images.device if isinstance(images, Tensor) else device
    own = Unmixed.of(images, views, rows, view_indices)
    if views.partner is None:
        return ViewPixels(own, size, where, np.array([], int))
    partner = views.partners(rows, view_indices)
    applies = partner >= 0
    regions = None
    if views.mix_box is not None:
        regions = views.mix_box[rows, view_indices].astype(np.int64)
        applies &= (regions[:, 2] > 0) & (regions[:, 3] > 0)
    mixed = np.flatnonzero(applies)
    if not len(mixed):
        return ViewPixels(own, size, where, mixed)
    other = Unmixed.of(images, views, partner[mixed], view_indices[mixed])
    weights = None if views.mix_lam is None else views.mix_lam[rows, view_indices][mixed]
    return ViewPixels(own, size, where, mixed, other, None if regions is None else regions[mixed], weights)


def apply(images: Tensor, views: Views, rows: np.ndarray, view_indices: np.ndarray, size: int) -> Tensor:
    """Compute the pixels of some views, with CutMix but without Mixup: uint8 [B,3,size,size] on the device of `images`.

    Args:
        images, views, rows, view_indices, size: As in `view_pixels`.
    """
    return view_pixels(images, views, rows, view_indices, size).pixels()


def network_input(
    images: Tensor,
    views: Views,
    rows: np.ndarray,
    view_indices: np.ndarray,
    *,
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    out: Tensor | None = None,
) -> Tensor:
    """Compute the network input for some views: float32 [B,3,size,size], normalised, with CutMix or Mixup.

    Args:
        images, views, rows, view_indices, size: As in `view_pixels`.
        mean: Mean per channel of the teacher's normalisation, for pixels in [0, 1].
        std: Standard deviation per channel of the teacher's normalisation.
        out: On a CPU: the contiguous tensor to write to.
    """
    return view_pixels(images, views, rows, view_indices, size).network_input(mean, std, out)


Constants = tuple[Tensor, Tensor]  # mean and standard deviation, float32 [3,1,1] each


def _constants(mean: Sequence[float], std: Sequence[float], device: torch.device | None = None) -> Constants:
    first, second = (torch.tensor(v, dtype=torch.float32, device=device).view(3, 1, 1) for v in (mean, std))
    return first, second


def normalise(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Normalise uint8 images to float32: divide by 255, subtract the mean, divide by the standard deviation.

    Args:
        pixels: uint8 [B,3,H,W].
        mean: Mean per channel, for pixels in [0, 1].
        std: Standard deviation per channel.
    """
    constants = _constants(mean, std, pixels.device)
    return (pixels.float() / 255 - constants[0]) / constants[1]


def _values(mean: Sequence[float], std: Sequence[float], device: torch.device) -> Tensor:
    """The normalised value of each pixel value, computed on a CPU: float32 [3,256] on the device."""

    def made() -> Tensor:
        every = torch.arange(256, dtype=torch.uint8, device="cpu").expand(1, 3, 1, 256)
        return normalise(every, mean, std).view(3, 256).to(device)

    return STATE.keep("pixel values", (*mean, *std, str(device)), made, most=8)


def _normalise_into(target: Tensor, pixels: Tensor, constants: Constants) -> None:
    """As `normalise`, into an existing tensor."""
    target.copy_(pixels).div_(255).sub_(constants[0]).div_(constants[1])


_memory = threading.local()


def _scratch(n: int, size: int) -> Tensor:
    """Memory of this thread for the pixels of a chunk: uint8 [n,3,size,size]."""
    needed = n * 3 * size * size
    if getattr(_memory, "bytes", None) is None or len(_memory.bytes) < needed:
        _memory.bytes = torch.empty(needed, dtype=torch.uint8)
    found: Tensor = _memory.bytes[:needed].view(n, 3, size, size)
    return found
