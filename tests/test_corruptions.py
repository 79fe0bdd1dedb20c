"""Corruptions: bytes, seeds, severities, and the image operations they are made of; the measure on digits."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
import torch
from conftest import photograph
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ddkit.core.worker_state import STATE
from ddkit.errors import OptionError, SetError
from ddkit.evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from ddkit.evaluation.corruptions.edges import box_means, canny_edges, chamfer_distances, equalised
from ddkit.evaluation.corruptions.filters import convolved, disk, from_hsv, motion_blurred, to_hsv, zoomed
from ddkit.evaluation.corruptions.frost import SIDE, frost_textures
from ddkit.evaluation.corruptions.tables import CIFAR, IMAGENET, strength
from ddkit.evaluation.measures import find_measure, measure_config
from ddkit.evaluation.measures.corruptions import PARTS, stratified_choice
from ddkit.evaluation.measures.interface import Context, MeasuredNetwork, Row
from ddkit.sources.images import open_source
from ddkit.specs import EvalTransform

DETERMINISTIC = {
    *("defocus_blur", "zoom_blur", "gaussian_blur", "brightness", "contrast", "pixelate", "jpeg_compression"),
    "saturate",
}
# Of the others the published parameters do not grow steadily, or the random draws outweigh a step.
STEADY = {
    *("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise", "defocus_blur", "gaussian_blur", "brightness"),
    *("contrast", "pixelate", "jpeg_compression"),
}


def pictures(n: int, height: int = 32, width: int = 32, seed: int = 0) -> Tensor:
    """Smooth coloured pictures with some grain, uint8 [n,3,H,W]."""
    random = np.random.default_rng(seed)
    smooth = np.stack([np.asarray(photograph(seed + i, height, width)) for i in range(n)]).astype(int)
    grain = random.integers(-12, 13, smooth.shape)
    return torch.from_numpy(np.clip(smooth + grain, 0, 255).astype(np.uint8)).permute(0, 3, 1, 2).contiguous()


def distance(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).abs().mean())


def test_there_are_nineteen_with_five_severities_for_both_sizes():
    assert len(CORRUPTIONS) == 19 and set(CORRUPTIONS) == set(IMAGENET) == set(CIFAR)
    for table in (IMAGENET, CIFAR):
        assert all(len(values) == len(SEVERITIES) == 5 for values in table.values())
        assert all(len({len(one) for one in values}) == 1 for values in table.values())
    assert strength("fog", 3, 64).small and not strength("fog", 3, 65).small


@settings(max_examples=30, deadline=None)
@given(
    name=st.sampled_from(CORRUPTIONS),
    severity=st.sampled_from(SEVERITIES),
    height=st.integers(12, 80),
    width=st.integers(12, 80),
)
def test_any_images_are_corrupted_to_the_same_shape_and_stay_as_they_are(name, severity, height, width):
    images = pictures(2, height, width)
    before = images.clone()
    found = corrupt(images, name, severity)
    assert found.shape == images.shape and found.dtype == torch.uint8 and found.is_contiguous()
    assert torch.equal(images, before)


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("side", [32, 66])
def test_an_image_is_corrupted_alike_in_any_batch(name, side):
    images = pictures(5, side, side)
    whole = corrupt(images, name, 4, seed=7)
    assert torch.equal(whole, corrupt(images, name, 4, seed=7))
    parts = [corrupt(images[a:b], name, 4, seed=7, first=a) for a, b in ((0, 1), (1, 3), (3, 5))]
    assert torch.equal(whole, torch.cat(parts))
    other = corrupt(images, name, 4, seed=8)
    assert torch.equal(whole, other) == (name in DETERMINISTIC)
    twins = corrupt(images[:1].expand(2, -1, -1, -1), name, 4)
    assert torch.equal(twins[0], twins[1]) == (name in DETERMINISTIC)
    assert len(corrupt(images[:0], name, 4)) == 0


def test_large_batches_are_taken_in_parts(monkeypatch):
    images = pictures(7)
    whole = {name: corrupt(images, name, 2) for name in ("fog", "glass_blur", "contrast")}
    monkeypatch.setattr("ddkit.evaluation.corruptions.registry._PIXELS_AT_ONCE", 3 * 32 * 32)
    assert all(torch.equal(corrupt(images, name, 2), found) for name, found in whole.items())


@pytest.mark.parametrize("side", [32, 96])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_severest_is_farther_from_the_clean_image_than_the_mildest(name, side):
    if name == "elastic_transform" and side == 32:
        return  # the affine map, which moves most, is largest at severity 1
    images = pictures(12, side, side)
    distances = [distance(corrupt(images, name, severity), images) for severity in SEVERITIES]
    if name == "saturate":
        assert distances[0] < distances[1] and distances[2] < distances[3] < distances[4]
    else:
        assert distances[0] < distances[4]
    if name in STEADY:
        assert distances == sorted(distances)
    assert min(distances) > 0


def test_wrong_names_severities_and_images_are_one_line():
    images = pictures(1)
    with pytest.raises(OptionError, match="corruption 'smog'.*fog"):
        corrupt(images, "smog", 1)
    with pytest.raises(OptionError, match="severity 6.*1, 2, 3, 4, 5"):
        corrupt(images, "fog", 6)
    with pytest.raises(SetError, match="uint8 images"):
        corrupt(images.float(), "fog", 1)
    with pytest.raises(SetError, match="8x32 pixels.*at least 12"):
        corrupt(images[..., :8], "fog", 1)


@settings(max_examples=40, deadline=None)
@given(side=st.integers(12, 60), factor=st.floats(1, 5), seed=st.integers(0, 99))
def test_zooming_is_scipys(side, factor, seed):
    values = np.random.default_rng(seed).random((2, side, side, 3))
    crop = int(np.ceil(side / factor))
    top = (side - crop) // 2
    expected = [
        scipy.ndimage.zoom(one[top : top + crop, top : top + crop], (factor, factor, 1), order=1) for one in values
    ]
    assert np.allclose(zoomed(values, factor), expected, rtol=0, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(radius=st.sampled_from([0.3, 1, 1.5, 3, 6, 8, 10]), sigma=st.floats(0.1, 0.6))
def test_disks_are_symmetric_weights_and_convolving_is_scipys(radius, sigma):
    kernel = disk(radius, sigma)
    assert kernel.dtype == np.float32 and len(kernel) % 2 and abs(kernel.sum() - 1) < (1e-5 if radius <= 6 else 0.0205)
    assert np.allclose(kernel, kernel.T, atol=1e-7) and np.allclose(kernel, kernel[::-1, ::-1], atol=1e-7)
    values = np.random.default_rng(0).random((1, 30, 26, 1))
    expected = scipy.ndimage.correlate(values[0, ..., 0], kernel.astype(float), mode="mirror")
    assert np.allclose(convolved(values, kernel)[0, ..., 0], expected, atol=1e-12)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), levels=st.sampled_from([2, 4, 256]))
def test_colours_return_from_hue_saturation_and_value(seed, levels):
    random = np.random.default_rng(seed)
    values = random.integers(0, levels, (2, 5, 7, 3)) / (levels - 1)
    parts = to_hsv(values)
    assert all(part.min() >= 0 and part.max() <= 1 for part in parts)
    assert np.allclose(from_hsv(*parts), values, atol=1e-12)


def test_motion_keeps_even_images_and_smooths_along_its_direction_only():
    assert np.allclose(motion_blurred(np.full((20, 30, 3), 77, np.uint8), 10, 3, 31.0), 77)
    stripes = np.tile((np.arange(32) % 8 < 4) * 200, (32, 1)).astype(np.uint8)
    along, across = motion_blurred(stripes.T, 8, 4, 0.0), motion_blurred(stripes, 8, 4, 0.0)
    assert np.allclose(along, stripes.T) and across.std() < 0.7 * stripes.std()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), share=st.sampled_from([0.0, 0.005, 0.05, 1.0]))
def test_chamfer_distances_are_near_the_euclidean_ones(seed, share):
    targets = np.random.default_rng(seed).random((2, 24, 31)) < share
    found = chamfer_distances(targets, 20)
    for one, where in zip(found, targets):
        exact = scipy.ndimage.distance_transform_edt(~where) if where.any() else np.full(where.shape, 20.0)
        assert ((one == 0) == where).all()
        assert (np.abs(one - np.minimum(exact, 20)) <= 0.03 * np.minimum(exact, 20)).all()


def test_edges_are_one_pixel_wide_and_begin_at_strong_gradients_only():
    image = np.zeros((2, 30, 30), np.uint8)
    image[0, :, 15:] = 255
    image[1, :, 15:] = 20  # the Sobel magnitude is 80: below 150
    edges = canny_edges(image, 50, 150)
    assert (edges[0].sum(1) == 1).all() and not edges[1].any()
    assert (canny_edges(image.transpose(0, 2, 1), 50, 150) == edges.transpose(0, 2, 1)).all()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), values=st.integers(1, 256))
def test_equalising_keeps_the_order_and_uses_the_whole_range(seed, values):
    images = np.random.default_rng(seed).integers(0, values, (2, 16, 16)).astype(np.uint8)
    for before, after in zip(images, equalised(images)):
        order = np.argsort(before, axis=None, kind="stable")
        assert (np.diff(after.ravel()[order].astype(int)) >= 0).all()
        assert (after == before).all() if np.ptp(before) == 0 else (after.min() == 0 and after.max() == 255)
    assert np.allclose(
        box_means(images)[:, 1:-1, 1:-1], [scipy.ndimage.uniform_filter(i, 3, float)[1:-1, 1:-1] for i in images]
    )


def test_textures_of_frost_are_bright_bluish_and_continue_at_their_borders():
    textures = frost_textures().astype(int)
    assert textures.shape == (4, SIDE, SIDE, 3)
    assert (textures[..., 2].mean((1, 2)) > textures[..., 0].mean((1, 2))).all()
    inside = np.abs(np.diff(textures, axis=1)).mean()
    assert np.abs(textures[:, 0] - textures[:, -1]).mean() < 1.3 * inside


@settings(max_examples=40, deadline=None)
@given(counts=st.lists(st.integers(0, 12), min_size=1, max_size=6), images=st.integers(1, 50), seed=st.integers(0, 99))
def test_the_choice_of_images_has_every_class_as_often(counts, images, seed):
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]
    chosen = stratified_choice(labels, images, np.random.default_rng(seed))
    assert len(chosen) == min(images, len(labels)) and len(set(chosen.tolist())) == len(chosen)
    found = np.bincount(labels[chosen].numpy(), minlength=len(counts))
    most = found.max(initial=0)
    assert all(n >= min(most - 1, available) for n, available in zip(found, counts))
    smaller = stratified_choice(labels, max(1, images // 2), np.random.default_rng(seed))
    assert set(smaller.tolist()) <= set(chosen.tolist())


def test_the_measure_yields_every_severity_and_its_summary(teacher):
    measure = find_measure("corruptions")
    assert measure.parts == PARTS == ("clean", *CORRUPTIONS) and measure.summary is not None
    source = open_source("digits", split="test")
    images = source.resident(EvalTransform.for_size(32)), torch.from_numpy(source.labels).long()
    network = MeasuredNetwork(of="this", arch="convnet3-w32", seed=0, checkpoint=teacher)

    def rows(part: str, shown: tuple[torch.Tensor, torch.Tensor] = images, **changed) -> list[Row]:
        given = {f"corruptions.{key}": value for key, value in changed.items()}
        context = Context(
            config=measure_config(measure, given), classes=tuple(source.class_names), device=torch.device("cpu"),
            part=part, validation_key=tuple(shown[1].tolist()), load_validation=lambda: shown,
        )  # fmt: skip
        return list(measure.run(network, context))

    found = rows("clean", images=60)
    for part in ("contrast", "fog"):
        again = rows(part, images=60, severities=(5, 3))
        assert [row.condition for row in again] == [f"{part}, severity 3", f"{part}, severity 5"]
        assert again == rows(part, images=60, severities=(3, 5))
        found += again
    assert all(row.metric == "top-1" and row.n == 60 and 0 <= row.value <= 100 for row in found)
    other = images[0].flip(0), images[1].flip(0)  # each is measured on its own images, whatever was measured before
    before = rows("contrast", other, images=60)
    STATE.drop()
    assert rows("contrast", other, images=60) == before
    assert rows("clean")[0].n == len(images[1]) == 355
    summary = {row.metric: row.value for row in measure.summary(found)}
    values = [row.value for row in found[1:]]
    assert summary["mean"] == pytest.approx(np.mean(values))
    assert summary["mean-3"] == pytest.approx(np.mean(values[::2]))
    assert summary["drop"] == pytest.approx(found[0].value - np.mean(values))
    assert {row.condition for row in measure.summary(found)} == {""}
    assert set(summary) | {"top-1"} == {metric.name for metric in measure.metrics}
    assert "mean-5" not in {row.metric for row in measure.summary(found[:2])}
    for wrong in ({"severities": (0, 1)}, {"images": 0}, {"severities": ()}):
        with pytest.raises(OptionError, match=next(iter(wrong))):
            rows("fog", **wrong)
