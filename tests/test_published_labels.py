"""Labels published in FKD's layout become a set whose views give back each stored logit; all else is refused."""

import hashlib
import io
import json
import os
import pickle
import shutil
import sys
import tarfile
import tracemalloc
import zipfile
from collections import OrderedDict
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import photograph
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import load
from torch.utils.data import BatchSampler, RandomSampler, TensorDataset

import ddkit
from ddkit.core.serialization import fingerprint
from ddkit.errors import DdkitError, IntegrityError, OptionError, OtherRun, SourceError
from ddkit.format.verification import directory_problems
from ddkit.format.views import UNMIXED
from ddkit.labelling import published
from ddkit.labelling.labels import Labelling
from ddkit.networks.checkpoints import load_checkpoint
from ddkit.pipeline import import_images
from ddkit.pipeline.relabelling import Claim
from ddkit.pipeline.repairing import repair
from ddkit.sources.published_labels import open_published, read_batch, sampler_orders
from ddkit.sources.torch_files import read_torch_list
from ddkit.specs import Protocol, ViewSpec
from ddkit.teachers.teacher import Teacher

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

from fkd import relabel  # noqa: E402

CLASSES, IPC, BATCH, EPOCHS = 10, 3, 8, 3  # the last batch of an epoch has 6 images


def png(seed: int, side: int = 40) -> bytes:
    buffer = io.BytesIO()
    photograph(seed, side, side).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def opened(teacher):
    return Teacher.load(teacher, torch.device("cpu"))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """(folder, the encoded images in the order of class folders and names)."""
    root, found = tmp_path_factory.mktemp("images"), []
    for label in range(CLASSES):
        (root / str(label)).mkdir()
        for i in range(IPC):
            found.append(png(10 * label + i))
            (root / str(label) / f"{i}.png").write_bytes(found[-1])
    return str(root), found


@pytest.fixture(scope="module")
def cutmix(tmp_path_factory, images, opened):
    """(folder of labels, what they say by image and epoch)."""
    root = tmp_path_factory.mktemp("labels")
    return root, relabel(root, images[1], opened, epochs=EPOCHS, batch=BATCH)


def taken(out, images, labels, teacher, **options):
    given = {"method": "sre2l", "teacher": teacher, "protocol": "sre2l", "workers": 1} | options
    return import_images(images[0], out, labels=str(labels), **given)


def rewritten(root, to, change, epoch=1, number=2):
    """A copy of a directory of labels with one file changed: its parts are given to `change`, saved again."""
    shutil.copytree(root, to)
    file = to / f"epoch_{epoch}" / f"batch_{number}.tar"
    parts = torch.load(file, weights_only=False)
    torch.save(change(parts), file)
    return to


# ------------------------------------------------------------------ the set


@pytest.mark.parametrize("mix", ["cutmix", "mixup", "none"])
@pytest.mark.parametrize("half", [True, False])
def test_each_logit_comes_back_for_its_row_and_view(tmp_path, images, opened, teacher, mix, half):
    said = relabel(
        tmp_path / "labels", images[1], opened, epochs=EPOCHS, batch=BATCH, mix=mix, half=half, half_crops=half
    )
    protocol = tmp_path / "theirs.toml"
    protocol.write_text(f'[views]\nmix = "{mix}"\ncount = 3\n[train]\nepochs = 3\nbatch = 8\n')
    made = taken(tmp_path / "set", images, tmp_path / "labels", teacher, protocol=str(protocol))
    assert directory_problems(made.root) == [] and made.views.policy.count == EPOCHS
    assert made.views.policy.mix == mix and made.views.protocol == "theirs"
    rows = rows_of(made)
    numbers = [images[1].index(image) for image, _ in rows]
    for number, (_, tensors) in zip(numbers, rows):
        for view in range(EPOCHS):
            wanted = said[number, view]
            assert tuple(tensors["box"][view]) == wanted.box and bool(tensors["flip"][view]) == wanted.flip
            exact = wanted.logits.astype(np.float32)
            centred = exact - exact.mean()
            assert np.abs(tensors["logits"][view] - centred).max() <= 2**-11 * np.abs(centred).max() + 2**-24
            if mix == "none":
                assert "partner" not in tensors
                continue
            mixed = wanted.partner != number and (mix == "mixup" or wanted.region[2] > 0)
            partner = int(tensors["partner"][view])
            assert numbers[partner] == wanted.partner if mixed else partner == UNMIXED
            if mix == "cutmix":
                assert tuple(tensors["mix_box"][view]) == (wanted.region if mixed else (0, 0, 0, 0))
            else:
                assert tensors["mix_lam"][view] == np.float32(wanted.weight if mixed else 1)
    loader = ddkit.ReplayLoader(made.root, batch_size=7, device="cpu")
    for _ in range(EPOCHS):  # what the student sees is what the teacher saw, up to the resampling
        for inputs, labels, _ in loader:
            again = opened.logits(inputs)
            again = again - again.mean(1, keepdim=True)
            assert (again - labels).norm(dim=1).max() < 0.1 * labels.norm(dim=1).max()


