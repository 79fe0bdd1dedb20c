"""The rows of a set as a webdataset pipeline, for trainings that are built on webdataset."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import webdataset
from torch import Tensor
from torch.utils.data import get_worker_info

from ddkit.core.device import cores
from ddkit.core.seeds import permutation
from ddkit.errors import OptionError, SetError
from ddkit.format.codecs.registry import find_codec
from ddkit.format.entries import ShardEntry, files_of
from ddkit.format.label_file import label_decoder
from ddkit.format.manifest import Manifest
from ddkit.format.reading import SetReader
from ddkit.format.view_pixels import view_pixels
from ddkit.format.views import Views
from ddkit.replay.soft_labels import SoftLabels
from ddkit.sets.opening import fetch_files, fetch_label_file, open_manifest

Url = Mapping[str, str]  # a shard as webdataset's stages pass it on: {"url": path}
Sample = tuple[Tensor, Tensor, Tensor]


def as_webdataset(
    source: str | Path | Manifest,
    epoch: int = 0,
    *,
    ipc: int | None = None,
    seed: int = 0,
    temperature: float | None = None,
    revision: str | None = None,
) -> webdataset.DataPipeline:
    """Return one epoch of a set as a webdataset pipeline, whose samples are (image, logits, label).

    The image is a stored view as the network input, float32 [3,S,S], with its mixing partner, normalised as for the
    teacher; the logits are the stored ones, float32 [C]; the label is the class index, int64 []. Epoch e gives view
    index e mod V of every row, with the values that ReplayLoader gives (codec `teacher`: up to the rounding of float32,
    which depends on the batch).

    The shards are in ReplayLoader's order (docs/format.md), the rows of a shard in ascending order; `.shuffle(n)` mixes
    them further. Every iteration gives the same epoch, so a training makes one pipeline per epoch. webdataset's own
    splitters divide the shards among ranks and then among the worker processes of a DataLoader or
    `webdataset.WebLoader`. Ranks thus get different numbers of rows unless the shards divide equally; ReplayLoader
    divides every batch equally.

    A process that reads a shard holds it in memory: its images, and its labels of one view. The whole shard is compared
    with the manifest, and its rows are checked, before its first sample. A shard of a set on the Hub is fetched to the
    client's cache when it is first read.

    Args:
        source: A directory, "ORG/NAME[@REVISION]" on the Hub, or an opened manifest.
        epoch: Number of the epoch, from 0.
        ipc: Only the shards of this prefix. Default: the whole set.
        seed: Seed of the order of shards.
        temperature: Temperature at which the student learns; passed to the codec. Default: the set's.
        revision: A branch, tag or commit on the Hub.

    Returns:
        A `webdataset.DataPipeline` with webdataset's methods `shuffle`, `batched`, `map`, …

    Raises:
        OptionError: `epoch` or `temperature` cannot be; or, in the iteration, a rank gets no shard.
        SetError: `source` is not a set, or has no prefix `ipc`.
        IntegrityError: In the iteration: a shard is missing, damaged or not valid; the message names it.
        HubAccess, HubError, FormatVersion.
    """
    if not isinstance(epoch, int) or epoch < 0:
        raise OptionError(f"epoch is {epoch!r:.40}; give an integer from 0")
    if not isinstance(source, str | Path | Manifest):
        raise SetError(f"source is a {type(source).__name__}; give one directory or Hub id")
    manifest = source if isinstance(source, Manifest) else open_manifest(source, revision)
    shards = manifest.shards_of(ipc)
    codec = find_codec(manifest.labels.codec)
    if temperature is None:
        temperature = codec.usual_temperature(manifest.labels.temperature)
    codec.check_temperature(temperature)
    rows = ShardRows(manifest, epoch % manifest.views.count, temperature)
    urls = [shards[i].path for i in permutation(seed, len(shards), "shards", epoch)]
    return webdataset.FluidWrapper(webdataset.SimpleShardList(urls)).compose(
        webdataset.split_by_node, functools.partial(_refuse_none, total=len(urls)), webdataset.split_by_worker, rows
    )


def _refuse_none(urls: Iterable[Url], total: int) -> Iterator[Url]:
    """Pass the shards of a rank on. Raises OptionError if there are none."""
    empty = True
    for url in urls:
        empty = False
        yield url
    if empty:
        raise OptionError(
            f"the set has {total} shards, too few for one per process; use fewer processes or ReplayLoader, which "
            "divides the rows of a shard"
        )


@dataclass(frozen=True)
class ShardRows:
    """A stage of a pipeline: from shards to the samples of one view of their rows.

    Attributes:
        manifest: The set.
        view: View index.
        temperature: Temperature at which the student learns.
    """

    manifest: Manifest
    view: int
    temperature: float

    def __call__(self, urls: Iterable[Url]) -> Iterator[Sample]:
        """Yield the samples of some shards, shard by shard.

        Args:
            urls: The shards, by their paths in the set.
        """
        shards = self.manifest.shards
        firsts = itertools.accumulate((shard.rows for shard in shards), initial=0)
        known = {shard.path: (shard, first) for shard, first in zip(shards, firsts)}
        fetch_label_file(self.manifest)
        labels = SoftLabels(label_decoder(self.manifest), self.manifest, self.temperature, torch.device("cpu"))
        for url in urls:
            yield from self._samples(*known[url["url"]], labels)

    def _samples(self, shard: ShardEntry, first: int, soft_labels: SoftLabels) -> Iterator[Sample]:
        """Yield the samples of a shard whose first row has the number `first`."""
        if self.manifest.location.hub_id is not None:
            fetch_files(self.manifest, self.manifest.location.hub_id, files_of([shard], images=False))
        images, labels, views, soft = self._read(shard, first)
        size, seen, only = self.manifest.views.size, self.manifest.normalisation, np.zeros(1, int)
        for row in range(shard.rows):  # one view at a time: views of one tensor would keep all its memory alive
            inputs = view_pixels(images, views, np.array([row]), only, size).network_input(seen.mean, seen.std)
            logits = soft_labels.logits({name: tensor[row] for name, tensor in soft.items()}, inputs)
            yield inputs[0], logits[0], torch.tensor(int(labels[row]))

    def _read(self, shard: ShardEntry, first: int) -> tuple[Tensor, np.ndarray, Views, dict[str, np.ndarray]]:
        """Read and check a shard: images uint8 [n,3,s,s], classes [n], and the one view with its label tensors.

        A mixing partner is a row of the same shard, so nothing else is needed for its views.
        """
        side, worker = self.manifest.image.size, get_worker_info()
        images, labels = np.empty((shard.rows, side, side, 3), np.uint8), np.empty(shard.rows, np.int64)
        views: list[Views] = []
        soft: list[dict[str, np.ndarray]] = []
        # the reader yields its last part only after the hash of the shard was compared
        with ThreadPoolExecutor(max(1, cores() // (worker.num_workers if worker else 1))) as pool:
            for part in SetReader(self.manifest).shard(shard, first, pool):
                assert part.views is not None
                labels[part.start : part.start + len(part.rows)] = part.labels
                for i, pixels in enumerate(part.pixels, start=part.start):
                    images[i] = pixels.transpose(1, 2, 0)  # resampling is faster where a pixel's channels are together
                views.append(Views(**self._one_view(part.views.tensors())))
                soft.append(self._one_view(part.soft))
        joined = {name: np.concatenate([tensors[name] for tensors in soft]) for name in soft[0]}
        return torch.from_numpy(images).permute(0, 3, 1, 2), labels, Views.stack(views), joined

    def _one_view(self, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Copy the one view of tensors [n,V,...]: [n,1,...]."""
        return {name: tensor[:, [self.view]] for name, tensor in tensors.items()}
