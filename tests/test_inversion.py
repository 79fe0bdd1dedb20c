"""Inversion: a step against a literal float64 restatement; crops; resume; divergence; batches; what is refused."""

import copy
import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ddkit.core.device import threads
from ddkit.distillers.cudd import Config
from ddkit.engine.interleaving import interleave
from ddkit.engine.units import UnitFile
from ddkit.errors import Diverged, TeacherError
from ddkit.networks.registry import build_network
from ddkit.specs import TeacherSpec
from ddkit.synthesis.crops import Crops, augment, least_scale
from ddkit.synthesis.inner.inversion import inversion_units
from ddkit.synthesis.inner.pixel_optimiser import TERMS, PixelBatch, PixelOptimiser
from ddkit.synthesis.interface import Plan
from ddkit.synthesis.moments import Measured, _moments
from ddkit.synthesis.settings import Adversary, Batch, BatchNorm, Crop, Inversion, Regulariser
from ddkit.synthesis.unit_progress import UnitProgress
from ddkit.teachers.teacher import Teacher

CPU = torch.device("cpu")
SIZE, CLASSES = 16, 3


def network(seed: int, arch: str = "convnet3") -> nn.Module:
    """Random weights and random BatchNorm statistics, so that every term has something to do."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = build_network(arch, CLASSES, SIZE)
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
                module.weight.data.uniform_(0.5, 1.5)
    return net


def teacher(seed: int = 0, arch: str = "convnet3") -> Teacher:
    names = tuple("abc")
    spec = TeacherSpec(
        arch=arch, num_classes=3, image_size=SIZE, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3), classes=names
    )  # fmt: skip
    return Teacher(network(seed, arch), spec, CPU)


def batch(per_class: int = 2, seed: int = 0, moments=None) -> PixelBatch:
    random = np.random.default_rng(seed)
    n = per_class * CLASSES
    anchors = torch.from_numpy(random.integers(0, 256, (n, 3, SIZE, SIZE), dtype=np.uint8))
    labels = torch.arange(CLASSES).repeat_interleave(per_class)
    return PixelBatch(labels=labels, anchors=anchors, size=SIZE, seed=seed, name="t", moments=moments)


def exact(**options) -> Config:
    return Config(**({"precision": "float32", "steps": 30, "crop": Crop(jitter=3, both=True)} | options))


# ------------------------------------------------------------------ the literal restatement


def literal_terms(optimiser: PixelOptimiser, x: torch.Tensor, step: int) -> dict[str, torch.Tensor]:
    """All terms in float64 by the formulas: interpolate, flip, roll, hooks, sums."""
    s, crops = optimiser.settings, optimiser.crops
    top, left, height, width = crops.boxes[step]

    def view(images):
        crop = images[:, :, top : top + height, left : left + width]
        out = nn.functional.interpolate(crop, (SIZE, SIZE), mode="bilinear", antialias=s.crop.antialias)
        out = out.flip(-1) if crops.flips[step] else out
        return out.roll(tuple(int(v) for v in crops.rolls[step]), (2, 3))

    net = copy.deepcopy(optimiser.teacher.network).double()
    inputs, outputs = [], []
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(lambda m, i, o: inputs.append((m, i[0])))
        if isinstance(module, nn.Linear):
            module.register_forward_pre_hook(lambda m, i: outputs.append(i[0]))
    a, y = view(x), optimiser.labels
    z = net(a)
    seen, features = list(inputs), outputs[-1]
    terms = {"ce": (torch.logsumexp(z, 1) - z[range(len(y)), y]).mean()}

    def distance(parts, targets):
        total = 0
        for number, ((_, values), target) in enumerate(zip(seen, targets)):
            layer = 0
            for group, rows in enumerate(parts):
                v = values[rows].transpose(0, 1).flatten(1)
                mean, var = v.mean(1), ((v - v.mean(1, keepdim=True)) ** 2).mean(1)
                m, w = (t.double()[group if len(t) > 1 else 0] for t in target)
                layer = layer + (((mean - m) ** 2).sum() ** 0.5 + ((var - w) ** 2).sum() ** 0.5) / len(parts)
            total = total + (s.bn.first if number == 0 else 1) * layer
        return total

    trained = [(m.running_mean[None], m.running_var[None]) for m, _ in seen]
    everything = [slice(None)]
    each = [(y == c).nonzero()[:, 0] for c in y.unique()]
    if s.bn.targets == "global":
        terms["bn"] = s.bn.weight * distance(everything, trained)
    elif s.bn.targets == "class":
        terms["bn"] = s.bn.weight * distance(each, optimiser.batch.moments)
    else:
        terms["bn"] = s.bn.weight * (distance(each, optimiser.batch.moments) + distance(everything, trained)) / 2
    if s.reg.weight:
        anchor = view(optimiser.anchors.double())
        if s.reg.space == "pixel":
            terms["reg"] = s.reg.weight * ((a - anchor) ** 2).mean()
        else:
            net(anchor)
            terms["reg"] = s.reg.weight * ((features - outputs[-1].detach()) ** 2).mean()
    if optimiser.student is not None:
        zs = copy.deepcopy(optimiser.student.network).double()(a)
        p = zs.softmax(1)[range(len(y)), y]
        keep = (z.argmax(1) == y) if s.adv.mask == "teacher" else torch.ones_like(y, dtype=torch.bool)
        terms["adv"] = -s.adv.weight * torch.where(keep, torch.log(1 - p), 0.0).sum() / len(y)
    return terms


def some_moments(seed: int):
    g = torch.Generator().manual_seed(seed)
    return [(torch.randn(CLASSES, 128, generator=g), torch.rand(CLASSES, 128, generator=g) + 0.5) for _ in range(3)]


@settings(max_examples=12, deadline=None)
@given(
    st.integers(0, 1000), st.integers(0, 29), st.sampled_from(["global", "class", "both"]),
    st.sampled_from(["pixel", "feature"]), st.sampled_from(["teacher", "none"]), st.sampled_from(["noise", "real"]),
)  # fmt: skip
def test_a_step_is_the_formulas(seed, step, targets, space, mask, init):
    cfg = exact(
        init=init, bn=BatchNorm(weight=0.3, targets=targets), reg=Regulariser(weight=0.7, space=space),
        adv=Adversary(weight=1.3, mask=mask),
    )  # fmt: skip
    optimiser = PixelOptimiser(batch(2, seed, some_moments(seed)), cfg, teacher(seed), teacher(seed + 1))
    if init == "real":  # not where the regulariser has no slope
        optimiser.x.data += 0.1 * torch.randn(optimiser.x.shape, generator=torch.Generator().manual_seed(seed))
    found = optimiser.terms(*optimiser.view(step))
    (grad,) = torch.autograd.grad(torch.stack(list(found.values())).sum(), optimiser.x)
    x = optimiser.x.detach().double().requires_grad_()
    wanted = literal_terms(optimiser, x, step)
    (slow,) = torch.autograd.grad(sum(wanted.values()), x)
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        assert float(found[name].detach()) == pytest.approx(float(value.detach()), rel=2e-4, abs=1e-6), name
    assert (grad.double() - slow).abs().max() <= 1e-3 * slow.abs().max()


def test_adam_cosine_and_clamp():
    """Three steps by hand: Adam (0.5, 0.9), cosine to 0, clamp to what images can be."""
    cfg = exact(steps=3, lr=0.5, adv=Adversary(weight=0))
    optimiser = PixelOptimiser(batch(), cfg, teacher())
    x = optimiser.x.detach().clone()
    first = second = torch.zeros_like(x)
    for t in range(3):
        optimiser.step()
        probe = PixelOptimiser(batch(), cfg, teacher())
        probe.x.data.copy_(x)
        terms = probe.terms(*probe.view(t))
        (g,) = torch.autograd.grad(torch.stack(list(terms.values())).sum(), probe.x)
        first, second = 0.5 * first + 0.5 * g, 0.9 * second + 0.1 * g * g
        lr = 0.5 * (1 + np.cos(np.pi * t / 3)) / 2
        x = x - lr * (first / (1 - 0.5 ** (t + 1))) / ((second / (1 - 0.9 ** (t + 1))).sqrt() + 1e-8)
        x = x.clamp(optimiser.low, optimiser.high)
        assert torch.allclose(optimiser.x.detach(), x, atol=1e-4)
    pixels = optimiser.pixels()
    assert pixels.dtype == np.uint8 and pixels.shape == (6, 3, SIZE, SIZE)


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(["constant", "global-to-local", "reverse"]), st.sampled_from(["step", "linear", "cosine"]),
    st.floats(0.1, 1), st.floats(0.05, 1), st.integers(0, 99),
)  # fmt: skip
def test_the_crop_law(direction, curve, milestone, least, seed):
    crop = Crop(direction=direction, curve=curve, milestone=milestone, min=least, jitter=2)
    low = least_scale(crop, 100)
    assert ((low >= least - 1e-9) & (low <= 1 + 1e-9)).all()
    forward = least_scale(replace(crop, direction="global-to-local"), 100)
    if direction == "constant":
        assert (low == least).all()
    elif direction == "reverse":
        assert np.allclose(low, 1 + least - forward)
    else:
        assert (np.diff(low) <= 1e-9).all() and low[0] == pytest.approx(1)
        after = np.arange(100) >= milestone * 100
        assert np.allclose(low[after], least)
    crops = Crops.draw(crop, 100, SIZE, np.random.default_rng(seed))
    top, left, height, width = crops.boxes.T
    assert (top >= 0).all() and (top + height <= SIZE).all() and (left >= 0).all() and (left + width <= SIZE).all()
    assert (np.abs(crops.rolls) <= 2).all()


def test_cda_curves_by_their_formulas():
    t = np.arange(50) / 50
    linear, cosine = (least_scale(Crop(direction="global-to-local", curve=c), 50) for c in ("linear", "cosine"))
    assert np.allclose(linear, 0.08 + 0.92 * (1 - t))
    assert np.allclose(cosine, 0.08 + 0.92 * (1 + np.cos(np.pi * t)) / 2)
    step = least_scale(Crop(direction="global-to-local", curve="step", milestone=0.4), 50)
    assert (step[:20] == 1).all() and np.allclose(step[20:], 0.08)


@pytest.mark.parametrize("antialias", [True, False])
def test_the_augmentation_is_crop_resize_flip_roll(antialias):
    crop = Crop(direction="global-to-local", jitter=3, both=True, antialias=antialias)
    crops = Crops.draw(crop, 20, SIZE, np.random.default_rng(0))
    images = torch.rand(2, 3, SIZE, SIZE)
    matrices = crops.matrices(slice(0, 20), SIZE, crop, CPU)
    for step, (rows, columns) in enumerate(zip(*matrices, strict=True)):
        top, left, height, width = crops.boxes[step]
        part = images[:, :, top : top + height, left : left + width]
        want = nn.functional.interpolate(part, (SIZE, SIZE), mode="bilinear", antialias=antialias)
        want = (want.flip(-1) if crops.flips[step] else want).roll(tuple(crops.rolls[step]), (2, 3))
        assert torch.allclose(augment(images, rows, columns), want, atol=1e-5)


@pytest.mark.gpu
def test_recorded_steps_are_the_plain_ones(monkeypatch):
    cfg = exact(steps=12, bn=BatchNorm(weight=0.3), reg=Regulariser(weight=0.7), adv=Adversary(weight=1.3))
    cuda = torch.device("cuda")

    def made():
        nets = [Teacher(copy.deepcopy(teacher(seed).network), teacher(seed).spec, cuda) for seed in (0, 1)]
        optimiser = PixelOptimiser(batch(), cfg, *nets)
        for _ in range(12):
            optimiser.step()
        return optimiser

    recorded = made()
    assert all(r.graph for r in recorded.captured._recordings.values())
    monkeypatch.setattr("ddkit.engine.cuda_graphs.WARM_UP", 1000)
    plain = made()
    assert torch.allclose(recorded.losses, plain.losses, rtol=1e-4, atol=1e-6)
    assert torch.allclose(recorded.x, plain.x, atol=1e-3)


# ------------------------------------------------------------------ statistics


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gpu_measures_biased_variance(dtype):
    x = torch.randn(6, 5, 7, 7, device="cuda").to(dtype).contiguous(memory_format=torch.channels_last)
    mean, var = _moments(x)
    want, wanted = torch.var_mean(x.float(), (0, 2, 3), correction=0)
    assert mean.dtype == torch.float32 and torch.allclose(mean, wanted, atol=1e-4)
    assert torch.allclose(var, want, rtol=1e-3)


@pytest.mark.parametrize("arch", ["resnet18-small", "timm:efficientnet_b0", "convnet3"])
def test_measuring_changes_nothing_and_sees_every_layer(arch):
    import timm  # noqa: F401 (a missing library should fail here, not skip)

    net = build_network(arch, 3, 32).eval()
    measured = Measured(net)
    x = torch.rand(4, 3, 32, 32)
    with measured.watch(2) as seen:
        out = measured.network(x)
    assert torch.allclose(out, net(x), atol=1e-6)
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert sorted(seen) == list(range(len(norms))) and len(measured.trained) == len(norms)
    inputs = {}
    for number, norm in enumerate(norms):
        norm.register_forward_hook(lambda m, i, o, number=number: inputs.update({number: i[0]}))
    net(x)
    for number, (mean, var) in seen.items():
        for group, part in enumerate(inputs[number].chunk(2)):
            assert torch.allclose(mean[group], part.mean((0, 2, 3)), atol=1e-4)
            assert torch.allclose(var[group], part.var((0, 2, 3), correction=0), atol=1e-4)


def test_a_network_without_batch_norm_is_refused_with_the_setting_that_helps():
    with pytest.raises(TeacherError, match="no BatchNorm.*settings bn.weight=0"):
        PixelOptimiser(batch(), exact(), teacher(arch="convnet3-in"))
    optimiser = PixelOptimiser(batch(), exact(bn=BatchNorm(weight=0)), teacher(arch="convnet3-in"))
    optimiser.step()
    assert optimiser.losses[0, TERMS.index("bn")] == 0


# ------------------------------------------------------------------ long runs


def test_a_killed_batch_goes_on_to_the_same_bytes(tmp_path):
    cfg = exact(steps=45)
    whole = PixelOptimiser(batch(), cfg, teacher(), teacher(1))
    interleave([whole.run(UnitProgress())], CPU)
    cut = PixelOptimiser(batch(), cfg, teacher(), teacher(1))
    progress = UnitProgress(UnitFile(tmp_path / "u.unit", "key"))
    progress.SAVE_EVERY_S = 0.0
    with threads(cfg.threads):
        for _ in range(20):
            cut.step()
    progress.save(cut.state)
    assert progress.state.is_file()
    again = PixelOptimiser(batch(), cfg, teacher(), teacher(1))
    interleave([again.run(UnitProgress(UnitFile(tmp_path / "u.unit", "key")))], CPU)
    assert (again.pixels() == whole.pixels()).all() and torch.equal(again.losses, whole.losses)


def test_a_finished_batch_leaves_nothing_behind():
    """By counting references alone: a GPU's memory does not wait for the collector."""
    gc.collect()
    gc.disable()
    try:
        optimiser = PixelOptimiser(batch(), exact(steps=2), teacher(), teacher(1))
        interleave([optimiser.run(UnitProgress())], CPU)
        there = weakref.ref(optimiser)
        del optimiser
        assert there() is None
    finally:
        gc.enable()


