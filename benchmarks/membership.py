"""RMIA on CIFAR-10: an overfitted network gives its members away, one that never saw them does not.

    python benchmarks/membership.py --data CIFAR10_FOLDER [--images 500] [--epochs 16] [--candidates 5000]

Three ConvNet-3 are trained on disjoint images: the overfitted one, one that never saw a candidate, and the reference
model. The first is attacked with the images it was trained on and as many others; the second with two samples of
`--candidates` images, neither of which it saw, one of them called the members.
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
    parser.add_argument("--images", type=int, default=500, help="images that a network is trained on")
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--candidates", type=int, default=5000, help="of each of the two samples that nobody saw")
    parser.add_argument("--population", type=int, default=2000)
    parser.add_argument("--out", default="benchmarks/results/membership.json")
    args = parser.parse_args()
    source, n = open_source(args.data), args.images
    sizes = {name: n for name in ("members", "others", "unseen", "shadow")}
    sizes |= {"population": args.population, "first": args.candidates, "second": args.candidates}
    chosen = rng(0, "membership").permutation(len(source))[: sum(sizes.values())]
    rows = dict(zip(sizes, np.split(chosen, np.cumsum(list(sizes.values()))[:-1])))
    part = {
        name: (source.squares(mine, EvalTransform(resize=32, crop=32)), torch.from_numpy(source.labels[mine]))
        for name, mine in rows.items()
    }
    attacks = (("overfitted", "members", ("members", "others")), ("never saw them", "unseen", ("first", "second")))
    found = {}
    with threads(2):
        reference = trained(*part["shadow"], 2, args.epochs)
        for name, seen, sides in attacks:
            target = trained(*part[seen], 1, args.epochs)
            p, q = ({k: of_class(net, *part[k]) for k in (*sides, "population")} for net in (target, reference))
            scores = [rmia(p[k], q[k], p["population"], q["population"]) for k in sides]
            right = [float((p[k] > 0.5).mean()) for k in sides]
            found[name] = asdict(attack_quality(*scores)) | {"candidates": [len(p[k]) for k in sides]}
            found[name] |= {"p > 1/2 on members, others": right}
            note(f"{name}: {found[name]}")
    facts = {
        "images": n,
        "epochs": args.epochs,
        "population": args.population,
        "hardware": hardware(pick_device("cpu")),
    }
    write_bytes(Path(args.out), (json.dumps(facts | {"rows": found}, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
