"""Recorded and compiled steps give what plain ones give."""

import copy
import os
import platform

import pytest
import torch
from torch import nn

from ddkit.core.device import ALLOCATOR_VARIABLES
from ddkit.engine.cuda_graphs import Captured, Compiled, recordable, set_learning_rate

CPU = torch.device("cpu")
tuned = any(name in os.environ for name in ALLOCATOR_VARIABLES)


def network():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 5))


def trained(net, device, kind, step_of):
    """A network after seven steps on batches of two sizes, and the sum of its losses."""
    net = net.to(device)
    groups = [{"params": list(net.parameters())}]
    optimiser = recordable(kind, groups, device, lr=0.1, **({"momentum": 0.9} if kind is torch.optim.SGD else {}))
    total = torch.zeros((), device=device)

    def one(x, y):
        optimiser.zero_grad(set_to_none=True)
        loss = nn.functional.cross_entropy(net(x), y)
        loss.backward()
        optimiser.step()
        total.add_(loss.detach())

    step = step_of(one)
    generator = torch.Generator().manual_seed(0)
    for number in range(14):
        set_learning_rate(optimiser.param_groups[0], 0.01 / (1 + number))
        size = 8 if number % 2 else 6
        x = torch.randn(size, 3, 8, 8, generator=generator).to(device)
        step(x, torch.arange(size, device=device) % 5)
    return torch.cat([p.detach().flatten().cpu() for p in net.parameters()]), float(total)


def test_on_a_cpu_a_step_is_just_called():
    seen = []
    step = Captured(lambda *tensors: seen.append(tensors), CPU)
    given = torch.zeros(2), torch.ones(3)
    step(*given)
    assert len(seen) == 1 and all(a is b for a, b in zip(seen[0], given))
    group = recordable(torch.optim.Adam, [{"params": [torch.zeros(1)]}], CPU, lr=0.5).param_groups[0]
    set_learning_rate(group, 0.25)
    assert group["lr"] == 0.25 and isinstance(group["lr"], float)


class Stubborn(nn.Module):
    """What the compiler refuses."""

    def forward(self, x):
        if torch.compiler.is_compiling():
            raise torch._dynamo.exc.BackendCompilerFailed(lambda: None, RuntimeError("no compiler"), None)
        return x + 1


def test_where_the_compiler_fails_the_network_goes_on_and_a_note_says_so(capsys):
    net = Compiled(Stubborn())
    assert torch.equal(net(torch.zeros(2)), torch.ones(2)) and torch.equal(net(torch.zeros(3)), torch.ones(3))
    assert capsys.readouterr().err.count("cannot be compiled here") == 1


@pytest.mark.gpu
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_recorded_steps_are_the_plain_ones(kind):
    net, cuda = network(), torch.device("cuda")
    plain, loss = trained(copy.deepcopy(net), cuda, kind, lambda one: one)
    recordings = []

    def record(one):
        recordings.append(Captured(one, cuda))
        return recordings[0]

    recorded, same = trained(copy.deepcopy(net), cuda, kind, record)
    assert len(recordings[0]._recordings) == 2 and all(r.graph for r in recordings[0]._recordings.values())
    assert torch.allclose(plain, recorded, atol=1e-5) and same == pytest.approx(loss, rel=1e-5)


@pytest.mark.gpu
def test_a_step_that_cannot_be_recorded_goes_on(capsys):
    total = torch.zeros((), device="cuda")

    def one(x):
        total.add_(x.sum() if float(x.sum()) > 0 else 0.0)  # reads a value back

    step = Captured(one, torch.device("cuda"))
    for _ in range(6):
        step(torch.ones(2, device="cuda"))
    assert float(total) == 12 and "cannot be recorded" in capsys.readouterr().err


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc" or tuned, reason="another C library, or told otherwise")
def test_steps_do_not_get_their_memory_anew():
    from resource import RUSAGE_SELF, getrusage

    def one():
        kept = [torch.zeros(megabytes, 2**18) for megabytes in (2, 30, 7, 28, 16, 9, 31, 12)]
        del kept[::2]

    step = Captured(one, CPU)
    step()
    before = getrusage(RUSAGE_SELF).ru_minflt
    for _ in range(20):
        step()
    assert getrusage(RUSAGE_SELF).ru_minflt - before < 100_000  # pages of 4 kB; all of them are 700,000
