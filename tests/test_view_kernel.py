"""The kernel for CUDA GPUs: the pixels of a CPU, bit for bit. Without a GPU it runs in Triton's interpreter."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_views import views_of
from torch.nn.functional import interpolate

from ddkit.core.worker_state import STATE
from ddkit.format.resize_tables import resize_tables
from ddkit.format.view_pixels import _values, view_pixels
from ddkit.replay.loader import ReplayLoader
from ddkit.specs import ViewSpec

pytest.importorskip("triton")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
if DEVICE.type == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is defined

from ddkit.format.view_kernel import network_input_on_gpu, runs_on, view_pixels_on_gpu  # noqa: E402

GOLDEN = Path(__file__).parent / "golden" / "rded"
MEAN, STD = (0.1, 0.45, 0.7), (0.2, 0.3, 0.123)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 300), st.integers(1, 70), st.integers(0, 2**32 - 1))
def test_the_tables_are_the_resize_function(length, size, seed):
    line = np.random.default_rng(seed).integers(0, 256, length, dtype=np.uint8)
    image = torch.from_numpy(line).expand(1, 3, 4, length).contiguous()
    want = interpolate(image, (4, size), mode="bilinear", antialias=True)[0, 0, 0].numpy()
    tables = resize_tables(max(length, 3), size)
    places = np.minimum(tables.first[length][:, None] + np.arange(tables.weight.shape[2]), length - 1)
    total = (tables.weight[length].astype(np.int64) * line[places]).sum(1)
    bits = int(tables.bits[length])
    assert (np.clip((total + (1 << (bits - 1))) >> bits, 0, 255) == want).all()


@pytest.mark.parametrize(
    ("mix", "patches", "size"),
    [("none", 4, 13), ("none", 1, 40), ("cutmix", 1, 13), ("cutmix", 4, 40), ("mixup", 4, 13), ("mixup", 1, 40)],
)
def test_a_gpu_has_the_pixels_of_a_cpu(mix, patches, size):
    policy = ViewSpec(count=3, mix=mix, patches="shuffle" if patches > 1 else "fixed")
    views = views_of(policy, rows=4, side=24, size=size, patches=patches)
    images = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (4, 3, 24, 24), dtype=np.uint8))
    rows, numbers = np.arange(8) % 4, np.arange(8) % 3
    wanted = view_pixels(images, views, rows, numbers, size)
    kernel = view_pixels(images.to(DEVICE), views, rows, numbers, size).for_kernel()
    assert torch.equal(view_pixels_on_gpu(kernel).cpu(), wanted.pixels())
    inputs = network_input_on_gpu(kernel, _values(MEAN, STD, DEVICE)).cpu()
    assert torch.equal(inputs, wanted.network_input(MEAN, STD))


def test_images_of_a_mapped_store_give_the_same():
    views = views_of(ViewSpec(count=2), rows=5, side=20, size=16)
    arrays = np.random.default_rng(2).integers(0, 256, (5, 20, 20, 3), dtype=np.uint8)
    rows, numbers = np.array([4, 0, 3]), np.array([1, 0, 1])
    mapped = view_pixels(list(arrays), views, rows, numbers, 16, DEVICE)
    want = view_pixels(torch.from_numpy(arrays).permute(0, 3, 1, 2), views, rows, numbers, 16).pixels()
    assert torch.equal(view_pixels_on_gpu(mapped.for_kernel()).cpu(), want)


@pytest.mark.parametrize("store", ["memory", "mapped"])
def test_a_loader_has_the_batches_of_a_cpu(monkeypatch, store):
    wanted = ReplayLoader(GOLDEN, batch_size=4, device="cpu").peek()
    monkeypatch.setattr("ddkit.format.view_pixels.has_triton", lambda device: True)
    found = ReplayLoader(GOLDEN, batch_size=4, device=DEVICE, store=store).peek()
    assert all(torch.equal(mine.cpu(), theirs) for mine, theirs in zip(found, wanted, strict=True))


def test_no_views_of_a_mapped_store_are_an_empty_batch():
    views = views_of(ViewSpec(count=2), rows=5, side=20, size=16)
    none = view_pixels([], views, np.arange(0), np.arange(0), 16, DEVICE)
    assert view_pixels_on_gpu(none.for_kernel()).shape == (0, 3, 16, 16)


def test_where_the_kernel_does_not_run_a_note_says_so_once(monkeypatch, capsys):
    STATE.drop("view kernel")
    assert runs_on(DEVICE) and capsys.readouterr().err == ""
    STATE.drop("view kernel")
    monkeypatch.setattr("ddkit.format.view_kernel._views", {})  # no grid: a KeyError instead of Triton's errors
    assert not runs_on(DEVICE) and not runs_on(DEVICE)
    assert capsys.readouterr().err.count("does not run here") == 1
    STATE.drop("view kernel")
