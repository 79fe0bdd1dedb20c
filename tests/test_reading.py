"""Images of a source that are read at once, in any order and number of times."""

import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ddkit.core.worker_state import STATE
from ddkit.errors import ImagesUnreadable
from ddkit.format.manifest import EvalInfo
from ddkit.sources import images as images_module
from ddkit.sources.images import open_source
from ddkit.sources.reading import Squares, side_by_side
from ddkit.specs import EvalTransform


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 19), max_size=30), max_size=6))
def test_squares_are_read_once(asked):
    counts = np.zeros(20, int)

    def read(i):
        counts[i] += 1
        return torch.full((3, 4, 4), i, dtype=torch.uint8)

    squares = Squares(20, 4, read)
    for images in asked:
        taken = squares.take(np.array(images, np.int64))
        assert taken[:, 0, 0, 0].tolist() == images and taken.shape == (len(images), 3, 4, 4)
    assert (counts == np.isin(np.arange(20), [i for images in asked for i in images])).all()
    assert squares.all("all")[:, 2, 3, 3].tolist() == list(range(20)) and (counts == 1).all()


def test_an_image_that_cannot_be_read_is_tried_again():
    broken = {3}

    def read(i):
        if i in broken:
            raise ImagesUnreadable(f"{i} does not decode")
        return torch.full((3, 4, 4), i, dtype=torch.uint8)

    squares = Squares(5, 4, read)
    for _ in range(2):
        with pytest.raises(ImagesUnreadable, match="3 does not decode"):
            squares.take(np.arange(5))
    broken.clear()
    assert squares.take(np.arange(5))[:, 0, 0, 0].tolist() == list(range(5))


@given(st.integers(0, 9000))
@settings(deadline=None, max_examples=20)
def test_work_side_by_side_keeps_the_order(n):
    assert list(side_by_side(lambda i: 2 * i, n, "doubling")) == [2 * i for i in range(n)]


@pytest.mark.parametrize("kept", [0, 2**30])
def test_squares_of_a_source_are_those_of_its_images(toy_source, monkeypatch, kept):
    STATE.drop()
    monkeypatch.setattr(images_module, "KEPT_BYTES", kept)
    source, transform = open_source(str(toy_source)), EvalTransform(resize=12, crop=8)
    alone = torch.cat([open_source(str(toy_source)).squares(np.array([i]), transform) for i in range(len(source))])
    chosen = np.array([5, 0, 5, 35])
    assert torch.equal(source.squares(chosen, transform), alone[chosen])
    assert torch.equal(source.resident(transform), alone)
    of_a_set = EvalInfo(resize=12, crop=8)
    assert torch.equal(source.resident(of_a_set), alone)
    smaller = EvalTransform(resize=8, crop=8)
    assert not torch.equal(source.squares(chosen, smaller), alone[chosen])


def test_squares_first_read_in_inference_mode_are_read_on_out_of_it(toy_source):
    STATE.drop()
    source, transform = open_source(str(toy_source)), EvalTransform(resize=8, crop=8)
    with torch.inference_mode():
        source.squares(np.arange(4), transform)
    assert source.resident(transform).float().requires_grad_().sum() > 0


def test_squares_are_those_of_the_classes_in_a_list(toy_source, tmp_path):
    STATE.drop()
    names, transform = tmp_path / "names.txt", EvalTransform(resize=8, crop=8)
    names.write_text("class 0\nclass 1\n")
    before = open_source(str(toy_source), classes=str(names)).resident(transform).clone()
    names.write_text("class 1\nclass 2\n")
    after = open_source(str(toy_source), classes=str(names)).resident(transform)
    assert torch.equal(after[:12], before[12:]) and not torch.equal(after[12:], before[:12])


def test_a_changed_file_is_read_again(toy_source):
    transform = EvalTransform(resize=8, crop=8)
    before = open_source(str(toy_source)).resident(transform).clone()
    (first, *_) = sorted((toy_source / "train" / "class 0").iterdir())
    time.sleep(0.01)
    Image.new("RGB", (16, 16), "white").save(first)
    after = open_source(str(toy_source)).resident(transform)
    assert (after[0] == 255).all() and torch.equal(after[1:], before[1:])
