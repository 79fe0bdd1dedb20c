"""Datasets of the Hub as sources: splits by name, only the needed files, any of the usual layouts."""

import io

import numpy as np
import pytest
from conftest import photograph
from huggingface_hub import constants

from ddkit.core.worker_state import STATE
from ddkit.errors import HubAccess, SourceError
from ddkit.evaluation.students import train
from ddkit.pipeline import distill
from ddkit.sources.images import open_source
from ddkit.sources.tables import splits_of
from ddkit.testing import untrained_teacher

CARD = b"""---
license: cc-by-nc-4.0
configs:
- config_name: plain
  data_files:
  - {split: train, path: plain/train-*}
  - {split: test, path: plain/test-*}
---
"""


def encoded(seed: int) -> bytes:
    buffer = io.BytesIO()
    photograph(seed, 36, 40).save(buffer, "PNG")
    return buffer.getvalue()


def parquet(first: int, rows: int = 24) -> bytes:
    import datasets

    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["0", "1", "2"])})
    images = [{"bytes": encoded(first + i), "path": None} for i in range(rows)]
    table = datasets.Dataset.from_dict({"img": images, "label": [i % 3 for i in range(rows)]}, features=features)
    buffer = io.BytesIO()
    table.to_parquet(buffer)
    return buffer.getvalue()


@pytest.fixture
def there(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    STATE.drop()
    files = {"plain/train-00000-of-00001.parquet": parquet(0), "plain/test-00000-of-00001.parquet": parquet(100)}
    hub.add_repo("dataset", "lab/insects", {"README.md": CARD, **files})
    return "lab/insects"


def fetched(hub) -> set[str]:
    return {r.rpartition("/")[2] for r in hub.requests if r.startswith("GET") and r.endswith(("parquet", "tar", "png"))}


def test_only_the_split_that_is_used_is_fetched(hub, there, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert set(splits_of(there)) == {"train", "test"} and not fetched(hub)
    teacher = untrained_teacher(tmp_path / "t.safetensors", classes=3)
    made = distill("out", data=there, method="random", ipc=2, protocol="demo", views=2, teacher=str(teacher), workers=1)
    assert fetched(hub) == {"train-00000-of-00001.parquet"}
    source = made.source
    commit = hub.repos["dataset", there].head()
    assert (source.id, source.revision, source.licence) == (there, commit, "cc-by-nc-4.0")
    assert source.holdout is None and made.name == "random-insects-ipc2"
    text = (tmp_path / "out" / "README.md").read_text()
    assert f"- {there}" in text and commit[:12] in text and "Insects" not in text
    _, result = train("out", val=there, epochs=1)
    assert result.accuracy is not None
    assert fetched(hub) == {"train-00000-of-00001.parquet", "test-00000-of-00001.parquet"}


def test_a_revision_is_kept(hub, there):
    repo = hub.repos["dataset", there]
    old = repo.head()
    before = open_source(f"{there}@{old}").fingerprint
    path = "plain/train-00000-of-00001.parquet"
    repo.commit("main", "others", {path: repo.store(path, parquet(500))})
    assert open_source(f"{there}@{old}").fingerprint == before
    assert open_source(f"{there}@main").fingerprint != before


def test_image_folders_and_tars(hub, there, tmp_path):
    files = {f"data/train/{name}/{i}.png": encoded(10 * k + i) for k, name in enumerate("ab") for i in range(3)}
    hub.add_repo("dataset", "lab/folder", files)
    source = open_source("lab/folder")
    assert source.class_names == ["a", "b"] and len(source) == 6
    import tarfile

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for i in range(4):
            for suffix, data in (("png", encoded(i)), ("cls", str(i % 2).encode())):
                info = tarfile.TarInfo(f"{i:04d}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    hub.add_repo("dataset", "lab/tars", {"data/train-0000.tar": buffer.getvalue()})
    source = open_source("lab/tars")
    assert np.bincount(source.labels).tolist() == [2, 2] and source.read(0).shape == (3, 36, 40)


def test_what_cannot_be_opened_is_one_line(hub, there, monkeypatch):
    hub.add_repo("dataset", "lab/empty", {"README.md": b"nothing"})
    configs = b"---\nconfigs:\n- {config_name: a, data_files: a.csv}\n- {config_name: b, data_files: b.csv}\n---\n"
    hub.add_repo("dataset", "lab/two", {"README.md": configs, "a.csv": b"x\n1", "b.csv": b"x\n1"})
    for name, kind, words in (
        ("lab/none", HubAccess, "no dataset lab/none"),
        ("lab/empty", (SourceError, HubAccess), "lab/empty"),
        ("lab/two", SourceError, "Config name is missing"),
    ):
        with pytest.raises(kind, match=words) as told:
            open_source(name)
        assert "\n" not in str(told.value)
