"""The loader replays exactly, whatever the batch, the rank, the reader or the interruption."""

import copy
import itertools
import multiprocessing
import time

import datasets
import numpy as np
import pytest
import torch
from torch import Tensor

from ddkit import ReplayLoader, decode_row
from ddkit.errors import OptionError, SetError
from ddkit.format.manifest_file import read_manifest
from ddkit.format.view_pixels import network_input
from ddkit.format.views import draw
from ddkit.pipeline import relabel
from ddkit.replay.fresh import FreshLoader
from ddkit.replay.loader import AHEAD
from ddkit.replay.order import epoch_order
from ddkit.replay.positions import Position


def ids(loader):
    """Row numbers of an epoch, in order."""
    return [int(r) for batch in loader for r in batch["rows"]]


def epoch_tensors(loader):
    parts = list(loader)
    return [torch.cat([part[i] for part in parts]) for i in range(3)]


def test_batches_and_facts(rded_set):
    loader = ReplayLoader(rded_set.root, batch_size=8)
    assert len(loader) == 4 and loader.num_classes == 10 and loader.image_size == 32 and loader.protocol == "rded"
    assert loader.classes == [str(i) for i in range(10)] and loader.class_ids == [None] * 10
    assert (
        loader.mean == rded_set.normalisation.mean
        and loader.std == rded_set.normalisation.std
        and loader.temperature == 20
    )
    images, logits, labels = next(iter(loader))
    assert images.shape == (8, 3, 32, 32) and images.dtype == torch.float32
    assert logits.shape == (8, 10) and logits.dtype == torch.float32 and labels.dtype == torch.int64


@pytest.mark.parametrize("batch_size", [1, 7, 16, 30, 100])
def test_every_batch_size_gives_the_same_epoch(rded_set, batch_size):
    want = epoch_tensors(ReplayLoader(rded_set.root, batch_size=30))
    got = epoch_tensors(ReplayLoader(rded_set.root, batch_size=batch_size))
    assert all(torch.equal(a, b) for a, b in zip(want, got))


@pytest.mark.parametrize("ahead", [16, 40, 1000])
def test_views_made_ahead_are_the_same_batches(rded_set, monkeypatch, ahead):
    def batches():
        for rank in range(2):
            loader = ReplayLoader(rded_set.root, batch_size=8, seed=1, rank=rank, world_size=2)
            loader.load_state_dict({"epoch": 1, "step": 1, "seed": 1, "batch_size": 8})
            yield from loader

    want = list(batches())
    monkeypatch.setitem(AHEAD, "cpu", ahead * 32**2)
    assert all(torch.equal(a, b) for one, two in zip(want, batches(), strict=True) for a, b in zip(one, two))


def test_epoch_e_replays_view_e(rded_set):
    loader = ReplayLoader(rded_set.root, batch_size=30, seed=3, batch="dict")
    for epoch, batch in zip(range(7), itertools.chain.from_iterable(iter(loader) for _ in range(7))):
        order = epoch_order([10, 20], 3, epoch)
        assert batch["rows"].tolist() == order.tolist()
        row = int(batch["rows"][0])
        pixels, logits = loader.view(row, epoch % 5)
        want = (torch.from_numpy(pixels).float() / 255 - torch.tensor(loader.mean)[:, None, None]) / torch.tensor(
            loader.std
        )[:, None, None]
        assert torch.equal(batch["pixel_values"][0], want)
        assert (batch["teacher_logits"][0].numpy() == logits).all()


def test_stored_integers_are_the_drawn_ones(rded_set):
    """From the published file alone: views as drawn, pixels as the format says."""
    loader = ReplayLoader(rded_set.root, batch_size=30, ipc=1)
    views = draw(rded_set.views.policy, seed=0, first=0, rows=10, height=32, width=32, size=32, patches=4)
    images = torch.stack([torch.from_numpy(loader.stored(row)[0]) for row in range(10)])
    order = epoch_order([10], 0, 0)
    want = network_input(images, views, order, np.zeros(10, int), size=32, mean=loader.mean, std=loader.std)
    assert torch.equal(next(iter(loader))[0], want)


