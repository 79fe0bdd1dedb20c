"""Behind the training loop: learning rates, one step, the time estimate, and how many threads help."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ddkit.networks import steps
from ddkit.networks.registry import build_network
from ddkit.networks.steps import PROBE_STEPS, StepExecutor, TimeEstimate, best_threads, learning_rate, make_optimiser
from ddkit.specs import TrainSpec

CPU = torch.device("cpu")
SPEC = TrainSpec(loss="ce", optimiser="sgd", lr=0.1, epochs=2, batch=4)


@given(
    st.integers(1, 40),
    st.integers(1, 20),
    st.sampled_from(["cosine", "half-cosine", "onecycle", "constant"]),
    st.floats(0, 0.5),
)
def test_the_rate_rises_while_warming_up_then_never_again(epochs, steps_an_epoch, schedule, warmup):
    spec = replace(SPEC, schedule=schedule, warmup=warmup)
    total = epochs * steps_an_epoch
    rates = [learning_rate(spec, step, total, steps_an_epoch) for step in range(total)]
    assert all(0 <= rate <= 1 for rate in rates)
    warm = round(warmup * total)
    assert rates[:warm] == sorted(rates[:warm]) and rates[warm:] == sorted(rates[warm:], reverse=True)
    assert not 0 < warm < total or rates[warm - 1] == 1


def test_a_step_is_forward_loss_backward_and_update():
    torch.manual_seed(0)
    network, twin = nn.Linear(12, 3), nn.Linear(12, 3)
    twin.load_state_dict(network.state_dict())
    inputs, target = torch.randn(4, 3, 2, 2), torch.tensor([0, 1, 2, 0])
    spec = replace(SPEC, precision="float32", momentum=0.0, weight_decay=0.0)
    flat = nn.Sequential(nn.Flatten(), network)
    step = StepExecutor(flat, make_optimiser(spec, flat), nn.functional.cross_entropy, spec, CPU)
    step(inputs, target, 0.5)
    loss = nn.functional.cross_entropy(twin(inputs.flatten(1)), target)
    loss.backward()
    assert torch.allclose(step.total, loss.detach())
    for ours, theirs in zip(network.parameters(), twin.parameters()):
        assert torch.allclose(ours, theirs - 0.05 * theirs.grad, atol=1e-6)


def test_the_estimate_is_reported_once_and_of_the_steps_that_are_left(monkeypatch):
    now = iter(float(i) for i in range(10))
    monkeypatch.setattr(steps.time, "monotonic", lambda: next(now))
    told = []
    estimate = TimeEstimate(told.append, first=5, rehearsals=2, steps=105)
    for step in range(6, 106):
        estimate.after(step, torch.zeros(()))
    assert told == [pytest.approx(1.0 / PROBE_STEPS * (105 - 7 - PROBE_STEPS))]


@pytest.mark.parametrize(("one", "many", "chosen"), [(1.0, 0.5, 4), (1.0, 0.9, 1), (0.5, 2.0, 1)])
def test_threads_are_used_only_where_they_help(monkeypatch, one, many, chosen):
    taken = lambda *_, **__: one if torch.get_num_threads() == 1 else many  # noqa: E731
    monkeypatch.setattr(steps, "seconds_a_step", taken)
    build = lambda: build_network("convnet3", 10, 32)  # noqa: E731
    assert best_threads(build, SPEC, 4, 32, 4) == chosen
    assert best_threads(build, SPEC, 4, 32, 1) == 1
