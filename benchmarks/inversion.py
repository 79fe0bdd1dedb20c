"""Recover: an authors-like loop beside ours, on the same start, in turns, in one run.

    python benchmarks/inversion.py [--arch resnet18-small] [--size 32] [--batch 100] [--steps 100] [--compile]

The authors-like loop is written from facts: float32, NCHW, torchvision's RandomResizedCrop and flip on the whole batch,
torch.roll, forward hooks that compute each layer's mean and variance, Adam on the pixels, cosine, clamp by channel.
Both losses are then measured on the same 20 crops in float32: faster and worse would be no gain.
Prints the ratio of step times (median of the rounds, with its spread) and writes benchmarks/results/inversion-….json.
"""

import argparse
import json
import math
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchvision import transforms

from ddkit.core.device import hardware, pick_device, versions
from ddkit.networks.registry import build_network
from ddkit.networks.training import seeded_network
from ddkit.specs import TeacherSpec
from ddkit.synthesis.inner.pixel_optimiser import PixelBatch, PixelOptimiser
from ddkit.synthesis.settings import Inversion
from ddkit.teachers.teacher import Teacher

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FLOPS_A_SAMPLE = {("resnet18", 224): 3.64e9}  # one forward pass at 224 px (timm's table); twice that with gradients
PEAK_TERAFLOPS = {"H100": 989.0, "H200": 989.0}  # dense bfloat16, by what the device's name says


def teacher(arch: str, size: int, classes: int, device: torch.device) -> Teacher:
    """Random weights with BatchNorm statistics of noise: the time of a step does not depend on what was learned."""
    net = seeded_network(lambda: build_network(arch, classes, size), 0, "inversion-benchmark").to(device)
    with torch.no_grad():
        net.train()
        for _ in range(3):
            net(torch.randn(16, 3, size, size, generator=torch.Generator().manual_seed(1)).to(device))
    names = tuple(str(i) for i in range(classes))
    return Teacher(
        net, TeacherSpec(arch=arch, num_classes=classes, image_size=size, mean=MEAN, std=STD, classes=names), device
    )


class AuthorsLike:
    """The loop of the SRe2L family as its scripts have it."""

    def __init__(self, net: nn.Module, x: torch.Tensor, labels: torch.Tensor, settings: Inversion) -> None:
        self.net = net.to(memory_format=torch.contiguous_format).eval()
        self.x, self.labels, self.settings, self.done = x.clone().contiguous().requires_grad_(), labels, settings, 0
        self.optimiser = torch.optim.Adam([self.x], settings.lr, (0.5, 0.9), 1e-8)
        self.crop = transforms.Compose(
            [transforms.RandomResizedCrop(x.shape[-1], (0.08, 1)), transforms.RandomHorizontalFlip()]
        )

    def step(self) -> None:
        found, s = [], self.settings

        def hook(module: nn.BatchNorm2d, inputs: tuple[torch.Tensor, ...], _: torch.Tensor) -> None:
            z = inputs[0]
            mean, var = z.mean([0, 2, 3]), z.permute(1, 0, 2, 3).reshape(z.shape[1], -1).var(1, unbiased=False)
            found.append(torch.norm(module.running_var.data - var, 2) + torch.norm(module.running_mean.data - mean, 2))

        handles = [m.register_forward_hook(hook) for m in self.net.modules() if isinstance(m, nn.BatchNorm2d)]
        for group in self.optimiser.param_groups:
            group["lr"] = s.lr * (1 + math.cos(math.pi * self.done / s.steps)) / 2
        view = self.crop(self.x)
        down, right = (int(torch.randint(0, s.crop.jitter + 1, (1,))) for _ in range(2))
        view = torch.roll(view, (down, right), (2, 3))
        self.optimiser.zero_grad()
        loss = nn.functional.cross_entropy(self.net(view), self.labels)
        loss = loss + s.bn.weight * sum((10 if i == 0 else 1) * term for i, term in enumerate(found))
        loss.backward()
        self.optimiser.step()
        for channel in range(3):
            m, d = MEAN[channel], STD[channel]
            self.x.data[:, channel] = torch.clamp(self.x.data[:, channel], -m / d, (1 - m) / d)
        for handle in handles:
            handle.remove()
        self.done += 1


