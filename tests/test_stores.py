"""Stores: the same rows, integers and labels wherever the rows are; nothing is used before it is verified."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from hypothesis import given, settings
from hypothesis import strategies as st

import ddkit.format.consistency
import ddkit.labelling.encoded
import ddkit.pipeline.describing
from ddkit import ReplayLoader, distill
from ddkit.core.files import cache_dir
from ddkit.errors import DiskError, IntegrityError, OptionError, SetError
from ddkit.pipeline.relabelling import relabel
from ddkit.publishing.pushing import push
from ddkit.replay import opening
from ddkit.replay.stores.mapped import MappedStore
from ddkit.replay.stores.memory import MemoryStore, load_set
from ddkit.replay.stores.shard_files import OPEN_SHARDS

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
SMALL = 3  # rows of a shard in these tests, so that a set has more shards than a group of the replay order
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
RULES = (ddkit.format.consistency, ddkit.labelling.encoded, ddkit.pipeline.describing)


@pytest.fixture(scope="module", autouse=True)
def small_shards():
    with pytest.MonkeyPatch.context() as patch:
        for module in RULES:
            patch.setattr(module, "shard_rows", lambda size: SMALL)
        yield


@pytest.fixture(scope="module")
def many(tmp_path_factory, teacher, small_shards):
    """RDED on digits in 11 shards: patches, CutMix, 5 views."""
    out = tmp_path_factory.mktemp("many") / "set"
    made = distill(
        out, data="digits", method="rded", prefixes=(1, 3), settings={"pool": 6, "factor": 2}, protocol="rded",
        views=5, teacher=teacher, workers=1,
    )  # fmt: skip
    assert len(made.shards) == 11
    return made


@pytest.fixture(scope="module")
def grouped(tmp_path_factory, teacher, small_shards):
    """Two sets of digits whose views are mixed only among the classes 0, 2 and 7, and among the others."""
    folder = tmp_path_factory.mktemp("grouped")
    (folder / "groups.txt").write_text("".join(f"{i}\t{'a' if i in (0, 2, 7) else 'b'}\n" for i in range(10)))
    made = []
    for seed in (0, 1):
        options = {"teacher": teacher, "workers": 1}
        plain = distill(
            folder / f"plain{seed}",
            data="digits",
            method="random",
            ipc=3,
            seed=seed,
            protocol="rded",
            views=4,
            **options,
        )
        mix = str(folder / "groups.txt")
        made.append(relabel(plain.root, folder / f"s{seed}", mix_within=mix, **options))
    return made


@pytest.fixture(scope="module")
def directory(many):
    return many.root


@pytest.fixture
def there(hub, many, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    copy = shutil.copytree(many.root, tmp_path / "sent")
    push(copy, "lab/many", license="mit")
    hub.forget_traffic()
    return "lab/many"


def pickled(loader):
    """A loader as a spawned worker process of a DataLoader gets it, without the tensor it shares with the others."""
    position, loader._position = loader._position, None
    found = pickle.loads(pickle.dumps(loader))
    found._position = loader._position = position
    return found


def epochs(loader, n):
    for _ in range(n):
        yield from loader


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture(scope="module")
def stream(many):
    """The batches of two epochs as one process replays them from memory."""
    loader = ReplayLoader(many.root, batch_size=8, batch="dict", seed=5, store="memory", prefetch=0)
    return Batches([{key: value.clone() for key, value in batch.items()} for _ in range(2) for batch in loader])


class Batches(list):
    """A list that is not printed with its tensors."""

    def __repr__(self):
        return f"{len(self)} batches"


@given(
    st.sampled_from(["memory", "mapped"]), st.integers(1, 4), st.sampled_from([0, 2]), st.integers(0, 7), st.booleans()
)
@settings(max_examples=25, deadline=None)
def test_one_stream_for_every_store_rank_prefetch_and_resume(directory, stream, store, world, prefetch, stop, copied):
    loaders = [
        ReplayLoader(
            directory, batch_size=8, batch="dict", seed=5, rank=rank, world_size=world, store=store, prefetch=prefetch
        )
        for rank in range(world)
    ]
    for loader in loaders:
        loader.load_state_dict({"epoch": stop // 4, "step": stop % 4, "seed": 5, "batch_size": 8})
    if copied:
        loaders = [pickled(loader) for loader in loaders]
    assert isinstance(loaders[0]._store, {"memory": MemoryStore, "mapped": MappedStore}[store])
    batches = [epochs(loader, 2 - stop // 4) for loader in loaders]
    for whole in stream[stop:]:
        parts = [next(iterator) for iterator in batches]
        assert same({key: torch.cat([part[key] for part in parts]) for key in whole}, whole)


@pytest.mark.parametrize("prefetch", [0, 2])
def test_streaming_gives_the_same_stream_and_fetches_a_shard_once(hub, there, many, stream, prefetch):
    loader = ReplayLoader(there, batch_size=8, batch="dict", seed=5, store="streaming", prefetch=prefetch)
    assert not [r for r in hub.requests if r.endswith(".tar")]  # only the manifest is needed to begin
    assert loader.rows == 30 and loader.classes == many.class_names
    got = [batch for _ in range(2) for batch in loader]
    assert all(same(a, b) for a, b in zip(got, stream, strict=True))
    fetched = [Path(r).name for r in hub.requests if r.startswith("GET") and r.endswith(".tar")]
    assert sorted(fetched) == sorted(Path(shard.path).name for shard in many.shards)


def test_streaming_a_prefix_fetches_no_more(hub, there):
    assert len(list(ReplayLoader(there, batch_size=5, ipc=1, store="streaming"))) == 2
    fetched = {Path(r).name for r in hub.requests if r.startswith("GET") and r.endswith(".tar")}
    assert len(fetched) == 4 and all("ipc001" in name for name in fetched)


@pytest.mark.parametrize("prefetch", [0, 2])
def test_damage_on_the_hub_is_found_before_the_shard_is_used(hub, there, many, prefetch):
    hub.flip_bit("dataset", there, many.shards[5].path, 3000)
    first = sum(shard.rows for shard in many.shards[:5])
    with pytest.raises(IntegrityError, match=r"ipc003-00001.*report it to its owner"):
        for batch in ReplayLoader(there, batch_size=3, batch="dict", store="streaming", prefetch=prefetch):
            assert not set(batch["rows"].tolist()) & set(range(first, first + SMALL))


@pytest.mark.parametrize("at", ["tar", "rows"])
@pytest.mark.parametrize("prefetch", [0, 2])
def test_no_batch_holds_a_row_of_a_damaged_shard(many, tmp_path, at, prefetch):
    copy = shutil.copytree(many.root, tmp_path / "copy")
    victim = copy / (many.shards[7].path if at == "tar" else many.shards[7].rows_path)
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    loader = ReplayLoader(copy, batch_size=3, batch="dict", store="mapped", prefetch=prefetch)
    first = sum(shard.rows for shard in many.shards[:7])
    with pytest.raises(IntegrityError, match=r"ipc003-00003"):
        for batch in loader:
            assert not set(batch["rows"].tolist()) & set(range(first, first + SMALL))
    with pytest.raises(IntegrityError):
        ReplayLoader(copy, batch_size=3, store="memory")


def test_inspection_needs_no_store_of_a_kind(many):
    a, b = (ReplayLoader(many.root, batch_size=8, store=store) for store in ("memory", "mapped"))
    for row in (0, 13, 29):
        for x, y in zip(a.stored(row), b.stored(row)):
            assert np.array_equal(x, y)
        for view in range(5):
            assert a.partner(row, view) == b.partner(row, view)
            assert all(np.array_equal(x, y) for x, y in zip(a.view(row, view), b.view(row, view)))


@pytest.mark.parametrize("workers", [0, 2])
def test_worker_processes_of_a_dataloader_map_the_same_files(many, stream, workers):
    loader = ReplayLoader(many.root, batch_size=8, batch="dict", seed=5, store="mapped", device="cpu")
    next(iter(loader))  # threads and files that a forked worker must not use
    loader.set_epoch(0)
    around = torch.utils.data.DataLoader(loader, batch_size=None, num_workers=workers)
    assert all(same(a, b) for a, b in zip([batch for _ in range(2) for batch in around], stream, strict=True))


def test_few_files_are_open(many):
    loader = ReplayLoader(many.root, batch_size=2, store="mapped", device="cpu")
    for _ in range(3):
        list(loader)
    assert len(loader._store._files._state.opened) <= OPEN_SHARDS


def test_decoded_images_are_kept_and_made_again_when_they_do_not_fit(many, stream, tmp_path, monkeypatch):
    monkeypatch.setenv("DDKIT_CACHE", str(tmp_path / "cache"))

    def replayed():
        loader = ReplayLoader(many.root, batch_size=8, batch="dict", seed=5, store="mapped")
        return all(same(a, b) for a, b in zip(loader, stream))

    assert replayed()
    files = sorted((cache_dir() / "pixels").glob("*.u8"))
    assert len(files) == 11 and {file.stat().st_size for file in files} <= {32 * 32 * 3 * n for n in (2, 3)}
    stamps = [file.stat().st_mtime_ns for file in files]
    files[0].write_bytes(b"short")
    files[1].unlink()
    assert replayed()
    again = [file.stat().st_mtime_ns for file in files]
    assert again[2:] == stamps[2:] and files[0].stat().st_size > 5 and files[1].is_file()
    assert not [path for path in (cache_dir() / "pixels").iterdir() if path.suffix != ".u8"]


def test_a_full_disk_is_one_line_with_a_way_out(many, tmp_path, monkeypatch):
    monkeypatch.setenv("DDKIT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "pixels").write_text("a file where the folder should be")
    with pytest.raises(DiskError, match=r'cannot be kept.*DDKIT_CACHE.*store="memory"'):
        list(ReplayLoader(many.root, batch_size=8, store="mapped"))


def test_auto_maps_what_is_large_for_the_memory(many, there, monkeypatch):
    def kind(source, **options):
        return type(ReplayLoader(source, batch_size=8, **options)._store).__name__

    needed = opening.memory_needed(many)
    assert needed > 30 * 32 * 32 * 3
    monkeypatch.setattr(opening, "available_memory", lambda: 4 * needed)
    assert kind(many.root) == kind(there) == "MemoryStore"
    monkeypatch.setattr(opening, "available_memory", lambda: 4 * needed - 4)
    assert kind(many.root) == kind(there) == "MappedStore"
    assert kind(many.root, ipc=1) == "MemoryStore"
    with pytest.raises(OptionError, match="unknown store 'disk'"):
        kind(many.root, store="disk")
    with pytest.raises(OptionError, match='store="mapped"'):
        kind(many.root, store="streaming")


# ------------------------------------------------------------------ classes and lists


@pytest.mark.parametrize("store", ["memory", "mapped"])
def test_some_classes_in_a_given_order(grouped, store):
    root, chosen = grouped[0].root, ["7", 2, "0"]
    whole = ReplayLoader(root, batch_size=30, batch="dict", seed=3, store=store)
    loader = ReplayLoader(root, batch_size=4, batch="dict", seed=3, store=store, classes=chosen)
    assert loader.classes == ["7", "2", "0"] and loader.num_classes == 3 and loader.rows == 9 and len(loader) == 3
    for _ in range(2):
        (every,) = list(whole)
        kept = torch.tensor([label in (7, 2, 0) for label in every["labels"].tolist()])
        got = {key: torch.cat([b[key] for b in batches]) for batches in [list(loader)] for key in every}
        assert torch.equal(got["pixel_values"], every["pixel_values"][kept])
        assert torch.equal(got["rows"], every["rows"][kept])
        assert torch.equal(got["teacher_logits"], every["teacher_logits"][kept][:, [7, 2, 0]])
        assert [[7, 2, 0][label] for label in got["labels"].tolist()] == every["labels"][kept].tolist()
    row = int(got["rows"][0])
    position = int(np.flatnonzero(loader._store._kept == row)[0])
    assert np.array_equal(loader.stored(position)[0], whole.stored(row)[0])
    assert loader.view(position, 0)[1].shape == (3,) and (loader.partner(position, 0) in (0, 1, 2, None))


def test_classes_that_do_not_work(many, grouped, there):
    for classes, match in (
        (["cat"], "unknown class 'cat'"),
        ([11], "class 11 is not"),
        ([1, 1], "twice"),
        ([], "empty"),
    ):
        with pytest.raises(OptionError, match=match):
            ReplayLoader(grouped[0].root, batch_size=1, classes=classes)
    for store in ("memory", "mapped"):
        with pytest.raises(SetError, match="ddkit relabel .* OUT --mix-within"):
            ReplayLoader(many.root, batch_size=1, classes=["1", "2"], store=store)
    with pytest.raises(OptionError, match="mapped"):
        ReplayLoader(there, batch_size=1, classes=["1", "2"], store="streaming")
    assert ReplayLoader(many.root, batch_size=1, classes=list(range(10))).rows == 30


@pytest.mark.parametrize("store", ["memory", "mapped"])
@pytest.mark.parametrize("codec", ["fp16", "lowrank:4:i4+top1"])
def test_sets_of_one_teacher_are_joined(grouped, store, codec, teacher, tmp_path):
    first, second = (made.root for made in grouped)
    if codec != "fp16":  # each has a basis of its own
        first, second = (
            relabel(root, tmp_path / f"c{i}", teacher=teacher, codec=codec, workers=1).root
            for i, root in enumerate((first, second))
        )
    joined = ReplayLoader([first, str(second)], batch_size=60, batch="dict", store=store)
    assert joined.rows == 60
    (every,) = list(joined)
    twice = grouped[0]
    assert ReplayLoader([twice, twice], batch_size=60, store=store).rows == 60
    list(ReplayLoader([twice, twice], batch_size=60, store=store))
    for i, root in enumerate((first, second)):
        alone = ReplayLoader(root, batch_size=30, batch="dict")
        (batch,) = list(alone)
        where = {row: k for k, row in enumerate(every["rows"].tolist())}
        at = [where[row + 30 * i] for row in batch["rows"].tolist()]
        for key in ("pixel_values", "teacher_logits", "labels"):
            assert torch.equal(every[key][at], batch[key])


@pytest.mark.parametrize("codec", ["int8", "topk:3", "lowrank:5:i4+top2", "sampled:20", "teacher"])
def test_every_codec_is_replayed_alike_from_memory_and_from_mapped_files(many, teacher, tmp_path, codec):
    made = relabel(many.root, tmp_path / "set", teacher=teacher, codec=codec, views=3, workers=1)
    options = {"batch_size": 7, "temperature": 1.0 if codec.startswith("sampled") else None}
    memory, mapped = (ReplayLoader(made.root, store=store, **options) for store in ("memory", "mapped"))
    for _ in range(2):
        for ours, theirs in zip(memory, mapped, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(ours, theirs))
    if codec != "teacher":
        parts = [list(ReplayLoader(made.root, rank=r, world_size=2, store="mapped", **options)) for r in range(2)]
        memory.set_epoch(0)
        for whole, *halves in zip(memory, *parts, strict=True):
            assert torch.equal(whole[1], torch.cat([half[1] for half in halves]))


def test_sets_that_cannot_be_joined_name_the_difference(many, grouped, tmp_path):
    with pytest.raises(SetError, match="their views differ"):
        ReplayLoader([grouped[0].root, many.root], batch_size=4)
    with pytest.raises(SetError, match="empty list"):
        ReplayLoader([], batch_size=4)
    with pytest.raises(SetError, match="list that holds 7"):
        ReplayLoader([grouped[0].root, 7], batch_size=4)


@pytest.mark.parametrize("codec", ["fp16", "int8", "lowrank:4:i4+top2"])
def test_labels_that_a_device_holds_are_decoded_there_to_the_stored_ones(many, teacher, tmp_path, codec):
    manifest = many
    if codec != "fp16":
        manifest = relabel(many.root, tmp_path / "set", codec=codec, teacher=teacher, workers=1)
    store = load_set(manifest).to(DEVICE)
    placed = store.with_labels_placed()
    shared = placed.decoder.placed(placed.decoder.shared, DEVICE)
    rng = np.random.default_rng(0)
    rows, views = rng.integers(len(store), size=50), rng.integers(store.views, size=50)
    found = placed.decoder.decode_on_device(placed.batch(rows, views).labels, shared)
    assert np.array_equal(found.cpu().numpy(), store.logits(rows, views))


@pytest.mark.gpu
@pytest.mark.parametrize("room", [0.0, 0.125])
def test_a_gpu_replays_the_same_whether_or_not_it_holds_the_labels(many, monkeypatch, room):
    monkeypatch.setattr("ddkit.replay.stores.memory.LABELS_PART", room)
    there = ReplayLoader(many.root, batch_size=8, batch="dict", device="cuda", store="memory")
    assert (there._store.placed is not None) == (room > 0)
    here = ReplayLoader(many.root, batch_size=8, batch="dict", device="cpu", store="memory", prefetch=0)
    for batch, other in zip(epochs(there, 2), epochs(here, 2), strict=True):
        assert same({key: tensor.cpu() for key, tensor in batch.items()}, other)
