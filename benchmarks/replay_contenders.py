"""The contenders of benchmarks/replay.py. Each yields endless batches (images float32 [B,3,S,S], labels)."""

from __future__ import annotations

import inspect
import itertools
import json
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import timm.data
import torch
import webdataset
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

import ddkit
from ddkit.errors import DdkitError
from ddkit.format.manifest import Manifest

WORKERS = 2
TARS = 4  # copies of the rows for webdataset and timm, whose workers divide tars
STORES = ("memory", "mapped", "streaming") if "store" in inspect.signature(ddkit.ReplayLoader).parameters else ()
Batches = Iterator[tuple[Tensor, Any]]


@dataclass(frozen=True)
class Contender:
    """A way to read training batches.

    Attributes:
        name: Short name.
        job: What it does for a batch, in one line.
        batches: Starts reading; yields batches without end.
    """

    name: str
    job: str
    batches: Callable[[], Batches]


# ---------------------------------------------------------------- ddkit


def ours(manifest: Manifest, batch: int, repo: str | None) -> tuple[list[Contender], dict[str, str]]:
    """One contender per store of ReplayLoader, and why others could not be opened. repo: the set's id on the Hub."""
    found, missing = [], {}
    for store in STORES or ("memory",):
        source = repo if store == "streaming" else manifest.root
        try:
            options = {"store": store} if STORES else {}
            loader = ddkit.ReplayLoader(source, batch_size=batch, device="cpu", drop_last=True, **options)
        except DdkitError as error:
            missing[f"ddkit {store}"] = str(error)
            continue
        job = f"ReplayLoader, {store} store: stored crop, resize, flip, CutMix per row, normalise, logits"
        found.append(Contender(f"ddkit {store}", job, partial(_epochs, loader)))
    return found, missing


def _epochs(loader: ddkit.ReplayLoader) -> Batches:
    while True:
        with closing(iter(loader)) as batches:
            for images, logits, _ in batches:
                yield images, logits


# ---------------------------------------------------------------- the papers' loader


class FkdFolder(ImageFolder):
    """An ImageFolder whose crops and flips come from a label file per batch, as SRe2L, CDA and CUDD train.

    The files hold fractions of the image, so a crop is found again by rounding. A key is (epoch, batch, image indices).
    """

    def __init__(self, root: Path, labels: Path, size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__(str(root))
        self.folder, self.size = labels, size
        self.to_input = transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean, std)])

    def __getitems__(self, keys: list[tuple[int, int, list[int]]]) -> tuple[Tensor, dict[str, Tensor]]:
        ((epoch, number, indices),) = keys
        record = load_file(label_file(self.folder, epoch, number))
        images = [
            self._view(index, *crop) for index, crop in zip(indices, zip(record["coords"].tolist(), record["flip"]))
        ]
        return torch.stack(images), record

    def _view(self, index: int, coords: list[float], flip: Tensor) -> Tensor:
        image = self.loader(self.samples[index][0])
        top, left, height, width = (c * side for c, side in zip(coords, (image.height, image.width) * 2))
        image = image.crop((left, top, left + width, top + height)).resize((self.size,) * 2, Image.Resampling.BILINEAR)
        if flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return self.to_input(image)


def label_file(folder: Path, epoch: int, number: int) -> str:
    """The label file of a batch."""
    return str(folder / f"epoch_{epoch}" / f"batch_{number}.safetensors")


def epoch_batches(images: int, batch: int, generator: torch.Generator) -> list[list[int]]:
    """The image indices of an epoch's batches: the order is that of a seeded sampler, as nothing else is stored."""
    order = torch.randperm(images, generator=generator).tolist()
    return [order[i : i + batch] for i in range(0, len(order) - batch + 1, batch)]


