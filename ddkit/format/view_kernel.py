"""The pixels of views on a CUDA GPU: one Triton kernel from the stored images to the network input.

It computes the integers of docs/format.md, so the pixels equal those of a CPU.
"""

# Triton gives annotations of a kernel's parameters a meaning of its own:
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from ddkit.core.console import note
from ddkit.core.worker_state import STATE
from ddkit.format.resize_tables import resize_tables

BLOCK = 1024  # output pixels of a program
NO_MIX, CUTMIX, MIXUP = 0, 1, 2


@dataclass(frozen=True)
class KernelViews:
    """Views as the kernel reads them: one row of integers each.

    Attributes:
        images: uint8 [n,3,H,W] on the device.
        table: int32 [B,17]: image, crop (4), flip; partner's image (-1: none), crop (4), flip; CutMix region (4), or
            zeros and the bits of the float32 weight of Mixup.
        orders: Patch orders of the views and of their partners, int32 [B,2,N]; None without patches.
        size: S, side of a view in pixels.
        mix: NO_MIX, CUTMIX or MIXUP.
    """

    images: Tensor
    table: np.ndarray
    orders: np.ndarray | None
    size: int
    mix: int


def runs_on(device: torch.device) -> bool:
    """Return whether the kernel runs on a device, after trying it once; if not, a note gives the reason.

    Args:
        device: The device.
    """

    def tried() -> bool:
        table = np.zeros((1, 17), np.int32)
        table[0, 3:5], table[0, 6] = 2, -1
        images = torch.zeros((1, 3, 2, 2), dtype=torch.uint8, device=device)
        try:
            view_pixels_on_gpu(KernelViews(images, table, None, 2, NO_MIX))
        except Exception as error:  # of Triton, of the C compiler that it calls, or of the driver
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            note(f"views are computed without Triton's kernel, which does not run here ({reason:.200}); this is slower")
            return False
        return True

    return STATE.keep("view kernel", str(device), tried, most=8)


def view_pixels_on_gpu(views: KernelViews) -> Tensor:
    """Return the pixels with CutMix but without Mixup: uint8 [B,3,S,S] on the device of the images.

    Args:
        views: The views.
    """
    return _launch(views, None)


def network_input_on_gpu(views: KernelViews, values: Tensor) -> Tensor:
    """Return the network input: float32 [B,3,S,S], normalised, on the device of the images.

    Args:
        views: The views.
        values: The normalised value of each pixel value, float32 [3,256] on the device.
    """
    return _launch(views, values)


def _launch(views: KernelViews, values: Tensor | None) -> Tensor:
    images, size, count = views.images.contiguous(), views.size, len(views.table)
    height, width = images.shape[2:]
    device, kind = images.device, torch.uint8 if values is None else torch.float32
    out = torch.empty((count, 3, size, size), dtype=kind, device=device)
    key = max(height, width), size, str(device)
    first, weight, bits, taps = STATE.keep("resize tables", key, lambda: _tables(*key), most=8)
    table = torch.from_numpy(views.table).to(device)
    orders = table if views.orders is None else torch.from_numpy(views.orders).to(device)
    grid = (count, triton.cdiv(size * size, BLOCK))
    if count:
        with torch.cuda.device_of(images):  # Triton launches on the current device
            _views[grid](
                images, table, orders, first, weight, bits, taps, table if values is None else values, out,
                height, width, size, weight.shape[2], SIDE=0 if views.orders is None else _side(views.orders),
                MIX=views.mix, NORMALISED=values is not None, BLOCK=BLOCK, enable_fp_fusion=False,
            )  # fmt: skip
    return out


def _side(orders: np.ndarray) -> int:
    """Patches along a side of an image."""
    return math.isqrt(orders.shape[2])


