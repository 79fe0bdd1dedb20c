"""A set as a webdataset pipeline: the views of ReplayLoader, shard by shard, for any mixing, epoch, rank and worker."""

import itertools
import pickle
import shutil
from pathlib import Path

import pytest
import torch
import webdataset
from huggingface_hub import constants
from torch.utils.data import DataLoader

from ddkit import ReplayLoader, as_webdataset
from ddkit.core.seeds import permutation
from ddkit.errors import IntegrityError, OptionError, SetError
from ddkit.pipeline import distill
from ddkit.publishing.pushing import push

PREFIXES = (1, 2, 4, 5)  # four shards of 10, 10, 20 and 10 rows


@pytest.fixture(scope="module", params=["cutmix", "mixup", "none"])
def mixed(request, tmp_path_factory, teacher):
    """Random digits in four shards with 3 views."""
    folder = tmp_path_factory.mktemp("pipelines")
    protocol = folder / f"{request.param}.toml"
    protocol.write_text(f'[views]\nmix = "{request.param}"\ncount = 3\n')
    return distill(
        folder / "set", data="digits", method="random", prefixes=PREFIXES, protocol=str(protocol), teacher=teacher,
        workers=1,
    )  # fmt: skip


def replayed(manifest, epoch, **options):
    """The samples that ReplayLoader gives in an epoch, by row."""
    loader = ReplayLoader(manifest, batch_size=7, batch="dict", device="cpu", **options)
    loader.set_epoch(epoch)
    return {
        int(row): (image, logits, label)
        for batch in loader
        for row, image, logits, label in zip(
            batch["rows"], batch["pixel_values"], batch["teacher_logits"], batch["labels"]
        )
    }


def shard_rows(manifest, epoch, seed=0):
    """The rows of every shard, in the order of the epoch."""
    starts = [*itertools.accumulate((shard.rows for shard in manifest.shards), initial=0)]
    return [list(range(starts[i], starts[i + 1])) for i in permutation(seed, len(manifest.shards), "shards", epoch)]


def in_turns(*workers):
    """What a DataLoader makes of its workers' samples."""
    return [row for rows in itertools.zip_longest(*workers) for row in rows if row is not None]


def same(samples, wanted, rows):
    """Whether samples are those of some rows, to the last bit."""
    return all(
        torch.equal(a, b) and a.dtype == b.dtype
        for sample, row in zip(samples, rows, strict=True)
        for a, b in zip(sample, wanted[row], strict=True)
    )


@pytest.mark.parametrize("epoch", [0, 1, 5])
@pytest.mark.parametrize("workers", [0, 2])
def test_every_sample_is_the_loaders(mixed, epoch, workers):
    rows = as_webdataset(mixed.root, epoch)
    shards = shard_rows(mixed, epoch)
    split = [sum(shards[worker :: max(workers, 1)], []) for worker in range(max(workers, 1))]
    got = list(DataLoader(rows, batch_size=None, num_workers=workers))
    assert same(got, replayed(mixed, epoch), in_turns(*split))
    image, logits, label = got[0]
    assert image.shape == (3, 32, 32) and image.dtype == logits.dtype == torch.float32 and logits.shape == (10,)
    assert label.shape == () and label.dtype == torch.int64


def test_permuted_patches_prefixes_and_seeds(rded_set):
    for epoch in range(6):
        rows = sum(shard_rows(rded_set, epoch, seed=3), [])
        assert same(list(as_webdataset(rded_set, epoch, seed=3)), replayed(rded_set, epoch), rows)
    part = list(as_webdataset(rded_set, 2, ipc=1))
    assert same(part, replayed(rded_set, 2, ipc=1), range(10))
    with pytest.raises(SetError, match="no prefix of 2"):
        as_webdataset(rded_set, ipc=2)
    with pytest.raises(OptionError, match="epoch is -1"):
        as_webdataset(rded_set, -1)


def test_the_temperature_reaches_the_codec(random_set, monkeypatch):
    from ddkit.format.codecs.fp16 import Fp16

    seen, decode = [], Fp16.decode
    monkeypatch.setattr(Fp16, "decode", lambda self, tensors, c, t, s: seen.append(t) or decode(self, tensors, c, t, s))
    list(as_webdataset(random_set))
    list(as_webdataset(random_set, temperature=4))
    assert set(seen[:20]) == {random_set.labels.temperature} and set(seen[20:]) == {4}


