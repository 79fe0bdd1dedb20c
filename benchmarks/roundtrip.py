"""A set's way to its user: pushed to a Hub on loopback, loaded by stock tools, streamed and trained one epoch.

    python benchmarks/roundtrip.py DIR [--arch timm:resnet10t] [--batch 50]

Prints seconds and peak memory of each step. The set in DIR then remembers the repository it was pushed to.
"""

import argparse
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import loopback

HUB, FOLDER = loopback.Hub(), tempfile.TemporaryDirectory(prefix="roundtrip-")  # before the Hub's client is imported
os.environ |= {"HF_ENDPOINT": HUB.url, "HF_HOME": FOLDER.name, "HF_TOKEN": "write-token", "HF_HUB_DISABLE_XET": "1"}
os.environ["DDKIT_CACHE"] = str(Path(FOLDER.name) / "ddkit")

import datasets  # noqa: E402
import torch  # noqa: E402

import ddkit  # noqa: E402
from ddkit.core.console import note  # noqa: E402
from ddkit.networks.registry import build_network  # noqa: E402

REPO = "lab/roundtrip"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory")
    parser.add_argument("--arch", default="timm:resnet10t")
    parser.add_argument("--batch", type=int, default=50)
    args = parser.parse_args()
    HUB.start()
    began = time.perf_counter()
    sent = ddkit.push(args.directory, REPO, license="other", license_name="unknown", license_link="LICENSE")
    report("push", began, f"{sent.bytes / 1e6:.1f} MB")
    began = time.perf_counter()
    report("load_dataset", began, f"{len(datasets.load_dataset(REPO, split='train'))} rows")
    began = time.perf_counter()
    rows = datasets.load_dataset(REPO, split="train", streaming=True)
    report("load_dataset, streaming", began, f"{sum(1 for _ in rows)} rows")
    train(args.arch, args.batch)
    HUB.stop()


def train(arch: str, batch: int) -> None:
    """Train a network for one epoch while its set is fetched, and report how long it waited for batches."""
    began = time.perf_counter()
    loader = ddkit.ReplayLoader(REPO, batch_size=batch, store="streaming", device="cpu")
    network = build_network(arch, loader.num_classes, loader.image_size).train()
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3)
    waits, asked = [], time.perf_counter()
    for images, teacher_logits, _ in loader:
        waits.append(time.perf_counter() - asked)
        loss = ddkit.soft_label_loss(network(images), teacher_logits, temperature=20)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        asked = time.perf_counter()
    report(
        f"one epoch of {arch}", began, f"first batch after {waits[0]:.2f} s, later ones {sum(waits[1:]):.2f} s in all"
    )


def report(step: str, began: float, what: str) -> None:
    """Print the seconds since `began` and the peak memory of this process so far."""
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    note(f"{step}: {time.perf_counter() - began:.1f} s, {what}; peak memory {memory:.2f} GB")


if __name__ == "__main__":
    main()