def papers(manifest: Manifest, work: Path, batch: int) -> Contender:
    """The FKD loader rebuilt from its description; writes its images and label files from the set once."""
    root, labels = work / "papers-images", work / f"papers-labels-{batch}"
    if not labels.exists():
        _write_papers(manifest, root, labels, batch)
    seen = manifest.normalisation
    dataset = FkdFolder(root, labels, manifest.views.size, seen.mean, seen.std)
    epochs = len(list(labels.iterdir()))

    def keys() -> Iterator[list[tuple[int, int, list[int]]]]:
        for _ in itertools.count():
            generator = torch.Generator().manual_seed(42)
            for epoch in range(epochs):
                for number, indices in enumerate(epoch_batches(len(dataset), batch, generator)):
                    yield [(epoch, number, indices)]

    def batches() -> Batches:
        loader = DataLoader(dataset, batch_sampler=keys(), num_workers=WORKERS, collate_fn=_as_is)
        for images, record in loader:
            x1, y1, x2, y2 = record["mix_bbox"].tolist()
            images[:, :, y1:y2, x1:x2] = images[record["mix_index"], :, y1:y2, x1:x2]
            yield images, record["logits"].float()

    job = (
        f"ImageFolder of JPEGs, {WORKERS} workers: PIL crop from float fractions, PIL resize, flip, ToTensor, "
        "Normalize; CutMix with one box per batch and float logits in the main process"
    )
    return Contender("papers", job, batches)


def _as_is(found: Any) -> Any:
    return found