def rows_of(manifest):
    """(encoded image, tensors of the views) of each row, as any reader of tars finds them."""
    with tarfile.open(manifest.root / manifest.shards[0].path) as tar:
        data = [tar.extractfile(member).read() for member in tar if not member.name.endswith(".cls")]
    return [(image, load(views)) for image, views in zip(data[::2], data[1::2])]


def test_the_log_names_the_files_and_how_they_agree(tmp_path, images, cutmix, teacher, capsys):
    made = taken(tmp_path / "set", images, cutmix[0], teacher)
    log = made.log.plan[str(IPC)]["labels"]
    lines = ""
    for epoch in range(EPOCHS):
        for number in range(4):
            name = f"epoch_{epoch}/batch_{number}.tar"
            lines += f"{name} {hashlib.sha256((cutmix[0] / name).read_bytes()).hexdigest()}\n"
    assert log["sha256"] == hashlib.sha256(lines.encode()).hexdigest()
    assert log["epochs"] == EPOCHS and log["batch"] == BATCH and log["seed"] == 42 and log["views"] == 90
    assert log["top1"] > 0.9 and log["error"] < 0.1 < log["chance"]
    assert "of 90 views labelled again" in capsys.readouterr().err
    assert made.teacher.where and made.relabelled_from is None


def test_same_bytes_for_any_workers_and_memory_and_after_a_kill(tmp_path, images, cutmix, teacher, monkeypatch):
    made = taken(tmp_path / "one", images, cutmix[0], teacher)
    assert taken(tmp_path / "two", images, cutmix[0], teacher, workers=2).content == made.content
    monkeypatch.setattr(published, "GROUP", 1)
    assert taken(tmp_path / "three", images, cutmix[0], teacher).content == made.content
    units = sorted((tmp_path / "three.work" / "units").iterdir())
    assert any(unit.name.startswith("views-") for unit in units)
    for unit in units:  # as if killed before the shard was packed
        if unit.name.startswith(("pack-", "views-")):
            unit.unlink()
    assert taken(tmp_path / "three", images, cutmix[0], teacher).content == made.content
    for unit in units:
        if unit.name.startswith(("pack-", "label-")):
            unit.write_bytes(unit.read_bytes()[:-1])
    assert taken(tmp_path / "three", images, cutmix[0], teacher).content == made.content
    with pytest.raises(OtherRun, match="another import"):
        import_images(images[0], tmp_path / "three", method="sre2l", teacher=teacher, protocol="sre2l", views=3)


def test_a_lost_shard_is_packed_again_from_the_units(tmp_path, images, cutmix, teacher):
    made = taken(tmp_path / "set", images, cutmix[0], teacher)
    path = made.root / made.shards[0].path
    whole = path.read_bytes()
    path.unlink()
    assert repair(made.root).problems == () and path.read_bytes() == whole