def test_what_is_not_finite_stops_with_step_term_and_value():
    broken = teacher()
    broken.network.classifier.bias.data[1] = float("nan")
    with pytest.raises(Diverged, match="t: ce became nan at step 1; lower lr"):
        interleave([PixelOptimiser(batch(), exact(), broken).run(UnitProgress())], CPU)
    optimiser = PixelOptimiser(batch(), exact(bn=BatchNorm(weight=0.01)), teacher())
    for _ in range(20):
        optimiser.step()
    optimiser.losses[10:20] += 1e5
    optimiser.done = 20
    optimiser.losses = torch.cat([optimiser.losses[:5].repeat(4, 1), optimiser.losses[10:20].repeat(2, 1)])
    optimiser.done = 40
    with pytest.raises(Diverged, match="grew tenfold"):
        optimiser.check()


def test_loss_curves_are_kept_for_the_terms_that_are_used():
    progress = UnitProgress()
    interleave([PixelOptimiser(batch(), exact(steps=5), teacher()).run(progress)], CPU)
    assert set(progress.losses) == {"ce", "bn", "reg"} and all(len(v) == 5 for v in progress.losses.values())


# ------------------------------------------------------------------ batches


@settings(max_examples=60, deadline=None)
@given(
    st.integers(2, 30), st.integers(0, 20), st.integers(1, 30), st.integers(1, 40), st.integers(0, 7),
    st.sampled_from(["across-classes", "one-class"]),
)  # fmt: skip
def test_batches_make_every_image_once(classes, first, more, size, ipc, grouping):
    cfg = Inversion(batch=Batch(size=size, ipc=ipc, grouping=grouping))
    names = tuple(str(i) for i in range(classes))
    plan = Plan(
        config=cfg, classes=names, counts=(99,) * classes, first=first, last=first + more, size=SIZE, seed=0,
        prefixes=(first + more,),
    )  # fmt: skip
    units = inversion_units(plan, cfg)
    made = [(label, rank) for unit in units for label in unit.labels for rank in unit.ranks]
    assert sorted(made) == sorted((c, r) for c in range(classes) for r in plan.ranks)
    assert all(len(u.labels) * len(u.ranks) <= max(size, ipc * len(u.labels)) for u in units)
    if grouping == "one-class":
        assert all(len(u.labels) == 1 for u in units)


def test_cifar10_fills_its_batch_and_the_papers_grouping_does_not():
    names, counts = tuple("abcdefghij"), (99,) * 10
    plan = Plan(config=None, classes=names, counts=counts, first=5, last=10, size=32, seed=0, prefixes=(5, 10))
    assert [len(u.labels) * len(u.ranks) for u in inversion_units(plan, Inversion())] == [50]
    papers = inversion_units(plan, Inversion(batch=Batch(ipc=1)))
    assert [len(u.labels) * len(u.ranks) for u in papers] == [10] * 5