def test_webdatasets_own_stages_compose(mixed):
    rows = as_webdataset(mixed, 1)
    wanted, order = replayed(mixed, 1), sum(shard_rows(mixed, 1), [])
    batches = list(rows.batched(16))
    assert [len(labels) for _, _, labels in batches] == [16, 16, 16, 2]
    assert same([sample for batch in batches for sample in zip(*batch)], wanted, order)
    mapped = rows.shuffle(20, seed=1).map(lambda sample: (*sample, sample[0].sum()))
    assert sorted(float(total) for *_, total in mapped) == sorted(float(image.sum()) for image, *_ in wanted.values())
    loader = webdataset.WebLoader(rows.batched(10), batch_size=None, num_workers=2)
    assert sum(len(labels) for _, _, labels in loader.unbatched().batched(25)) == 50
    assert same(list(rows), wanted, order)  # the pipeline is unchanged, and gives the same epoch again
    assert same(list(pickle.loads(pickle.dumps(rows))), wanted, order)  # as worker processes that are spawned need


def test_ranks_share_the_shards(mixed, monkeypatch):
    order, wanted = shard_rows(mixed, 0), replayed(mixed, 0)
    monkeypatch.setenv("WORLD_SIZE", "3")
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        assert same(list(as_webdataset(mixed)), wanted, sum(order[rank::3], []))
    monkeypatch.setenv("WORLD_SIZE", "6")
    monkeypatch.setenv("RANK", "5")
    with pytest.raises(OptionError, match="4 shards, too few for one per process"):
        list(as_webdataset(mixed))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_shard_is_refused_before_its_first_row(mixed, tmp_path, workers):
    root = shutil.copytree(mixed.root, tmp_path / "set")
    first, last = (permutation(0, 4, "shards", 0)[i] for i in (0, 3))
    shard = root / mixed.shards[last].path
    data = bytearray(shard.read_bytes())
    data[-3000] ^= 1  # in the last row
    shard.write_bytes(data)
    got = []
    with pytest.raises(IntegrityError, match=f"{mixed.shards[last].path}.*row"):
        got.extend(DataLoader(as_webdataset(root), batch_size=None, num_workers=workers))
    assert len(list(itertools.islice(as_webdataset(root), 10))) == 10
    (root / mixed.shards[first].path).unlink()
    with pytest.raises(IntegrityError, match=f"{mixed.shards[first].path} is missing"):
        next(iter(as_webdataset(root)))


@pytest.fixture
def there(hub, rded_set, tmp_path, monkeypatch) -> str:
    """RDED's set, published; a cache of its own for every test."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    push(shutil.copytree(rded_set.root, tmp_path / "sent"), "lab/rded", license="mit")
    hub.forget_traffic()
    return "lab/rded"


def shards_fetched(hub) -> list[str]:
    return [Path(request).name for request in hub.requests if request.startswith("GET") and request.endswith(".tar")]


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 2])
def test_shards_of_the_hub_are_fetched_at_first_use(hub, there, rded_set, workers):
    rows = as_webdataset(there, 1)
    assert shards_fetched(hub) == []
    if not workers:
        next(iter(rows))
        assert len(shards_fetched(hub)) == 1
    shards = shard_rows(rded_set, 1)
    got = list(DataLoader(rows, batch_size=None, num_workers=workers))
    assert same(got, replayed(rded_set, 1), in_turns(*shards) if workers else sum(shards, []))
    assert same(list(rows), replayed(rded_set, 1), sum(shards, []))
    assert sorted(shards_fetched(hub)) == sorted(Path(shard.path).name for shard in rded_set.shards)


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
def test_a_shard_that_is_damaged_on_the_hub_is_refused(hub, there, rded_set):
    path = rded_set.shards[1].path
    hub.flip_bit("dataset", there, path, 100_000)
    with pytest.raises(IntegrityError, match=rf"{path}.*row \d{{8}}"):
        list(as_webdataset(there))