def test_fewer_views_are_the_first_epochs(tmp_path, images, cutmix, teacher):
    made = taken(tmp_path / "set", images, cutmix[0], teacher, views=2)
    whole = taken(tmp_path / "whole", images, cutmix[0], teacher)
    assert made.views.policy.count == 2
    for (_, first), (_, every) in zip(rows_of(made), rows_of(whole)):
        assert all((first[name] == every[name][:2]).all() for name in every)
    with pytest.raises(OptionError, match="^views is 4, but labels"):
        taken(tmp_path / "four", images, cutmix[0], teacher, views=4)


def test_an_import_without_labels_keeps_its_fingerprint(teacher):
    """Whether labels are published is part of a fingerprint only where they are: earlier versions wrote no such key."""
    how = Labelling(
        out="o", work="w", teacher="t", teacher_hash="h", order=None, policy=ViewSpec(), seed=0, size=32,
        image_codec="png", codec="fp16", patches=1, groups=None, device="cpu",
    )  # fmt: skip
    spec, protocol = load_checkpoint(teacher)[1], Protocol.load("common")
    earlier = asdict(how) | {"law": asdict(how.policy), "out": "", "work": "", "teacher": spec.hash}
    del earlier["policy"], earlier["published"], earlier["precision"]
    claim = Claim.of(how, spec, protocol, "images")
    assert claim.fingerprint == fingerprint([earlier, "images"])
    assert Claim.of(replace(how, published="x"), spec, protocol, "images").fingerprint != claim.fingerprint


@pytest.mark.parametrize(("options", "kind", "words"), [
    ({"labels_seed": 43}, SourceError, "do not fit these images.*labels_seed, now 43.*batch size"),
    ({"labels_seed": 2**64}, OptionError, "^labels_seed is 18446744073709551616"),
    ({"labels_seed": 0.5}, OptionError, "^labels_seed is 0.5; it must be a whole number"),
    ({"protocol": "@none"}, OptionError, "mixing is cutmix, not none; give the protocol"),
    ({"protocol": "@scale"}, OptionError, "crops cover down to .* of the image, not 50%; give"),
    ({"protocol": "demo"}, OptionError, "of the views are flipped, not 0%"),
])  # fmt: skip
def test_options_that_do_not_fit_are_refused_before_anything_is_written(
    tmp_path, images, cutmix, teacher, options, kind, words
):
    for name, line in (("none", 'mix = "none"'), ("scale", "scale = [0.5, 1.0]")):
        (tmp_path / f"{name}.toml").write_text(f"[views]\n{line}\n[train]\nepochs = 3\n")
    if str(options.get("protocol", "")).startswith("@"):
        options = {"protocol": str(tmp_path / f"{options['protocol'][1:]}.toml")}
    with pytest.raises(kind, match=words):
        taken(tmp_path / "set", images, cutmix[0], teacher, **options)
    assert not (tmp_path / "set").exists() and not (tmp_path / "set.work").exists()


def test_another_order_of_the_files_is_refused(tmp_path, images, opened, teacher):
    relabel(tmp_path / "labels", images[1][::-1], opened, epochs=EPOCHS, batch=BATCH)
    with pytest.raises(SourceError, match="do not fit these images"):
        taken(tmp_path / "set", images, tmp_path / "labels", teacher)


def test_sets_above_one_shard_are_refused(tmp_path, images, cutmix, teacher, monkeypatch):
    monkeypatch.setattr("ddkit.pipeline.importing.shard_rows", lambda size: 29)
    with pytest.raises(OptionError, match="up to 29 images of 40 px, here are 30.*a row of the same shard"):
        taken(tmp_path / "set", images, cutmix[0], teacher)


@given(images=st.integers(1, 300), epochs=st.integers(1, 4), seed=st.integers(0, 2**31), batch=st.integers(1, 64))
@settings(max_examples=30, deadline=None)
def test_the_order_is_that_of_torchs_sampler(images, epochs, seed, batch):
    generator = torch.Generator()
    generator.manual_seed(seed)
    sampler = RandomSampler(TensorDataset(torch.arange(images)), generator=generator)
    batches = BatchSampler(sampler, batch_size=batch, drop_last=False)
    for order in sampler_orders(images, epochs, seed):
        assert order.tolist() == [i for part in batches for i in part]


