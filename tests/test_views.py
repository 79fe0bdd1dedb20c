"""Views: integers by the papers' policies, pixels equal to the one resampler to the last bit."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import interpolate

from ddkit.format.resampling import resample, resample_banded, stack_images, unshuffle
from ddkit.format.view_pixels import apply, network_input, normalise, view_pixels
from ddkit.format.views import UNMIXED, Views, draw
from ddkit.specs import ViewSpec

policies = st.builds(
    lambda low, width, ratio, flip, mix, count: ViewSpec(
        scale=(low, min(1.0, low + width)), ratio=(1 / ratio, ratio), flip=flip, mix=mix, count=count
    ),
    low=st.floats(0.01, 1),
    width=st.floats(0, 1),
    ratio=st.floats(1, 3),
    flip=st.sampled_from([0.0, 0.5, 1.0]),
    mix=st.sampled_from(["none", "cutmix", "mixup"]),
    count=st.integers(1, 6),
)
sides = st.integers(1, 70) | st.integers(200, 300)
pytestmark = pytest.mark.usefixtures("two_threads")


def views_of(policy=None, *, rows=6, side=24, size=16, seed=0, patches=1, groups=None, first=0):
    policy = policy or ViewSpec(count=5)
    return draw(
        policy, seed=seed, first=first, rows=rows, height=side, width=side, size=size, patches=patches, groups=groups
    )


@given(policies, st.integers(1, 5), sides, sides, st.integers(1, 64), st.integers(0, 2**40))
@settings(max_examples=150, deadline=None)
def test_every_box_is_inside(policy, rows, height, width, size, seed):
    views = draw(policy, seed=seed, first=3, rows=rows, height=height, width=width, size=size)
    top, left, h, w = np.moveaxis(views.box.astype(int), -1, 0)
    assert (top >= 0).all() and (left >= 0).all() and (h >= 1).all() and (w >= 1).all()
    assert (top + h <= height).all() and (left + w <= width).all()
    assert views.box.dtype == (np.uint8 if max(height, width, size) <= 255 else np.int16)
    if views.mix_box is not None:
        top, left, h, w = np.moveaxis(views.mix_box.astype(int), -1, 0)
        assert (top >= 0).all() and (left >= 0).all() and (top + h <= size).all() and (left + w <= size).all()
    if views.partner is not None:
        others = views.partner.astype(int)
        own = np.arange(rows)[:, None]
        assert ((others == UNMIXED) == (rows == 1)).all() and (others != own).all()
        assert rows == 1 or others.max() < rows


@given(policies, st.integers(2, 6), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_a_row_does_not_depend_on_the_count_or_on_other_rows(policy, rows, seed):
    few = draw(policy, seed=seed, first=10, rows=rows, height=20, width=20, size=16)
    law_more = ViewSpec(**{**policy.__dict__, "count": policy.count + 3})
    more = draw(law_more, seed=seed, first=10, rows=rows, height=20, width=20, size=16)
    for name, array in few.tensors().items():
        assert (more.tensors()[name][:, : policy.count] == array).all(), name
    later = draw(policy, seed=seed, first=11, rows=rows, height=20, width=20, size=16)
    assert (later.box[:-1] == few.box[1:]).all() and (later.flip[:-1] == few.flip[1:]).all()


def test_the_integers_are_pinned():
    # Published sets are made again from these: a change here is a change of the format.
    views = draw(ViewSpec(count=3), seed=7, first=100, rows=4, height=32, width=32, size=32)
    digest = hashlib.sha256(b"".join(a.tobytes() for _, a in sorted(views.tensors().items()))).hexdigest()
    assert views.box[0].tolist() == PINNED_BOX
    assert digest == PINNED_DIGEST


PINNED_BOX = [[5, 0, 26, 22], [14, 12, 12, 12], [7, 4, 22, 21]]
PINNED_DIGEST = "d4cbbb2bea8ba5bd966170ebacbdd2eadc60d9a09e47e52b25adf40c05f143c4"


def test_partners_stay_in_their_group():
    groups = np.array([0, 1, 0, 1, 2, 0])
    partner = views_of(groups=groups).partner.astype(int)
    for row in range(6):
        if row == 4:
            assert (partner[row] == UNMIXED).all()
        else:
            assert (groups[partner[row]] == groups[row]).all() and (partner[row] != row).all()


def test_crops_follow_the_law():
    n = 4000
    views = views_of(ViewSpec(count=n, flip=0.3, mix="none"), rows=1, side=200, size=32)
    h, w = views.box[0, :, 2].astype(float), views.box[0, :, 3].astype(float)
    area, ratio = h * w / 200**2, w / h
    # Uniform in area where nothing is rejected (small crops always fit), log-uniform in ratio, flips with p.
    small = area[area < 0.5]
    assert abs(np.mean(small < 0.29) - 0.5) < 0.04
    assert ratio.min() > 0.73 and ratio.max() < 1.37 and abs(np.mean(np.log(ratio))) < 0.02
    assert abs(views.flip.mean() - 0.3) < 0.03
    top = views.box[0, :, 0].astype(float) / np.maximum(200 - h, 1)
    assert abs(np.mean(top) - 0.5) < 0.02


def test_cutmix_follows_the_law():
    n = 6000
    views = views_of(ViewSpec(count=n), rows=2, size=200, side=200)
    h, w = views.mix_box[0, :, 2].astype(float), views.mix_box[0, :, 3].astype(float)
    # lambda ~ Beta(1,1) = uniform: the side before clipping is 200*sqrt(1-lambda); clipping only takes away.
    assert abs(np.mean(np.maximum(h, w) > 200 * np.sqrt(0.5)) - np.mean(_clipped_cutmix(n) > 200 * np.sqrt(0.5))) < 0.03
    assert abs(np.mean(h * w) - 200**2 * _mean_cutmix_area()) < 0.02 * 200**2


def _reference_cutmix(n):
    rng = np.random.default_rng(0)
    side = (200 * np.sqrt(1 - rng.beta(1, 1, n))).astype(int)
    y, x = rng.integers(200, size=n), rng.integers(200, size=n)
    h = np.clip(y + side // 2, 0, 200) - np.clip(y - side // 2, 0, 200)
    w = np.clip(x + side // 2, 0, 200) - np.clip(x - side // 2, 0, 200)
    return h, w


def _clipped_cutmix(n):
    return np.maximum(*_reference_cutmix(50 * n))


def _mean_cutmix_area():
    h, w = _reference_cutmix(200_000)
    return float(np.mean(h * w)) / 200**2


def test_mixup_follows_the_law():
    lam = views_of(ViewSpec(count=5000, mix="mixup", mix_alpha=0.8), rows=2).mix_lam
    assert lam.dtype == np.float32
    assert abs(lam.mean() - 0.5) < 0.02 and abs(lam.var() - 1 / (4 * (2 * 0.8 + 1))) < 0.01


def test_patches_permute_columns_then_rows():
    order = views_of(ViewSpec(count=400, patches="shuffle"), rows=1, patches=4).patches[0]
    assert {tuple(o) for o in order.tolist()} == {(0, 1, 2, 3), (1, 0, 3, 2), (2, 3, 0, 1), (3, 2, 1, 0)}
    assert views_of(ViewSpec(count=4, patches="shuffle"), patches=1).patches is None


# ------------------------------------------------------------------ pixels


# Sizes from 2: torch 2.15 has an internal error in its own resampler for some images and an output of 1 pixel.
@given(st.integers(1, 60), st.integers(1, 60), st.integers(2, 48), st.randoms(use_true_random=False))
@settings(max_examples=300, deadline=None)
def test_resample_is_the_one_resampler(height, width, size, random):
    image = torch.from_numpy(
        np.random.default_rng(random.randrange(2**32)).integers(0, 256, (3, height, width), dtype=np.uint8)
    )
    top, left = random.randrange(height), random.randrange(width)
    h, w = random.randint(1, height - top), random.randint(1, width - left)
    crop = image[None, :, top : top + h, left : left + w]
    want = interpolate(crop, (size, size), mode="bilinear", antialias=True, align_corners=False)[0]
    assert torch.equal(resample(image, (top, left, h, w), size), want)


@given(st.integers(2, 80), st.integers(2, 40), st.integers(0, 2**30))
@settings(max_examples=100, deadline=None)
def test_banded_resampler_is_within_one(side, size, seed):
    rng = np.random.default_rng(seed)
    images = torch.from_numpy(rng.integers(0, 256, (3, 3, side, side), dtype=np.uint8))
    top, left = rng.integers(0, side, (2, 3))
    boxes = np.stack(
        [top, left, [rng.integers(1, side - t + 1) for t in top], [rng.integers(1, side - x + 1) for x in left]], 1
    )
    banded = resample_banded(images.float(), torch.from_numpy(boxes), size).round().clamp(0, 255)
    exact = torch.stack([resample(image, box, size) for image, box in zip(images, boxes)]).float()
    assert (banded - exact).abs().max() <= 1


def literal(images, views, rows, numbers, size):
    """format.md word for word, one view at a time."""

    def unmixed(row, v):
        x = images[row]
        if views.patches is not None:
            x = unshuffle(x, views.patches[row, v])
        t, left, h, w = (int(a) for a in views.box[row, v])
        x = interpolate(x[None, :, t : t + h, left : left + w], (size, size), mode="bilinear", antialias=True)[0]
        return x.flip(-1) if views.flip[row, v] else x

    result = []
    for row, v in zip(rows, numbers):
        x = unmixed(row, v).clone()
        if views.mix_box is not None and views.partner[row, v] != UNMIXED:
            t, left, h, w = (int(a) for a in views.mix_box[row, v])
            x[:, t : t + h, left : left + w] = unmixed(int(views.partner[row, v]), v)[:, t : t + h, left : left + w]
        result.append(x)
    return torch.stack(result)


@given(policies, st.integers(1, 6), st.integers(2, 40), st.integers(2, 32), st.booleans(), st.integers(0, 99))
@settings(max_examples=80, deadline=None)
def test_apply_is_the_format_and_independent_of_batch_and_order(policy, rows, half, size, shuffled, seed):
    side, patches = 2 * half, 4 if shuffled else 1
    policy = ViewSpec(**{**policy.__dict__, "patches": "shuffle" if shuffled else "none"})
    images = torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (rows, 3, side, side), dtype=np.uint8))
    views = draw(policy, seed=seed, first=0, rows=rows, height=side, width=side, size=size, patches=patches)
    which = np.random.default_rng(seed).integers(0, rows, 9)
    numbers = np.random.default_rng(seed + 1).integers(0, policy.count, 9)
    batch = apply(images, views, which, numbers, size)
    assert torch.equal(batch, literal(images, views, which, numbers, size))
    order = np.random.default_rng(seed + 2).permutation(9)
    assert torch.equal(apply(images, views, which[order], numbers[order], size), batch[torch.from_numpy(order)])
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    assert torch.equal(
        torch.cat([apply(images, views, which[i : i + 1], numbers[i : i + 1], size) for i in range(9)]), batch
    )
    torch.set_num_threads(before)


def test_mixup_mixes_normalised_pixels():
    policy = ViewSpec(count=2, mix="mixup", scale=(1.0, 1.0), flip=0.0)
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 3, 8, 8), dtype=np.uint8))
    views = draw(policy, seed=0, first=0, rows=3, height=8, width=8, size=8)
    rows, numbers = np.array([0, 2]), np.array([1, 0])
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    got = network_input(images, views, rows, numbers, size=8, mean=mean, std=std)
    for i, (row, v) in enumerate(zip(rows, numbers)):

        def seen(r):
            return (images[r].float() / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]

        lam = float(views.mix_lam[row, v])
        want = lam * seen(row) + (1 - lam) * seen(int(views.partner[row, v]))
        assert torch.allclose(got[i], want, atol=1e-6)


def test_unshuffle_moves_whole_patches():
    image = torch.arange(16).view(1, 4, 4)
    moved = unshuffle(image, [3, 2, 1, 0])
    assert moved[0, :2, :2].tolist() == image[0, 2:, 2:].tolist()
    assert torch.equal(unshuffle(moved, [3, 2, 1, 0]), image)


def test_stack_and_rows_are_inverse():
    views = views_of()
    again = Views.stack([views.rows(slice(0, 2)), views.rows(slice(2, 6))])
    assert all((a == views.tensors()[name]).all() for name, a in again.tensors().items())


def pixel_digest(cases=1500):
    """sha256 over the pixels of many random crops."""
    rng = np.random.default_rng(3)
    digest = hashlib.sha256()
    for _ in range(cases):
        height, width, size = (int(v) for v in rng.integers(2, 70, 3))
        image = torch.from_numpy(rng.integers(0, 256, (3, height, width), dtype=np.uint8))
        top, left = int(rng.integers(height)), int(rng.integers(width))
        box = (top, left, int(rng.integers(1, height - top + 1)), int(rng.integers(1, width - left + 1)))
        digest.update(resample(image, box, size).numpy().tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize("capability", ["default", "avx2", "avx512"])
def test_pixels_do_not_depend_on_the_vector_width(capability):
    code = "import sys; sys.path.insert(0, sys.argv[1]); from test_views import pixel_digest; print(pixel_digest())"
    out = subprocess.run(
        [sys.executable, "-c", code, os.path.dirname(__file__)],
        env=os.environ | {"ATEN_CPU_CAPABILITY": capability}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert out.stdout.split()[-1] == pixel_digest()


def test_pixels_of_devices_without_the_kernel_are_within_one():
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (6, 3, 24, 24), dtype=np.uint8))
    views = views_of()
    rows, numbers = np.arange(6), np.array([0, 1, 2, 3, 4, 0])
    exact = apply(images, views, rows, numbers, 16).float()
    banded = view_pixels(images, views, rows, numbers, 16)._pixels_on_device().float()
    assert (exact - banded).abs().max() <= 1


@pytest.mark.parametrize("mix", ["none", "cutmix", "mixup"])
@pytest.mark.parametrize("patches", [1, 4])
@pytest.mark.parametrize("size", [16, 100])
def test_every_layout_of_the_images_gives_the_defined_input(mix, patches, size):
    """Step by step as docs/format.md, in whole batches, against the one pass over each view."""
    policy = ViewSpec(count=3, mix=mix, patches="shuffle" if patches > 1 else "fixed")
    views = views_of(policy, rows=9, side=24, size=size, patches=patches)
    if views.partner is not None:
        tensors = views.tensors()
        tensors["partner"] = views.partner.astype(np.int64)
        views = Views(**tensors)
    arrays = np.random.default_rng(1).integers(0, 256, (9, 24, 24, 3), dtype=np.uint8)
    planar = torch.from_numpy(np.ascontiguousarray(arrays.transpose(0, 3, 1, 2)))
    rows, at = np.arange(27) % 9, np.arange(27) // 9
    mean, std = (0.1, 0.45, 0.7), (0.2, 0.3, 0.123)

    def unmixed(row, v):
        image = planar[row] if views.patches is None else unshuffle(planar[row], views.patches[row, v])
        t, left, h, w = views.box[row, v].astype(int)
        crop = image[None, :, t : t + h, left : left + w]
        view = interpolate(crop, (size, size), mode="bilinear", antialias=True, align_corners=False)[0]
        return view.flip(-1) if views.flip[row, v] else view

    def seen(pixels):
        return normalise(pixels[None], mean, std)[0]

    want = []
    for row, v in zip(rows, at):
        pixels = unmixed(row, v)
        other = None if views.partner is None else unmixed(views.partner[row, v], v)
        if views.mix_box is not None:
            t, left, h, w = views.mix_box[row, v].astype(int)
            pixels[:, t : t + h, left : left + w] = other[:, t : t + h, left : left + w]
        value = seen(pixels)
        if views.mix_lam is not None:
            lam = torch.tensor(views.mix_lam[row, v])
            value = lam * value + (1 - lam) * seen(other)
        want.append(value)
    buffer = torch.empty(27, 3, size, size)
    layouts = (planar, stack_images(list(arrays.transpose(0, 3, 1, 2))), list(arrays))
    for images in layouts:
        found = view_pixels(images, views, rows, at, size)
        assert torch.equal(found.network_input(mean, std, buffer), torch.stack(want)) and buffer.is_contiguous()
        assert torch.equal(found.network_input(mean, std), buffer)
        if mix != "mixup":
            assert torch.equal(normalise(found.pixels(), mean, std), buffer)


@pytest.mark.parametrize("mix", ["none", "cutmix", "mixup"])
def test_images_of_a_mapped_store_are_sent_to_a_device_as_those_in_memory(mix):
    """The path of other devices, computed here: equal for both kinds of images, and within 1/255 of the CPU's."""
    views = views_of(ViewSpec(count=2, mix=mix), rows=5, side=24, size=16, patches=4)
    arrays = list(np.random.default_rng(2).integers(0, 256, (5, 24, 24, 3), dtype=np.uint8))
    rows, at = np.arange(10) % 5, np.arange(10) // 5
    a, b = (
        view_pixels(images, views, rows, at, 16)
        for images in (stack_images([x.transpose(2, 0, 1) for x in arrays]), arrays)
    )
    constants = (0.2, 0.3, 0.4), (0.5, 0.6, 0.7)
    assert torch.equal(a._input_on_device(*constants), b._input_on_device(*constants))
    assert torch.equal(a._pixels_on_device(), b._pixels_on_device())
    assert (a._pixels_on_device().int() - a.pixels().int()).abs().max() <= 1
    assert (a._input_on_device(*constants) - a.network_input(*constants)).abs().max() < 2.1 / 255 / 0.5
