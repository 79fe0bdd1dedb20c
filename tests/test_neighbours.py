"""Nearest neighbours, recall and coverage against brute force; the measure diversity."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ddkit.evaluation.neighbours import coverage, nearest, pixel_rows, radii, recall, unit_rows
from ddkit.testing import check_measure

seeds = st.integers(0, 2**32 - 1).map(np.random.default_rng)


def distance(a, b):
    return float(np.sqrt(sum((x - y) ** 2 for x, y in zip(a, b))))


@settings(max_examples=15, deadline=None)
@given(seeds)
def test_against_brute_force(rng):
    n, m, k = int(rng.integers(8, 20)), int(rng.integers(8, 20)), int(rng.integers(1, 6))
    real, made = rng.normal(0, 1, (n, 3)), rng.normal(0.5, 1, (m, 3))
    x, y = torch.tensor(real), torch.tensor(made)
    found, index = nearest(x, y)
    for i in range(n):
        every = [distance(real[i], point) for point in made]
        assert found[i] == pytest.approx(min(every), rel=1e-6) and every[int(index[i])] == pytest.approx(min(every))

    def kth(points, i):
        return sorted(distance(points[i], points[j]) for j in range(len(points)) if j != i)[k - 1]

    assert radii(x, k).tolist() == pytest.approx([kth(real, i) for i in range(n)], rel=1e-6)
    inside = [any(distance(r, s) <= kth(made, j) + 1e-9 for j, s in enumerate(made)) for r in real]
    assert recall(x, y, k) == pytest.approx(sum(inside) / n)
    covered = [any(distance(r, s) <= kth(real, i) + 1e-9 for s in made) for i, r in enumerate(real)]
    assert coverage(x, y, k) == pytest.approx(sum(covered) / n)


def test_a_copy_is_at_no_distance():
    images = torch.from_numpy(np.random.default_rng(0).integers(180, 256, (60, 3, 32, 32), np.uint8))
    rows = pixel_rows(images)
    found, index = nearest(rows, rows)
    assert found.max() == 0 and torch.equal(index, torch.arange(60))


@settings(max_examples=15, deadline=None)
@given(seeds)
def test_units(rng):
    images = torch.tensor(rng.integers(0, 256, (4, 3, 5, 5), dtype=np.uint8))
    a, b = pixel_rows(images)[:2]
    difference = images[0].double() - images[1].double()
    assert float((a - b).norm()) == pytest.approx(float(difference.square().mean().sqrt()), rel=1e-4)
    found, _ = nearest(pixel_rows(images), pixel_rows(images), same=True)
    assert (found > 0).all()
    features = torch.tensor(rng.normal(0, 1, (2, 6)))
    u, v = unit_rows(features)
    cosine = float(features[0] @ features[1] / (features[0].norm() * features[1].norm()))
    assert float((u - v).square().sum()) / 2 == pytest.approx(1 - cosine)


def test_diversity():
    found = check_measure("diversity", {"diversity.per_class": 20, "diversity.map_images": 10})
    value = {(m.of, m.metric): m.mean for m in found.measurements}
    assert value["random", "sources"] == 2 and 0 <= value["this", "recall"] <= 1
    assert value["this", "diversity-ratio"] == pytest.approx(1, abs=0.3) and value["this", "realism"] < 0
    assert [figure.kind for figure in found.figures if figure.of == "this"] == ["vega-lite"]