def test_epochs_advance_by_themselves(rded_set):
    loader = ReplayLoader(rded_set.root, batch_size=30)
    first, second = next(iter(loader))[0], next(iter(loader))[0]
    assert not torch.equal(first, second)
    loader.set_epoch(0)
    assert torch.equal(next(iter(loader))[0], first)
    assert torch.equal(loader.peek()[0], second) and torch.equal(next(iter(loader))[0], second)


def test_a_broken_off_epoch_is_over(rded_set):
    loader = ReplayLoader(rded_set.root, batch_size=10, batch="dict")
    next(iter(loader))
    assert ids(loader) == epoch_order([10, 20], 0, 1).tolist()


def test_state_in_mid_epoch(rded_set):
    whole = ReplayLoader(rded_set.root, batch_size=7)
    batches = [batch for _ in range(3) for batch in whole]
    for stop in range(len(batches) + 1):
        loader = ReplayLoader(rded_set.root, batch_size=7)
        seen = list(itertools.islice(itertools.chain.from_iterable(iter(loader) for _ in range(3)), stop))
        again = ReplayLoader(rded_set.root, batch_size=7)
        again.load_state_dict(loader.state_dict())
        rest = list(itertools.islice(itertools.chain.from_iterable(iter(again) for _ in range(4)), len(batches) - stop))
        assert all(torch.equal(a[0], b[0]) for a, b in zip(batches, [*seen, *rest], strict=True))
    with pytest.raises(OptionError, match="batch_size"):
        ReplayLoader(rded_set.root, batch_size=8).load_state_dict(loader.state_dict())


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_ranks_share_every_global_batch(rded_set, world):
    whole = [batch["rows"].tolist() for batch in ReplayLoader(rded_set.root, batch_size=13, batch="dict")]
    ranks = [ReplayLoader(rded_set.root, batch_size=13, batch="dict", rank=r, world_size=world) for r in range(world)]
    parts = [[batch["rows"].tolist() for batch in loader] for loader in ranks]
    assert [[row for part in step for row in part] for step in zip(*parts, strict=True)] == whole
    assert all(all(step) for step in parts)