# ------------------------------------------------------------------ files that are not what they should be


def half_of(parts):
    return [part[: len(part) // 2] if isinstance(part, torch.Tensor) else part for part in parts]


def swapped(at, value):
    return lambda parts: [value(part) if i == at else part for i, part in enumerate(parts)]


CHANGED = {
    "seven parts": (lambda parts: [*parts, parts[2]], "holds 7 parts; ddkit reads the 6 of SRe2L"),
    "a dictionary": (lambda parts: {"coords": parts[0]}, "the opcode b'}'"),
    "a smaller batch": (half_of, "permutation|labels 3 images"),
    "no permutation": (swapped(2, torch.zeros_like), "not a permutation of the batch of 6"),
    "other classes": (swapped(5, lambda logits: logits[:, :7].clone()), "has 7 logits"),
    "single precision": (swapped(5, lambda logits: logits.float()), "logits in float32 and mixing cutmix, unlike"),
    "logits that are not finite": (swapped(5, lambda logits: logits * torch.inf), "not finite"),
    "crops outside": (swapped(0, lambda crops: crops + 1), "a crop is not inside"),
    "negative crops": (swapped(0, lambda crops: crops - 1e30), "a crop is not inside"),
    "crops that leave the image": (swapped(0, torch.ones_like), "a crop is empty or not inside"),
    "crops of another size": (swapped(0, lambda crops: crops * 0.99), "not whole pixels of images of 40x40"),
    "flips of two": (swapped(1, lambda flips: flips.byte() + 2), "flips are neither 0 nor 1"),
    "one region less": (swapped(4, lambda corners: corners[:3]), "not four numbers of pixels"),
    "a region outside": (swapped(4, lambda corners: [0, 0, 33, 33]), "not inside a view of 32x32"),
    "a fraction as region": (swapped(4, lambda corners: [0.5, 0, 1, 1]), "not four numbers of pixels"),
    "no mixing": (swapped(2, lambda partners: None), "mixing none, unlike"),
    "a transposed tensor": (swapped(5, lambda logits: logits.T.contiguous().T), "not contiguous"),
    "a double": (swapped(0, lambda crops: crops.double()), "names 'torch.DoubleStorage'"),
    "an array": (swapped(0, lambda crops: crops.numpy()), "names 'numpy.*_reconstruct'"),
    "a parameter": (swapped(0, torch.nn.Parameter), "names 'torch._utils._rebuild_parameter'"),
    "a string": (swapped(3, str), "neither a tensor nor a number"),
    "a large number": (swapped(3, lambda weight: 2**70), "the opcode"),
    "tensor numbers": (swapped(4, lambda corners: [torch.tensor(c, dtype=torch.uint8) for c in corners]), None),
    "a number as tensor": (swapped(3, torch.tensor), None),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGED)
def test_other_layouts_are_refused_in_one_line(tmp_path, images, cutmix, teacher, name):
    change, words = CHANGED[name]
    labels = rewritten(cutmix[0], tmp_path / "labels", change, number=3)
    if words is None:  # another way to write the same
        assert directory_problems(taken(tmp_path / "set", images, labels, teacher).root) == []
        return
    with pytest.raises(SourceError, match=words) as caught:
        taken(tmp_path / "set", images, labels, teacher)
    assert str(labels / "epoch_1" / "batch_3.tar") in str(caught.value)


def test_directories_that_are_not_whole_are_refused(tmp_path, images, cutmix, teacher):
    def refused(labels, words):
        with pytest.raises(SourceError, match=words):
            taken(tmp_path / "set", images, labels, teacher)

    refused(tmp_path / "none", "no such directory")
    refused(images[0], "has no epoch_0")
    labels = tmp_path / "labels"
    shutil.copytree(cutmix[0], labels)
    os.rename(labels / "epoch_1", labels / "epoch_7")
    refused(labels, "number 1 is missing, but 7 is there")
    os.rename(labels / "epoch_7", labels / "epoch_1")
    os.remove(labels / "epoch_1" / "batch_3.tar")
    refused(labels, "epoch_1 has 3 batches, epoch_0 has 4")
    (labels / "epoch_1" / "batch_3.tar").mkdir()
    refused(labels, "batch_3.tar is no file")
    shutil.rmtree(labels / "epoch_0")
    (labels / "epoch_0").mkdir()
    refused(labels, "epoch_0 has no batch_0.tar")
    os.rmdir(labels / "epoch_1" / "batch_3.tar")
    with pytest.raises(SourceError, match="4 batches of 8 an epoch, which is not 40 images"):
        open_published(str(cutmix[0]), images=40)


def test_a_file_that_changes_during_the_import_is_found(cutmix, tmp_path):
    shutil.copytree(cutmix[0], tmp_path / "labels")
    labels = open_published(str(tmp_path / "labels"), images=CLASSES * IPC)
    shutil.copy(tmp_path / "labels" / "epoch_0" / "batch_0.tar", tmp_path / "labels" / "epoch_1" / "batch_0.tar")
    with pytest.raises(IntegrityError, match="has changed during the import"):
        [list(batches) for batches in labels.each_epoch(range(EPOCHS))]


# ------------------------------------------------------------------ the reader


def same(one, other):
    assert type(one) is type(other)
    if isinstance(one, list):
        assert len(one) == len(other) and all(same(a, b) for a, b in zip(one, other))
        return True
    if isinstance(one, np.ndarray):
        assert one.dtype == other.dtype and np.array_equal(one, other)
        return True
    return one == other


@pytest.fixture(scope="module")
def real(cutmix):
    data = (cutmix[0] / "epoch_0" / "batch_0.tar").read_bytes()
    return data, read_torch_list(data, "file")


def with_pickle(data, pickled):
    """The archive with another data.pkl, whose checksum is right."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        for info in old.infolist():
            new.writestr(info.filename, pickled if info.filename.endswith("data.pkl") else old.read(info))
    return buffer.getvalue()


def pickle_of(data):
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))


MUTATION = st.tuples(
    st.sampled_from(["flip", "set", "insert", "delete", "truncate", "repeat"]), st.floats(0, 1, exclude_max=True),
    st.binary(min_size=1, max_size=9),
)  # fmt: skip


def mutated(data, mutation):
    kind, share, extra = mutation
    at = int(share * len(data))
    if kind == "flip":
        return data[:at] + bytes([data[at] ^ (1 << extra[0] % 8)]) + data[at + 1 :]
    if kind == "set":
        return data[:at] + extra + data[at + len(extra) :]
    if kind == "insert":
        return data[:at] + extra + data[at:]
    if kind == "delete":
        return data[:at] + data[at + len(extra) :]
    if kind == "truncate":
        return data[:at]
    return data[:at] + data[at : at + 40] * extra[0] + data[at:]


def read_or_refused(data):
    """The values, or None if one clear error was raised; memory stays near the size of the file."""
    tracemalloc.start()
    try:
        return read_batch(data, "file") and read_torch_list(data, "file")
    except SourceError as error:
        assert str(error).startswith("file") and "\n" not in str(error)
        return None
    finally:
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
        tracemalloc.stop()


@given(mutations=st.lists(MUTATION, min_size=1, max_size=3))
@settings(max_examples=400, deadline=None)
def test_a_damaged_file_gives_the_same_values_or_one_error(real, mutations):
    data, values = real
    for mutation in mutations:
        data = mutated(data, mutation) or b"x"
    found = read_or_refused(data)
    assert found is None or same(found, values)


@given(mutations=st.lists(MUTATION, min_size=1, max_size=3))
@settings(max_examples=600, deadline=None)
def test_a_changed_pickle_gives_values_or_one_error(real, mutations):
    """With a checksum that fits, values may differ, but nothing else may happen."""
    data, pickled = real[0], pickle_of(real[0])
    for mutation in mutations:
        pickled = mutated(pickled, mutation) or b"x"
    read_or_refused(with_pickle(data, pickled))


class Calls:
    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.mark.parametrize("function", [os.system, eval, exec, __import__, open, OrderedDict, bytes, getattr, print])
def test_a_pickle_that_calls_something_is_refused_without_importing(real, tmp_path, function, monkeypatch):
    def importing(name, *args):
        raise AssertionError(f"{name} was imported")

    there = tmp_path / "there"
    argument = f"touch {there}" if function is os.system else f"open({str(there)!r}, 'w')"
    arguments = () if function is OrderedDict else (argument,)
    hostile = with_pickle(real[0], pickle.dumps([Calls(function, *arguments)], protocol=2))
    with monkeypatch.context() as patch:
        patch.setattr("builtins.__import__", importing)
        with pytest.raises(SourceError, match="neither a tensor" if function is OrderedDict else "no tensor needs"):
            read_torch_list(hostile, "file")
    assert not there.exists()


HOSTILE = {
    "a list of itself": b"\x80\x02]q\x00h\x00a.",
    "tuples that double": b"\x80\x02]N" + b"q\x00h\x00\x86" * 5000 + b"a.",
    "deep tuples": b"\x80\x02]N" + b"\x85" * 60000 + b"a.",
    "text longer than the file": b"\x80\x02]X\xff\xff\xff\xff",
    "no pickle": b"",
    "no end": b"\x80\x02]",
    "protocol 4": b"\x80\x04\x95\x01\x00\x00\x00\x00\x00\x00\x00].",
    "a stack that is not empty": b"\x80\x02]].",
    "a name without lines": b"\x80\x02cposix",
    "an empty stack": b"\x80\x02a.",
    "an unknown memo": b"\x80\x02h\x07.",
    "a state": b"\x80\x02]ccollections\nOrderedDict\n)R}ba.",
    "a state of a dtype": b"\x80\x02]cnumpy\ndtype\n)R(K\x04tba.",
    "a tensor of nothing": b"\x80\x02]ctorch._utils\n_rebuild_tensor_v2\n)Ra.",
    "a number of nothing": b"\x80\x02]cnumpy.core.multiarray\nscalar\n)Ra.",
    "a call of a call": b"\x80\x02]ccollections\nOrderedDict\n)R)Ra.",
    "a reference to a list": b"\x80\x02]]Qa.",
    "too long": b"\x80\x02]" + b"N0" * 40000 + b".",
}


def tensor(*, key=b"0", start=0, shape=b"K\x01\x85", strides=b"K\x01\x85", kind=b"FloatStorage"):
    place = b"X\x07\x00\x00\x00storagectorch\n" + kind + b"\nX" + len(key).to_bytes(4, "little") + key
    place = b"(" + place + b"X\x03\x00\x00\x00cpuK\x01tQ"
    rest = b"J" + start.to_bytes(4, "little", signed=True) + shape + strides + b"\x89ccollections\nOrderedDict\n)R"
    return b"\x80\x02]ctorch._utils\n_rebuild_tensor_v2\n(" + place + rest + b"tRa."


HOSTILE |= {
    "a tensor outside its bytes": tensor(start=2**31 - 1),
    "a negative start": tensor(start=-1),
    "a huge shape": tensor(shape=b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86", strides=b"J\xff\xff\xff\x7fK\x01\x86"),
    "strides of zero": tensor(shape=b"J\xff\xff\xff\x7f\x85", strides=b"K\x00\x85"),
    "an empty shape": tensor(shape=b"K\x00J\xff\xff\xff\x7f\x86", strides=b"K\x01K\x01\x86"),
    "a path as key": tensor(key=b"../version"),
    "a file that is not there": tensor(key=b"99"),
    "a storage of objects": tensor(kind=b"UntypedStorage"),
    "too many dimensions": tensor(shape=b"(" + b"K\x01" * 70 + b"t", strides=b"(" + b"K\x01" * 70 + b"t"),
}


def test_the_tensors_above_are_read_where_they_are_right(real):
    (found,) = read_torch_list(with_pickle(real[0], tensor()), "file")
    assert found.dtype == np.float32 and found.shape == (1,)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_are_refused(real, name):
    assert read_or_refused(with_pickle(real[0], HOSTILE[name])) is None


def archive(members, **options):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **options) as new:
        for name, data in members:
            new.writestr(name, data)
    return buffer.getvalue()


def test_hostile_archives_are_refused(real):
    def refused(data, words):
        with pytest.raises(SourceError, match=words):
            read_torch_list(data, "file")

    good = pickle_of(real[0])
    refused(archive([("x/data.pkl", good), ("x/data/0", bytes(10**8))], compression=zipfile.ZIP_DEFLATED), "compressed")
    refused(archive([(f"x/{i}", b"") for i in range(65)]), "more than 64 members")
    refused(archive([("a/data.pkl", good), ("b/data.pkl", good)]), "no data.pkl")
    refused(archive([("x/data.pkl", good), ("x/byteorder", b"big")]), "big-endian")
    refused(archive([("x/data.pkl", good)]), "missing bytes")
    refused(pickle.dumps([1.0]), "not a complete archive")
    refused(b"", "not a complete archive")


def test_what_torch_saves_is_read():
    parts = [torch.arange(6.0).reshape(2, 3), torch.tensor([True, False]), 0.25, None, [np.int64(3), np.float64(0.5)],
             7, torch.arange(9)[4:], torch.tensor(3, dtype=torch.uint8), np.int32(-5), np.float32(1.5)]  # fmt: skip
    buffer = io.BytesIO()
    torch.save(parts, buffer)
    found = read_torch_list(buffer.getvalue(), "file")
    assert (found[0] == parts[0].numpy()).all() and found[1].tolist() == [1, 0] and found[2:4] == [0.25, None]
    assert found[4] == [3, 0.5] and found[5] == 7 and found[6].tolist() == [4, 5, 6, 7, 8] and found[7].item() == 3
    assert found[8:] == [-5, 1.5]
    with pytest.raises(DdkitError):
        read_torch_list(buffer.getvalue()[:-1], "file")


def test_images_of_another_size_are_refused(tmp_path, images, cutmix, teacher):
    root = tmp_path / "smaller"
    for number, data in enumerate(images[1]):
        (root / str(number // IPC)).mkdir(parents=True, exist_ok=True)
        with Image.open(io.BytesIO(data)) as image:
            image.resize((36, 36)).save(root / str(number // IPC) / f"{number % IPC}.png")
    with pytest.raises(SourceError, match="not whole pixels of images of 36x36"):
        taken(tmp_path / "set", (str(root), []), cutmix[0], teacher)


def test_the_benchmark_finds_the_same_crops_and_logits(tmp_path, images, teacher):
    import relabel as benchmark

    sizes = ["--images", "20", "--views", "2", "--rounds", "3", "--batch", "8"]
    given = ["--data", images[0], "--teacher", teacher, *sizes, "--out", str(tmp_path / "relabel.json")]
    found = benchmark.main(given)
    assert json.loads((tmp_path / "relabel.json").read_text()) == found
    assert found["views"] == 120 and found["same_integers"] == 1.0
    assert found["pixels"]["largest_difference"] <= 1 and found["whole"]["ratio"]["rounds"] == 3
    assert found["top1_agreement"] > 0.9 and found["logits"]["mean_difference"] < found["logits"]["spread"] / 10


def test_the_command_takes_labels(tmp_path, images, cutmix, teacher):
    from typer.testing import CliRunner

    from ddkit.cli.app import app

    given = ["--method", "sre2l", "--teacher", teacher, "--protocol", "sre2l", "--workers", "1"]
    told = CliRunner().invoke(app, ["import", images[0], str(tmp_path / "set"), "--labels", str(cutmix[0]), *given])
    assert told.exit_code == 0, told.output
    assert directory_problems(tmp_path / "set") == []
