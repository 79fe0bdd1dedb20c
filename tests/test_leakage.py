"""Membership inference against direct implementations and on real networks; the measure leakage."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from ddkit.core.device import threads
from ddkit.evaluation.measures import find_measure, leakage, measure_config
from ddkit.evaluation.measures.interface import Context, MeasuredNetwork, MeasuredSet, Row
from ddkit.evaluation.membership import attack_quality, rmia
from ddkit.sources.images import open_source
from ddkit.specs import EvalTransform
from ddkit.teachers.teacher import Teacher
from ddkit.testing import check_measure

seeds = st.integers(0, 2**32 - 1).map(np.random.default_rng)


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_rmia_against_two_loops(rng):
    n, m = 7, 11
    target, reference, z_target, z_reference = (
        rng.uniform(0.01, 1, n),
        rng.uniform(0.01, 1, n),
        *rng.uniform(0.01, 1, (2, m)),
    )
    gamma, a = float(rng.uniform(0.5, 2)), float(rng.uniform(0, 1))

    def marginal(p):
        return ((1 + a) * p + (1 - a)) / 2

    expected = []
    for x in range(n):
        of_x = target[x] / marginal(reference[x])
        expected.append(sum(of_x / (z_target[z] / marginal(z_reference[z])) >= gamma for z in range(m)) / m)
    assert rmia(target, reference, z_target, z_reference, gamma=gamma, a=a).tolist() == pytest.approx(expected)


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_the_area_is_the_share_of_ordered_pairs(rng):
    members, others = rng.integers(0, 9, 20), rng.integers(0, 7, 30)
    pairs = [(m > o) + 0.5 * (m == o) for m in members for o in others]
    found = attack_quality(members, others)
    assert found.auc == pytest.approx(sum(pairs) / len(pairs))
    best = max((sum(members >= t) / 20 for t in range(11) if sum(others >= t) / 30 <= 0.01), default=0.0)
    assert found.tpr_at_1 == pytest.approx(100 * best) and found.tpr_at_01 <= found.tpr_at_1


def test_an_overfitted_network_gives_its_members_away_and_one_that_never_saw_them_does_not():
    torch.manual_seed(0)
    x = torch.randn(3000, 20)
    labels = (x[:, 0] + 2 * torch.randn(3000) > 0).long()  # mostly noise, which only memory can fit
    part = torch.arange(3000).split(600)
    members, others, population, unseen, shadow = part

    def trained(rows, steps):
        network = torch.nn.Sequential(torch.nn.Linear(20, 128), torch.nn.ReLU(), torch.nn.Linear(128, 2))
        optimiser = torch.optim.Adam(network.parameters(), 1e-2)
        for _ in range(steps):
            optimiser.zero_grad()
            cross_entropy(network(x[rows]), labels[rows]).backward()
            optimiser.step()
        return lambda rows: network(x[rows]).softmax(1)[torch.arange(len(rows)), labels[rows]].detach().numpy()

    def area(target):
        z = target(population), reference(population)
        return attack_quality(*(rmia(target(rows), reference(rows), *z) for rows in (members, others))).auc

    with threads(1):
        reference = trained(shadow, 150)
        assert area(trained(members, 150)) > 0.7
        assert abs(area(trained(unseen, 150)) - 0.5) < 0.05


def test_leakage():
    found = check_measure("leakage", {"leakage.per_class": 20, "leakage.most": 40})
    value = {(m.of, m.metric, m.condition): m for m in found.measurements}
    assert value["random", "real-pixels", ""].mean == 100
    assert value["random", "nearest-pixels-min", ""].mean == 0  # random images are real ones
    assert value["random", "copies-pixels", ""].mean == 100
    assert len(value["this", "rmia-auc", ""].values[0]) == 2 and 0 <= value["this", "rmia-auc", ""].mean <= 1
    by_temperature = [value["this", "label-auc", f"temperature {t}"].mean for t in (1, 4, 20)]
    assert value["this", "label-auc", ""].mean == max(by_temperature)
    assert [figure.kind for figure in found.figures if figure.of == "this"] == ["png"]


def test_students_of_other_labels_do_not_measure_the_same_images_again(random_set, rded_set, teacher, monkeypatch):
    measure, source, held_out = find_measure("leakage"), open_source("digits"), open_source("digits", split="test")
    images = held_out.resident(EvalTransform.for_size(32)), torch.from_numpy(held_out.labels).long()
    context = Context(
        config=measure_config(measure, {"leakage.per_class": 5, "leakage.most": 20}), device=torch.device("cpu"),
        classes=tuple(source.class_names), validation_key="digits", load_validation=lambda: images,
        load_teacher=lambda: Teacher.shared(teacher, torch.device("cpu")), load_source=lambda: source,
    )  # fmt: skip
    asked, nearest = [], leakage.nearest
    monkeypatch.setattr(leakage, "nearest", lambda *given: asked.append(len(given[0])) or nearest(*given))

    def rows(manifest, labels):
        student = MeasuredNetwork(of="this", arch="convnet3-w32", seed=0, checkpoint=teacher, labels=labels)
        subject = MeasuredSet(of="this", manifest=manifest, ipc=None, networks=(student,), total_bytes=1)
        return [row for row in measure.run(subject, context) if isinstance(row, Row)]

    stored = rows(random_set, "stored")
    assert rows(random_set, "hard") == stored and len(asked) == 4
    assert rows(rded_set, "hard") != stored and len(asked) == 8
