"""The loss terms against a slow, literal, float64 restatement of the papers' formulas: values and gradients."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ddkit.synthesis import objectives

# ------------------------------------------------------------------ the formulas, literally


def slow_ce(z, y):
    return sum(-z[i, y[i]] + torch.logsumexp(z[i], 0) for i in range(len(z))) / len(z)


def slow_bn(found, targets, first, norm, moment):
    total = 0
    for number, ((mean, var), (mean_t, var_t)) in enumerate(zip(found, targets)):
        layer = 0
        for g in range(len(mean)):
            t = 0 if len(mean_t) == 1 else g
            a, b = (var[g], var_t[t]) if moment == "variance" else ((var[g] + 1e-8) ** 0.5, (var_t[t] + 1e-8) ** 0.5)
            layer = layer + (((mean[g] - mean_t[t]) ** 2).sum() ** 0.5 + ((a - b) ** 2).sum() ** 0.5) / len(mean)
        if norm == "per-layer-mean":
            layer = layer / math.sqrt(mean.shape[1]) / len(found)
        total = total + (first if number == 0 else 1) * layer
    return total


def slow_adv(zs, zt, y, mask, form):
    total = 0
    for i in range(len(zs)):
        if mask == "teacher" and int(zt[i].argmax()) != int(y[i]):
            continue
        p = torch.exp(zs[i, y[i]] - torch.logsumexp(zs[i], 0))
        total = total - (torch.log(1 - p) if form == "stable" else torch.log(1 - p + 1e-12))
    return total / len(zs)


def both(fast, slow, inputs):
    """(values, gradients) of a float32 function and a float64 one on the same numbers."""
    xs = [x.float().requires_grad_() for x in inputs]
    xd = [x.double().requires_grad_() for x in inputs]
    a, b = fast(*xs), slow(*xd)
    grads_a = torch.autograd.grad(a, xs, allow_unused=True)
    grads_b = torch.autograd.grad(b, xd, allow_unused=True)
    return (a.double(), b), list(zip(grads_a, grads_b))


def close(pair, rel=2e-5):
    a, b = (x.detach() for x in pair)
    return torch.allclose(a.double(), b.double(), rtol=rel, atol=rel * max(1.0, float(b.abs().max())))


seeds = st.integers(0, 10_000)


@settings(max_examples=25, deadline=None)
@given(seeds, st.integers(1, 9), st.integers(2, 12))
def test_classification(seed, n, classes):
    g = torch.Generator().manual_seed(seed)
    z, y = torch.randn(n, classes, generator=g) * 4, torch.randint(classes, (n,), generator=g)
    values, grads = both(lambda z: objectives.classification(z, y), lambda z: slow_ce(z, y), [z])
    assert close(values) and all(close(pair) for pair in grads)


@settings(max_examples=40, deadline=None)
@given(
    seeds, st.integers(1, 4), st.integers(1, 3), st.sampled_from(["sum", "per-layer-mean"]),
    st.sampled_from(["variance", "std"]), st.booleans(), st.floats(0, 20),
)  # fmt: skip
def test_batch_norm(seed, layers, groups, norm, moment, shared, first):
    g = torch.Generator().manual_seed(seed)
    widths = [3 + 2 * i for i in range(layers)]

    def some(rows):
        return [torch.rand(rows, w, generator=g) + 0.1 for w in widths for _ in (0, 1)]

    targets = some(1 if shared else groups)

    def pairs(flat):
        return list(zip(flat[::2], flat[1::2]))

    values, grads = both(
        lambda *x: objectives.batch_norm(pairs(x), pairs(targets), first=first, norm=norm, moment=moment),
        lambda *x: slow_bn(pairs(x), [(a.double(), b.double()) for a, b in pairs(targets)], first, norm, moment),
        some(groups),
    )
    assert close(values) and all(close(pair, 1e-4) for pair in grads)


@settings(max_examples=40, deadline=None)
@given(
    seeds, st.integers(1, 8), st.integers(2, 10), st.sampled_from(["teacher", "none"]),
    st.sampled_from(["stable", "paper"]),
)  # fmt: skip
def test_adversarial(seed, n, classes, mask, form):
    g = torch.Generator().manual_seed(seed)
    zs, zt = torch.randn(n, classes, generator=g) * 2, torch.randn(n, classes, generator=g)
    y = torch.randint(classes, (n,), generator=g)
    values, grads = both(
        lambda z: objectives.adversarial(z, zt, y, mask=mask, form=form),
        lambda z: slow_adv(z, zt, y, mask, form) + 0 * z.sum(),
        [zs],
    )
    assert close(values, 1e-4) and all(close(pair, 1e-4) for pair in grads)


def test_excluded_rows_count_in_the_divisor_and_get_no_gradient():
    z = torch.tensor([[3.0, 0.0], [3.0, 0.0]], requires_grad=True)
    teacher = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    y = torch.zeros(2, dtype=torch.int64)
    one = objectives.adversarial(z[:1], teacher[:1], y[:1])
    masked = objectives.adversarial(z, teacher, y)
    assert torch.allclose(masked, one / 2)
    (grad,) = torch.autograd.grad(masked, z)
    assert grad[1].abs().sum() == 0 and grad[0].abs().sum() > 0


def test_the_stable_form_keeps_its_gradient_where_the_paper_form_loses_it():
    y = torch.zeros(1, dtype=torch.int64)
    slopes = {}
    for form in ("stable", "paper"):
        z = torch.tensor([[40.0, 0.0, 0.0]], requires_grad=True)
        loss = objectives.adversarial(z, z.detach(), y, form=form)
        assert loss.isfinite()
        slopes[form] = float(torch.autograd.grad(loss, z)[0][0, 0])
    assert slopes["stable"] == pytest.approx(1.0, abs=1e-3) and slopes["paper"] == pytest.approx(0.0, abs=1e-3)


def test_the_regulariser_is_the_mean_over_all_elements():
    a, b = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    assert torch.allclose(objectives.regulariser(a, b), ((a - b) ** 2).sum() / (2 * 3 * 4 * 4))