def _write_papers(manifest: Manifest, root: Path, labels: Path, batch: int) -> None:
    """Write the set's images as JPEGs in class folders, and its crops, flips and logits as one file per batch."""
    loader = ddkit.ReplayLoader(manifest, batch_size=batch, device="cpu")
    for row in range(loader.rows):
        pixels, _, label = loader.stored(row)
        (root / f"{label:05d}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.transpose(1, 2, 0)).save(root / f"{label:05d}" / f"{row}.jpg")  # Pillow's quality, 75
    rows = [int(Path(path).stem) for path, _ in ImageFolder(str(root)).samples]
    views = [_views_of(manifest, tensors) for tensors in _views_members(manifest)]
    generator, rng = torch.Generator().manual_seed(42), np.random.default_rng(42)
    size, side = manifest.views.size, manifest.image.size
    for epoch in range(manifest.views.count):
        (labels / f"epoch_{epoch}").mkdir(parents=True)
        for number, indices in enumerate(epoch_batches(len(rows), batch, generator)):
            chosen = [views[rows[index]] for index in indices]
            centre, cut = rng.integers(0, size, 2), int(size * np.sqrt(1 - rng.beta(1, 1)))
            low, high = np.clip(centre - cut // 2, 0, size), np.clip(centre + cut // 2, 0, size)
            record = {
                "coords": torch.tensor(np.array([view["box"][epoch] for view in chosen], np.float32) / side),
                "flip": torch.tensor(np.array([view["flip"][epoch] for view in chosen])),
                "mix_index": torch.from_numpy(rng.permutation(batch)),
                "mix_bbox": torch.tensor([*low.tolist(), *high.tolist()]),
                "logits": torch.tensor(np.array([view["logits"][epoch] for view in chosen])),
            }
            save_file(record, label_file(labels, epoch, number))


def _views_members(manifest: Manifest) -> Iterator[bytes]:
    """The views members of a set, in the order of its rows."""
    for shard in manifest.shards:
        with tarfile.open(manifest.root / shard.path, "r:") as tar:
            for member in tar:
                if member.name.endswith(".views.safetensors"):
                    yield tar.extractfile(member).read()


def _views_of(manifest: Manifest, data: bytes) -> Mapping[str, np.ndarray]:
    """Boxes, flips and half-precision logits of a row; random logits where the codec is not fp16 (speed needs none)."""
    tensors = safetensors.numpy.load(data)
    if "logits" not in tensors:
        shape = (manifest.views.count, len(manifest.classes))
        tensors["logits"] = np.random.default_rng(0).normal(size=shape).astype(np.float16)
    return tensors


# ---------------------------------------------------------------- webdataset and timm


def retarred(manifest: Manifest, work: Path) -> Path:
    """Copy the rows of the set into TARS tars, so that every worker has some, with the index that timm reads."""
    root = work / "tars"
    if (root / "_info.json").exists():
        return root
    root.mkdir(parents=True, exist_ok=True)
    names, rows = [f"train-{i:05d}.tar" for i in range(TARS)], [0] * TARS
    tars = [tarfile.open(root / name, "w") for name in names]  # noqa: SIM115
    for shard in manifest.shards:
        with tarfile.open(manifest.root / shard.path, "r:") as whole:
            for member in whole:
                place = int(member.name[:8]) % TARS
                rows[place] += member.name.endswith(".cls")
                tars[place].addfile(member, whole.extractfile(member))
    for tar in tars:
        tar.close()
    split = {"name": "train", "num_samples": sum(rows), "filenames": names, "shard_lengths": rows}
    (root / "_info.json").write_text(json.dumps({"splits": {"train": split}}))
    return root


class StoredCrop:
    """Decodes the views of a webdataset sample and applies one of them with PIL, without mixing."""

    def __init__(self, manifest: Manifest, rows: int) -> None:
        seen = manifest.normalisation
        self.manifest, self.rows, self.done = manifest, rows, 0
        self.to_input = transforms.Compose([transforms.ToTensor(), transforms.Normalize(seen.mean, seen.std)])

    def __call__(self, sample: dict[str, Any]) -> tuple[Tensor, Tensor]:
        views, size = _views_of(self.manifest, sample["views.safetensors"]), self.manifest.views.size
        view = self.done // self.rows % self.manifest.views.count
        self.done += 1
        top, left, height, width = views["box"][view].tolist()
        image = sample[self.manifest.image.codec].crop((left, top, left + width, top + height))
        image = image.resize((size, size), Image.Resampling.BILINEAR)
        if views["flip"][view]:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return self.to_input(image), torch.from_numpy(views["logits"][view].astype(np.float32))


def plain_webdataset(manifest: Manifest, work: Path, batch: int) -> Contender:
    """The stock pipeline on the tars."""
    urls = [str(path) for path in sorted(retarred(manifest, work).glob("*.tar"))]

    def batches() -> Batches:
        crop = StoredCrop(manifest, manifest.rows() // WORKERS)
        rows = webdataset.WebDataset(urls, shardshuffle=TARS).shuffle(100).decode("pil").map(crop)
        pipeline = rows.batched(batch, partial=False).repeat()
        yield from webdataset.WebLoader(pipeline, batch_size=None, num_workers=WORKERS)

    job = (
        f"webdataset, {TARS} tars, {WORKERS} workers: shuffle(100), decode('pil'), safetensors, stored crop and resize "
        "by PIL, flip, ToTensor, Normalize; no CutMix"
    )
    return Contender("webdataset", job, batches)


def timm_reader(manifest: Manifest, work: Path, batch: int) -> Contender:
    """timm's reader of webdataset shards with its own training transform."""
    root, seen = retarred(manifest, work), manifest.normalisation

    def batches() -> Batches:
        dataset = timm.data.create_dataset(
            "wds/tars", root=str(root), split="train", is_training=True, batch_size=batch,
            num_samples=10**7,  # of an epoch: its workers are started once
        )  # fmt: skip
        yield from timm.data.create_loader(
            dataset, manifest.views.size, batch, is_training=True, num_workers=WORKERS, use_prefetcher=False,
            mean=seen.mean, std=seen.std, interpolation="bilinear", color_jitter=None, scale=manifest.views.scale,
            persistent_workers=False, pin_memory=False,
        )  # fmt: skip

    job = (
        f"timm's wds reader, {TARS} tars, {WORKERS} workers: shuffle, PIL decode, RandomResizedCrop by PIL, flip, "
        "normalise; hard labels, no CutMix"
    )
    return Contender("timm", job, batches)
