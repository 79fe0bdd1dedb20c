"""RMIA on CIFAR-10: an overfitted network gives its members away, one that never saw them does not.

    python benchmarks/membership.py --data CIFAR10_FOLDER [--images 1000] [--epochs 40]

Three ConvNet-3 are trained on disjoint images: the attacked one, one that never saw the members, and the reference
model.
Writes benchmarks/results/membership.json.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ddkit.core.console import note
from ddkit.core.device import hardware, pick_device, threads
from ddkit.core.files import write_bytes
from ddkit.core.seeds import rng
from ddkit.evaluation.membership import attack_quality, rmia
from ddkit.format.view_pixels import normalise
from ddkit.networks.registry import build_network
from ddkit.networks.training import seeded_network
from ddkit.sources.images import open_source
from ddkit.specs import EvalTransform

STATS = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
BATCH = 50


def trained(images: Tensor, labels: Tensor, seed: int, epochs: int) -> nn.Module:
    """A ConvNet-3 after `epochs` of AdamW without augmentation."""
    network = seeded_network(lambda: build_network("convnet3", 10, 32), seed, "membership")
    optimiser = torch.optim.AdamW(network.parameters(), 1e-3, weight_decay=0.01)
    for epoch in range(epochs):
        for rows in np.array_split(rng(seed, "epoch", epoch).permutation(len(images)), len(images) // BATCH):
            optimiser.zero_grad()
            cross_entropy(network(normalise(images[rows], *STATS)), labels[rows]).backward()
            optimiser.step()
    return network.eval()


@torch.inference_mode()
def of_class(network: nn.Module, images: Tensor, labels: Tensor) -> np.ndarray:
    """p(true class) of every image."""
    logits = torch.cat([network(normalise(part, *STATS)) for part in images.split(250)])
    return logits.double().softmax(1)[torch.arange(len(labels)), labels].numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--out", default="benchmarks/results/membership.json")
    args = parser.parse_args()
    source, n = open_source(args.data), args.images
    chosen = rng(0, "membership").permutation(len(source))[: 6 * n]
    images, labels = source.squares(chosen, EvalTransform(resize=32, crop=32)), torch.from_numpy(source.labels[chosen])
    names = ("members", "unseen", "shadow", "others", "population")
    part = {name: (images[i * n : (i + 1) * n], labels[i * n : (i + 1) * n]) for i, name in enumerate(names)}
    rows = {}
    with threads(2):
        reference = trained(*part["shadow"], 2, args.epochs)
        for name, seen in (("overfitted", "members"), ("never saw the members", "unseen")):
            target = trained(*part[seen], 1, args.epochs)
            p, q = ({k: of_class(net, *part[k]) for k in ("members", "others", "population")}
                    for net in (target, reference))  # fmt: skip
            scores = [rmia(p[k], q[k], p["population"], q["population"]) for k in ("members", "others")]
            right = [float((p[k] > 0.5).mean()) for k in ("members", "others")]
            rows[name] = asdict(attack_quality(*scores)) | {"p > 1/2 on members, others": right}
            note(f"{name}: {rows[name]}")
    facts = {"images": n, "epochs": args.epochs, "hardware": hardware(pick_device("cpu"))}
    write_bytes(Path(args.out), (json.dumps(facts | {"rows": rows}, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