def _tables(side: int, size: int, device: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The tables of `resize_tables` on a device."""
    made = resize_tables(side, size)
    first, weight, bits, taps = (
        torch.from_numpy(array).to(device) for array in (made.first, made.weight, made.bits, made.taps)
    )
    return first, weight, bits, taps


@triton.jit  # type: ignore[untyped-decorator]
def _views(
    images, table, orders, first, weight, bits, taps, values, out,
    height, width, size, most,
    SIDE: tl.constexpr, MIX: tl.constexpr, NORMALISED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A block of output pixels of one view, all three channels."""
    view = tl.program_id(0)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    valid = at < size * size
    y, x = at // size, at % size
    row = table + view * 17
    order = orders + view * 2 * SIDE * SIDE
    other = tl.load(row + 6)
    shown, seen = valid, valid  # of the own view, of the partner's
    if MIX == 1:
        top, left = tl.load(row + 12), tl.load(row + 13)
        inside = (y >= top) & (y < top + tl.load(row + 14)) & (x >= left) & (x < left + tl.load(row + 15))
        shown, seen = valid & (inside == 0), valid & inside
    r, g, b = _resized(
        images, order, first, weight, bits, taps, height, width, size, most, SIDE,
        tl.load(row), tl.load(row + 1), tl.load(row + 2), tl.load(row + 3), tl.load(row + 4), tl.load(row + 5),
        y, x, shown,
    )  # fmt: skip
    if MIX == 1:  # noqa: SIM102 (one condition when compiling, one when running)
        if other >= 0:
            red, green, blue = _resized(
                images, order + SIDE * SIDE, first, weight, bits, taps, height, width, size, most, SIDE, other,
                tl.load(row + 7), tl.load(row + 8), tl.load(row + 9), tl.load(row + 10), tl.load(row + 11), y, x, seen,
            )  # fmt: skip
            r, g, b = tl.where(seen, red, r), tl.where(seen, green, g), tl.where(seen, blue, b)
    if NORMALISED:
        r, g, b = tl.load(values + r), tl.load(values + 256 + g), tl.load(values + 512 + b)
    if NORMALISED and MIX == 2:  # noqa: SIM102
        if other >= 0:
            red, green, blue = _resized(
                images, order + SIDE * SIDE, first, weight, bits, taps, height, width, size, most, SIDE, other,
                tl.load(row + 7), tl.load(row + 8), tl.load(row + 9), tl.load(row + 10), tl.load(row + 11), y, x, seen,
            )  # fmt: skip
            mine = tl.load(row + 16).to(tl.float32, bitcast=True)
            rest = 1.0 - mine
            r = r * mine + tl.load(values + red) * rest
            g = g * mine + tl.load(values + 256 + green) * rest
            b = b * mine + tl.load(values + 512 + blue) * rest
    area = size * size
    target = out + view.to(tl.int64) * 3 * area + at
    tl.store(target, r.to(out.dtype.element_ty), mask=valid)
    tl.store(target + area, g.to(out.dtype.element_ty), mask=valid)
    tl.store(target + 2 * area, b.to(out.dtype.element_ty), mask=valid)


@triton.jit  # type: ignore[untyped-decorator]
def _resized(
    images, order, first, weight, bits, taps, height, width, size, most, SIDE: tl.constexpr,
    image, top, left, tall, wide, flip, y, x, valid,
):  # fmt: skip
    """Pixel values of an unmixed view in three channels, int32: first along the width, then along the height."""
    x = tl.where(flip != 0, size - 1 - x, x)
    down, right = tall * size + y, wide * size + x
    first_row = tl.load(first + down, mask=valid, other=0)
    first_column = tl.load(first + right, mask=valid, other=0)
    row_bits, column_bits = tl.load(bits + tall), tl.load(bits + wide)
    area = height * width
    base = images + image.to(tl.int64) * 3 * area
    r = (y * 0) + (1 << (row_bits - 1))
    g, b = r, r
    for j in range(tl.load(taps + tall)):
        row_weight = tl.load(weight + down * most + j, mask=valid, other=0)
        source_row = top + tl.minimum(first_row + j, tall - 1)
        red = (y * 0) + (1 << (column_bits - 1))
        green, blue = red, red
        for i in range(tl.load(taps + wide)):
            column_weight = tl.load(weight + right * most + i, mask=valid, other=0)
            source_column = left + tl.minimum(first_column + i, wide - 1)
            if SIDE == 0:
                place = source_row * width + source_column
            else:
                patch_height, patch_width = height // SIDE, width // SIDE
                patch = (source_row // patch_height) * SIDE + source_column // patch_width
                patch = tl.load(order + patch, mask=valid, other=0)
                place = (patch // SIDE * patch_height + source_row % patch_height) * width
                place += patch % SIDE * patch_width + source_column % patch_width
            red += column_weight * tl.load(base + place, mask=valid, other=0).to(tl.int32)
            green += column_weight * tl.load(base + area + place, mask=valid, other=0).to(tl.int32)
            blue += column_weight * tl.load(base + 2 * area + place, mask=valid, other=0).to(tl.int32)
        r += row_weight * tl.minimum(tl.maximum(red >> column_bits, 0), 255)
        g += row_weight * tl.minimum(tl.maximum(green >> column_bits, 0), 255)
        b += row_weight * tl.minimum(tl.maximum(blue >> column_bits, 0), 255)
    r = tl.minimum(tl.maximum(r >> row_bits, 0), 255)
    g = tl.minimum(tl.maximum(g >> row_bits, 0), 255)
    return r, g, tl.minimum(tl.maximum(b >> row_bits, 0), 255)