def final_loss(x: torch.Tensor, batch: PixelBatch, settings: Inversion, guide: Teacher) -> float:
    """The objective of finished images on 20 fixed crops, float32."""
    optimiser = PixelOptimiser(batch, settings.__class__(**{**settings.__dict__, "precision": "float32"}), guide)
    with torch.no_grad():
        optimiser.x.copy_(x)
        values = [
            sum(float(v) for v in optimiser.terms(*optimiser.view(t)).values())
            for t in range(0, settings.steps, max(1, settings.steps // 20))
        ]
    return statistics.mean(values)


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """The report, also written to --out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", default="resnet18-small")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--compile", action="store_true", help="ours with torch.compile")
    parser.add_argument("--out", default="benchmarks/results")
    args = parser.parse_args(argv)
    device = pick_device(args.device)
    guide = teacher(args.arch, args.size, args.classes, device)
    settings = Inversion(steps=args.steps, threads=torch.get_num_threads(), compile=args.compile)
    labels = (torch.arange(args.batch) % args.classes).sort().values
    batch = PixelBatch(labels=labels, anchors=None, size=args.size, seed=0, name="benchmark")
    ours = PixelOptimiser(batch, settings, guide)
    net = seeded_network(lambda: build_network(args.arch, args.classes, args.size), 0, "x").to(device)
    net.load_state_dict(guide.network.state_dict())
    theirs = AuthorsLike(net.requires_grad_(False), ours.x.detach(), labels.to(device), settings)
    torch.manual_seed(0)
    times: dict[str, list[float]] = {"authors-like": [], "ours": []}
    round_steps = 5
    for _ in range(args.steps // round_steps):  # in turns: a busy machine slows both
        for name, loop in (("authors-like", theirs), ("ours", ours)):
            began = time.perf_counter()
            for _ in range(round_steps):
                loop.step()
            if device.type == "cuda":
                torch.cuda.synchronize()
            times[name].append((time.perf_counter() - began) / round_steps)
    ratios = sorted(a / b for a, b in zip(times["authors-like"], times["ours"]))[1:-1]
    seconds = {name: statistics.median(values) for name, values in times.items()}
    rate = args.batch / seconds["ours"]
    report: dict[str, Any] = {
        "arch": args.arch, "size": args.size, "batch": args.batch, "steps": args.steps, "compile": args.compile,
        "hardware": hardware(device), "threads": torch.get_num_threads(), "versions": versions(),
        "seconds_a_step": seconds, "image_steps_a_second": rate,
        "ratio": {"median": statistics.median(ratios), "low": ratios[0], "high": ratios[-1], "rounds": len(ratios)},
        "final_loss": {
            "authors-like": final_loss(theirs.x.detach(), batch, settings, guide),
            "ours": final_loss(ours.x.detach(), batch, settings, guide),
            "start": final_loss(PixelOptimiser(batch, settings, guide).x.detach(), batch, settings, guide),
        },
    }  # fmt: skip
    if (flops := FLOPS_A_SAMPLE.get((args.arch, args.size))) is not None:
        reached = 2 * flops * rate / 1e12
        peak = next((most for name, most in PEAK_TERAFLOPS.items() if name in report["hardware"]), None)
        report["roofline"] = {"teraflops": reached, "peak": peak, "percent": peak and 100 * reached / peak}
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    name = f"inversion-{device.type}-{args.arch}-{args.size}{'-compiled' if args.compile else ''}.json"
    (out / name).write_text(json.dumps(report, indent=2, sort_keys=True) + "\n")
    return report


if __name__ == "__main__":
    print(json.dumps(main(), indent=2, sort_keys=True))  # noqa: T201
