"""Sets that were made once must be made, read, verified, replayed, grown and pushed for ever."""

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent / "golden"))
import make
import make_released

import ddkit
from ddkit.format.manifest_file import parse_manifest, read_manifest
from ddkit.format.verification import directory_problems
from ddkit.publishing.rendering import publish_files

CHANGELOG = Path(__file__).parent.parent / "CHANGELOG.md"
OLD = make.HERE / "rded"  # made by ddkit 0.5.0
RELEASED = sorted(path.name for path in make_released.SETS.iterdir())
KNOWN = json.loads(make.CONTENTS.read_text())
PIXELS, LOGITS = 38946672, 46.93266773223877
LABELS = [7, 9, 0, 4, 0, 2, 5, 7, 1, 9, 3, 1, 8, 2, 7, 6, 6, 8, 4, 9, 5, 5, 8, 6, 2, 3, 4, 1, 0, 3]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("golden")
    return root, make.make_all(root)


def test_the_same_commands_make_the_same_sets(made):
    """Bytes are equal on machines of one kind; on others the sets must still be whole, and made of the same images."""
    root, sets = made
    kind = make.kind_of_machine(root / "rded")
    if kind in KNOWN:
        assert sets == KNOWN[kind]
    for name in ("random", "import"):  # no network decides their images: the same everywhere but for logits
        (any_kind,) = {recorded[name]["fingerprint"] for recorded in KNOWN.values()}
        assert sets[name]["fingerprint"] == any_kind
    assert all(directory_problems(root / name) == [] for name in sets)


def test_an_old_set_is_read_as_it_was_written():
    manifest = read_manifest(OLD)
    assert manifest.to_bytes() == (OLD / "ddkit.json").read_bytes()
    assert directory_problems(OLD) == []
    assert ddkit.inspect(OLD).content == "24d651608fc61456278ae0a8206ae50dcbd97e966d873e1809ad17ff1d85ad5f"


def test_an_old_set_is_replayed():
    """Sums of pixels and labels of the first epoch, as ddkit 0.5.0 replayed them."""
    loader = ddkit.ReplayLoader(OLD, batch_size=8, device="cpu")
    pixels = sum(int(loader.view(row, index)[0].astype(np.int64).sum()) for row in range(30) for index in range(4))
    batches = list(loader)
    assert pixels == PIXELS
    assert [len(labels) for _, _, labels in batches] == [8, 8, 8, 6]
    assert [int(label) for _, _, labels in batches for label in labels] == LABELS
    assert sum(float(logits.double().abs().sum()) for _, logits, _ in batches) == pytest.approx(LOGITS, rel=1e-6)


def test_an_old_set_is_grown_without_touching_its_shards(tmp_path, made):
    shutil.copytree(OLD, tmp_path / "rded")
    teacher = make.golden_teacher(tmp_path / "digits.safetensors", tuple(map(str, range(10))))
    grown = ddkit.distill(tmp_path / "rded", data="digits", teacher=teacher, ipc=4, workers=1)
    assert grown.prefixes == (1, 3, 4)
    assert grown.shards[:2] == read_manifest(OLD).shards
    assert directory_problems(tmp_path / "rded") == []


def test_an_old_set_is_pushed(hub, tmp_path):
    shutil.copytree(OLD, tmp_path / "rded")
    ddkit.push(tmp_path / "rded", "ann/rded", license="mit")
    pulled = ddkit.pull("ann/rded", tmp_path / "pulled")
    assert pulled.content == read_manifest(OLD).content


def test_every_released_version_has_a_set():
    """The last commit of the current one may not be known yet."""
    versions = re.findall(r"^## (\d+\.\d+\.\d+)$", CHANGELOG.read_text(), re.M)
    assert set(versions) - {ddkit.__version__} <= set(make_released.RELEASES) <= set(RELEASED)
    assert set(json.loads(make_released.REPLAYS.read_text())) == set(RELEASED)


@pytest.fixture
def one_thread():
    """A tiny network on one thread: two that wait for each other take seconds on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", RELEASED)
def test_a_set_of_a_released_version_is_read_verified_and_replayed(name, one_thread):
    """As the version itself replayed it: pixels and stored labels to the bit, labels of a carried teacher nearly."""
    root, known = make_released.SETS / name, json.loads(make_released.REPLAYS.read_text())[name]
    manifest = read_manifest(root)
    assert manifest.created_by["ddkit"] == name.partition("-")[0]
    assert parse_manifest(manifest.to_bytes(), root) == manifest
    assert directory_problems(root) == []
    found = make_released.replay(root)
    assert np.allclose(found.pop("first_logits"), known["first_logits"], atol=1e-3)
    if manifest.labels.codec == "teacher":
        found["logits"] = known["logits"]
    assert found == {key: known[key] for key in found}


@pytest.mark.parametrize("name", RELEASED)
def test_a_set_of_a_released_version_is_opened_by_stock_tools_with_its_card(name, tmp_path):
    import datasets

    root = shutil.copytree(make_released.SETS / name, tmp_path / "set")
    publish_files(read_manifest(root))
    assert f"content {read_manifest(root).content}" in (root / "README.md").read_text()
    rows = datasets.load_dataset(str(root), split="train", streaming=True)
    assert rows.features["cls"].names == list(make_released.CLASSES)
    assert sorted(row["cls"] for row in rows) == [0, 1, 2, 3]
