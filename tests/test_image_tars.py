"""`images/` tars: there where labels outweigh images, the same images, enough for whoever wants no labels."""

import shutil

import datasets
import pytest
from huggingface_hub import constants

from ddkit.errors import IntegrityError
from ddkit.evaluation.students import train
from ddkit.format.damage import open_images, open_shard
from ddkit.format.manifest_file import read_manifest
from ddkit.format.row_records import member
from ddkit.format.verification import directory_problems
from ddkit.pipeline import distill, relabel
from ddkit.publishing.pulling import pull
from ddkit.publishing.pushing import push
from ddkit.replay.stores.memory import load_set

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture(scope="module")
def options(teacher):
    return {"data": "digits", "method": "random", "protocol": "demo", "teacher": teacher, "workers": 1}


@pytest.fixture(scope="module")
def heavy(tmp_path_factory, options):
    """120 views of 10 classes: labels outweigh 32-pixel images."""
    return distill(tmp_path_factory.mktemp("sets") / "heavy", ipc=1, views=120, **options)


def test_they_are_there_where_labels_outweigh(heavy, random_set):
    assert heavy.image_tars and not random_set.image_tars
    (shard,) = heavy.shards
    assert shard.images.path == "images/train-ipc001-00000.tar"
    assert shard.images.path in heavy.files() and directory_problems(heavy.root) == []
    tar, records = open_shard(heavy, shard)
    assert [(r, member(tar, r.image)) for r in records] == open_images(heavy, shard)
    (light,) = random_set.shards
    assert light.images is None and len(open_images(random_set, light)) == 20


def test_stock_readers_take_them_for_the_images(heavy):
    whole = datasets.load_dataset(str(heavy.root), split="train")
    images = datasets.load_dataset(str(heavy.root), "images", split="train")
    assert images.column_names == ["png", "cls", "__key__"]
    assert images["cls"][:] == whole["cls"][:] and images["__key__"][:] == whole["__key__"][:]
    assert [i.tobytes() for i in images["png"]] == [i.tobytes() for i in whole["png"]]


def test_growth_and_relabelling_keep_them(heavy, options, tmp_path, teacher):
    out = shutil.copytree(heavy.root, tmp_path / "grows")
    grown = distill(out, ipc=2, views=120, **options)
    assert [shard.images is not None for shard in grown.shards] == [True, True]
    once = distill(tmp_path / "once", ipc=2, prefixes=(1, 2), views=120, **options)
    assert once.content == grown.content
    few = relabel(heavy.root, tmp_path / "few", teacher=teacher, views=2, workers=1)
    assert few.image_tars and few.shards[0].images == heavy.shards[0].images


def test_a_damaged_one_is_named_and_made_again(heavy, options, tmp_path):
    root = shutil.copytree(heavy.root, tmp_path / "damaged")
    path = root / "images" / "train-ipc001-00000.tar"
    good = bytearray(path.read_bytes())
    good[1700] ^= 1
    path.write_bytes(good)
    manifest = read_manifest(root)
    with pytest.raises(IntegrityError, match="images/train-ipc001-00000.tar.*row 00000000"):
        load_set(manifest, with_labels=False)
    assert len(load_set(manifest)) == 10 and len(directory_problems(root)) == 1
    shutil.copytree(f"{heavy.root}.work", tmp_path / "damaged.work")
    distill(root, **options)
    assert directory_problems(root) == []


def test_who_wants_no_labels_fetches_none(hub, heavy, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.chdir(tmp_path)
    push(shutil.copytree(heavy.root, tmp_path / "sent"), "lab/heavy", license="mit")

    def fetched():
        found = {r.split("/resolve/")[1].partition("/")[2] for r in hub.requests if r.startswith("GET") and ".tar" in r}
        hub.forget_traffic()
        return found

    train("lab/heavy", labels="hard", epochs=1)
    assert fetched() == {"images/train-ipc001-00000.tar"}
    datasets.load_dataset("lab/heavy", "images", split="train")
    assert not any(path.startswith("data/") for path in fetched())
    train("lab/heavy", epochs=1)
    assert fetched() == {"data/train-ipc001-00000.tar"}
    assert pull("lab/heavy", tmp_path / "got").content == heavy.content