def test_ranks_from_the_environment_and_refusals(rded_set, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert ReplayLoader(rded_set.root, batch_size=10).rank == 1
    with pytest.raises(OptionError, match="sizes that work"):
        ReplayLoader(rded_set.root, batch_size=29)
    with pytest.raises(OptionError, match="ranks count from 0"):
        ReplayLoader(rded_set.root, batch_size=10, rank=2)
    with pytest.raises(OptionError, match="at least 1"):
        ReplayLoader(rded_set.root, batch_size=0)
    with pytest.raises(OptionError, match="tuple, dict"):
        ReplayLoader(rded_set.root, batch_size=10, batch="list")
    with pytest.raises(SetError, match="datasets.Dataset"):
        ReplayLoader({1, 2}, batch_size=1)


def test_a_prefix_is_a_set_of_its_own(rded_set):
    loader = ReplayLoader(rded_set.root, batch_size=4, ipc=1, batch="dict")
    assert sorted(ids(loader)) == list(range(10)) and loader.rows == 10 and loader.views == 5
    with pytest.raises(SetError, match="no prefix of 2"):
        ReplayLoader(rded_set.root, batch_size=4, ipc=2)


@pytest.fixture(scope="module")
def table(rded_set):
    return datasets.load_dataset(str(rded_set.root), split="train")


@pytest.mark.parametrize("renamed", [False, True])
def test_a_loaded_dataset_replays_the_same(rded_set, table, renamed):
    if renamed:
        table = table.rename_columns({"png": "image", "cls": "label", "views.safetensors": "views"})
    want = epoch_tensors(ReplayLoader(rded_set.root, batch_size=7))
    loader = ReplayLoader(table, batch_size=7)
    assert all(torch.equal(a, b) for a, b in zip(want, epoch_tensors(loader)))
    assert loader.classes == rded_set.class_names
    shuffled = ReplayLoader(table.shuffle(seed=1), batch_size=30, batch="dict")
    assert sorted(ids(shuffled)) == list(range(30))
    assert ReplayLoader(table, batch_size=7, manifest=rded_set.root).classes == rded_set.class_names


def test_a_dataset_without_partner_or_key(table):
    with pytest.raises(SetError, match=r"row 0000\d+ is mixed into"):
        ReplayLoader(table.select(range(5)), batch_size=2)
    with pytest.raises(SetError, match="__key__"):
        ReplayLoader(table.remove_columns("__key__"), batch_size=2)
    with pytest.raises(SetError, match="views"):
        ReplayLoader(table.remove_columns("views.safetensors"), batch_size=2)
    with pytest.raises(OptionError, match="config"):
        ReplayLoader(table, batch_size=2, ipc=1)


def test_decode_row(rded_set, table):
    row = decode_row(table[12])
    assert row["image"].shape == (3, 32, 32) and row["logits"].shape == (5, 10) and row["box"].shape == (5, 4)
    assert row["meta"]["first"] == 10 and row["meta"]["stage"] == 2 and isinstance(row["label"], int)
    assert isinstance(row["partner"], Tensor) and row["patches"].shape == (5, 4)
    with pytest.raises(SetError):
        decode_row({"png": table[0]["png"], "cls": 1})


def test_fresh_views_are_new_each_epoch_and_repeatable(rded_set):
    manifest = read_manifest(rded_set.root)
    policy = manifest.views.policy
    loader = FreshLoader(manifest, policy, batch_size=8, device=torch.device("cpu"), ipc=None, seed=0)
    a, b = (torch.cat([batch[0] for batch in loader.epoch(e)]) for e in (0, 1))
    assert not torch.equal(a, b)
    assert torch.equal(a, torch.cat([batch[0] for batch in loader.epoch(0)]))
    assert all(logits is None for _, logits, _ in loader.epoch(0))


def test_a_device_that_is_not_here_and_a_rank_that_is_not_told(random_set, monkeypatch):
    with pytest.raises(OptionError, match="device 'nope' cannot be used"):
        ReplayLoader(random_set.root, batch_size=4, device="nope")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(OptionError, match="RANK is not set"):
        ReplayLoader(random_set.root, batch_size=4)


def test_an_iterator_that_is_never_drawn_from_takes_no_epoch(random_set):
    loader = ReplayLoader(random_set.root, batch_size=20)
    iter(loader)
    list(loader)
    assert loader.state_dict()["epoch"] == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_a_dataloader_around_it_yields_the_same_batches_of_the_same_epochs(random_set, workers):
    want = ReplayLoader(random_set.root, batch_size=6, device="cpu")
    inside = ReplayLoader(random_set.root, batch_size=6, device="cpu")
    around = torch.utils.data.DataLoader(inside, batch_size=None, num_workers=workers)
    for _ in range(2):
        for (a, b, c), (x, y, z) in zip(want, around, strict=True):
            assert torch.equal(a, x) and torch.equal(b, y) and torch.equal(c, z)


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_follow_the_position_of_the_loader(random_set, persistent):
    options = {"batch_size": 6, "device": "cpu"}
    want, inside = ReplayLoader(random_set.root, **options), ReplayLoader(random_set.root, **options)
    around = torch.utils.data.DataLoader(inside, batch_size=None, num_workers=2, persistent_workers=persistent)

    def check(epoch, first=0):
        want.load_state_dict({"epoch": epoch, "step": first, "seed": 0, "batch_size": 6})
        for ours, theirs in zip(want, around, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
        assert inside.state_dict() == {"epoch": epoch + 1, "step": 0, "seed": 0, "batch_size": 6}

    torch.manual_seed(0)
    check(0)
    torch.manual_seed(0)  # the same base seed again
    check(1)
    inside.set_epoch(5)
    check(5)
    inside.load_state_dict({"epoch": 3, "step": 2, "seed": 0, "batch_size": 6})
    check(3, 2)
    check(4)
    copied = copy.deepcopy(inside)
    assert copied.state_dict() == inside.state_dict() and len(list(copied)) == 4


def late(worker):
    time.sleep(0.3 * worker)


def around(loader, workers=2, **options):
    return torch.utils.data.DataLoader(loader, batch_size=None, num_workers=workers, **options)


def one_epoch(batches):
    return sorted(torch.cat([batch["rows"] for batch in batches]).tolist()) == list(range(20))


@pytest.mark.parametrize("seeds", [(0, 1, 2), (0, 0, 0)])
def test_workers_that_start_late_take_the_epoch_of_the_others(random_set, seeds):
    inside = ReplayLoader(random_set.root, batch_size=6, device="cpu", batch="dict")
    torch.manual_seed(seeds[0])
    next(iter(around(inside, worker_init_fn=late)))  # dropped before the second worker has begun
    for epoch, workers in ((1, 2), (2, 1)):
        torch.manual_seed(seeds[epoch])
        assert one_epoch(around(inside, workers)) and inside.state_dict()["epoch"] == epoch + 1


def test_two_dataloaders_around_a_loader_have_an_epoch_each(random_set):
    inside = ReplayLoader(random_set.root, batch_size=6, device="cpu", batch="dict")
    slow = iter(around(inside, worker_init_fn=late))
    first = [next(slow)]
    assert one_epoch(around(inside)) and one_epoch([*first, *slow])


def begin_twice(position):
    assert [position.begin(), position.begin()] == [(4, 1), (5, 0)]


def test_forked_trainings_have_a_position_each():
    fork, position = multiprocessing.get_context("fork"), Position()
    position.next = (4, 1)
    processes = [fork.Process(target=begin_twice, args=(position,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0] and position.next == (4, 1)


def test_a_state_that_cannot_be_is_refused(random_set):
    loader = ReplayLoader(random_set.root, batch_size=6)
    state = loader.state_dict()
    wrong = [state | {"step": 4}, state | {"step": -1}, state | {"epoch": "1"}, state | {"seed": 1}, {}]
    for one in wrong:
        with pytest.raises(OptionError):
            loader.load_state_dict(one)
    running = iter(loader)
    next(running)
    loader.load_state_dict(state | {"epoch": 2, "step": 1})
    next(running)  # an older iterator does not move it
    assert loader.state_dict() == state | {"epoch": 2, "step": 1}


WRONG = [
    {"batch_size": "8"}, {"batch_size": 8.0}, {"prefetch": None}, {"seed": "x"}, {"rank": "0"}, {"classes": 3},
    {"classes": "05"}, {"classes": [True]}, {"manifest": "x"}, {"temperature": 0}, {"temperature": float("nan")},
    {"temperature": "x"}, {"temperature": -1.0}, {"store": None},
]  # fmt: skip


@pytest.mark.parametrize("given", WRONG, ids=str)
def test_wrong_arguments_are_one_line(random_set, given):
    with pytest.raises(OptionError):
        ReplayLoader(random_set.root, **{"batch_size": 4} | given)


def test_rows_of_two_sets_and_a_manifest_of_another_are_refused(random_set, teacher, tmp_path):
    made = relabel(random_set.root, tmp_path / "a", teacher=teacher, codec="lowrank:4", views=2, workers=1)
    other = relabel(random_set.root, tmp_path / "b", teacher=teacher, codec="lowrank:4", views=2, seed=1, workers=1)
    rows = datasets.load_dataset(str(made.root), split="train")
    assert ReplayLoader(rows.with_format("torch"), batch_size=4, manifest=made.root).rows == 20
    with pytest.raises(SetError, match="the dataset's rows are not those of"):
        ReplayLoader(rows, batch_size=4, manifest=other.root)
    both = datasets.concatenate_datasets([rows, rows])
    with pytest.raises(SetError, match="rows with the same number"):
        ReplayLoader(both, batch_size=4, manifest=made.root)


def test_a_dataloader_that_would_batch_batches_says_how_to_wrap(random_set):
    around = torch.utils.data.DataLoader(ReplayLoader(random_set.root, batch_size=6, device="cpu"), batch_size=2)
    with pytest.raises(OptionError, match="batch_size=None"):
        next(iter(around))


@pytest.mark.parametrize(("batch_size", "steps"), [(19, 1), (6, 3), (20, 1)])
def test_a_last_batch_that_is_too_small_can_be_left_out(random_set, batch_size, steps):
    loader = ReplayLoader(random_set.root, batch_size=batch_size, drop_last=True)
    assert len(loader) == steps and [len(labels) for _, _, labels in loader] == [batch_size] * steps
    assert len(list(loader)) == steps  # and the next epoch
    with pytest.raises(OptionError, match="nothing is left"):
        ReplayLoader(random_set.root, batch_size=21, drop_last=True)


def test_all_splits_at_once_are_answered_with_how_to_choose_one(random_set):
    splits = datasets.load_dataset(str(random_set.root))
    with pytest.raises(SetError, match=r'pass one of them, as in \["train"\]'):
        ReplayLoader(splits, batch_size=4)
