"""The file of labels that all rows share: listed, hashed, verified, fetched, and refused when damaged."""

import json
import shutil

import numpy as np
import pytest

import ddkit
from ddkit.errors import FormatVersion, IntegrityError, OptionError, SetError
from ddkit.format.codecs.registry import find_codec
from ddkit.format.label_file import label_decoder, label_file_problem, parse_shared, write_shared
from ddkit.format.manifest import self_hash
from ddkit.format.manifest_file import read_manifest
from ddkit.pipeline import relabel


@pytest.fixture(scope="module")
def lowrank_set(random_set, teacher, tmp_path_factory):
    out = tmp_path_factory.mktemp("lowrank") / "set"
    return relabel(random_set.root, out, teacher=teacher, codec="lowrank:5:i4+top2", views=3, workers=1)


def shared_of(classes=6, rank=3):
    codec = find_codec(f"lowrank:{rank}")
    return codec, codec.fit(np.random.default_rng(0).normal(size=(40, classes)).astype(np.float32))


def test_what_is_written_is_read_and_has_one_layout(tmp_path):
    codec, shared = shared_of()
    entry = write_shared(tmp_path, codec, shared)
    data = (tmp_path / entry.path).read_bytes()
    assert entry.bytes == len(data)
    found = parse_shared(data, codec, 6, "x")
    assert found.keys() == shared.keys() and all((found[name] == shared[name]).all() for name in shared)
    assert write_shared(tmp_path, codec, shared) == entry


@pytest.mark.parametrize("change", ["classes", "codec", "bytes", "inf"])
def test_a_file_of_another_set_is_refused(tmp_path, change):
    codec, shared = shared_of()
    if change == "inf":
        shared["offset"] = shared["offset"] * np.float16(np.inf)
    write_shared(tmp_path, codec, shared)
    data = (tmp_path / "labels.safetensors").read_bytes()
    if change == "bytes":
        data = data[:-1]
    other = find_codec("lowrank:4") if change == "codec" else codec
    with pytest.raises(IntegrityError, match="fetch the set again"):
        parse_shared(data, other, 7 if change == "classes" else 6, "labels.safetensors")


def test_it_belongs_to_the_set(lowrank_set):
    entry = lowrank_set.labels.file
    assert entry.path == "labels.safetensors" and entry.path in lowrank_set.files()
    assert entry.path not in lowrank_set.files(labels=False)
    assert lowrank_set.total_bytes() == sum(shard.bytes for shard in lowrank_set.shards) + entry.bytes
    assert lowrank_set.format == 2 and ddkit.verify(lowrank_set.root) == []
    assert label_decoder(lowrank_set).shared.keys() == {"basis", "scale", "offset"}


@pytest.mark.parametrize("harm", ["missing", "flipped", "longer"])
def test_damage_is_found_by_every_reader(lowrank_set, tmp_path, harm):
    root = shutil.copytree(lowrank_set.root, tmp_path / "set")
    path = root / "labels.safetensors"
    data = bytearray(path.read_bytes())
    if harm == "missing":
        path.unlink()
    else:
        data[-1] ^= 1
        path.write_bytes(bytes(data) + (b"x" if harm == "longer" else b""))
    (problem,) = ddkit.verify(root)
    assert "labels.safetensors" in problem and label_file_problem(read_manifest(root)) == problem
    with pytest.raises(IntegrityError, match=r"labels\.safetensors"):
        ddkit.ReplayLoader(root, batch_size=4)


def changed(root, **labels):
    data = json.loads((root / "ddkit.json").read_text())
    data["labels"] |= labels
    data |= labels.pop("top", {})
    data["self"] = self_hash(data)
    (root / "ddkit.json").write_text(json.dumps(data))
    return root


@pytest.mark.parametrize(
    "labels, error, said",
    [
        ({"codec": "quantum:7"}, FormatVersion, "pip install -U ddkit"),
        ({"codec": "lowrank:5:i4+top11"}, IntegrityError, "above the 10 classes"),
        ({"codec": "lowrank:5:i8+top2"}, IntegrityError, "is written lowrank:5"),
        ({"codec": "int8"}, IntegrityError, "labels.file"),
        ({"file": None}, IntegrityError, "labels.file"),
        ({"file": {"path": "../x", "bytes": 3, "sha256": "0" * 64}}, IntegrityError, "path"),
        ({"file": {"path": "labels.safetensors", "bytes": 10**9, "sha256": "0" * 64}}, IntegrityError, "bytes"),
    ],
)
def test_a_manifest_that_does_not_fit_its_codec_is_refused(lowrank_set, tmp_path, labels, error, said):
    root = changed(shutil.copytree(lowrank_set.root, tmp_path / "set"), **labels)
    with pytest.raises(error, match=said):
        read_manifest(root)


def test_a_dataset_of_such_a_set_needs_its_manifest(lowrank_set):
    import datasets

    table = datasets.load_dataset(str(lowrank_set.root), split="train")
    with pytest.raises(SetError, match="pass manifest="):
        ddkit.ReplayLoader(table, batch_size=4)
    ours = ddkit.ReplayLoader(table, batch_size=4, manifest=lowrank_set.root)
    whole = ddkit.ReplayLoader(lowrank_set.root, batch_size=4)
    for (x, z, y), (x2, z2, y2) in zip(ours, whole):
        assert x.equal(x2) and z.equal(z2) and y.equal(y2)
    with pytest.raises(SetError, match=r"labels=safetensors"):
        ddkit.decode_row(table[0])
    from safetensors.numpy import load_file

    row = ddkit.decode_row(table[0], labels=load_file(lowrank_set.root / "labels.safetensors"))
    assert row["logits"].shape == (3, 10)


def test_it_travels_with_push_pull_and_streams_of_parts(hub, lowrank_set, tmp_path):
    root = shutil.copytree(lowrank_set.root, tmp_path / "sent")
    ddkit.push(root, "lab/lowrank", license="mit")
    assert ddkit.verify("lab/lowrank") == []
    pulled = ddkit.pull("lab/lowrank", tmp_path / "pulled")
    assert pulled.content == lowrank_set.content and ddkit.verify(tmp_path / "pulled") == []
    z = next(iter(ddkit.ReplayLoader("lab/lowrank", batch_size=4)))[1]
    assert z.equal(next(iter(ddkit.ReplayLoader(lowrank_set.root, batch_size=4)))[1])


def test_it_is_fetched_before_the_shards_are_streamed(hub, lowrank_set, tmp_path):
    ddkit.push(shutil.copytree(lowrank_set.root, tmp_path / "sent"), "lab/streamed", license="mit")
    streamed = list(ddkit.ReplayLoader("lab/streamed", batch_size=7, store="streaming"))
    local = list(ddkit.ReplayLoader(lowrank_set.root, batch_size=7))
    assert all(a.equal(b) for ours, theirs in zip(streamed, local, strict=True) for a, b in zip(ours, theirs))


def test_an_older_ddkit_asks_to_upgrade(lowrank_set):
    """ddkit up to 0.6 refuses every format above 1 with the command that upgrades, whatever the codec's name."""
    data = json.loads((lowrank_set.root / "ddkit.json").read_text())
    assert data["format"] == 2
    older = json.loads(json.dumps(data)) | {"format": 3}
    older["self"] = self_hash(older)
    from ddkit.format.manifest_file import parse_manifest

    with pytest.raises(FormatVersion, match="reads up to 2; pip install -U ddkit"):
        parse_manifest(json.dumps(older).encode(), lowrank_set.root / "ddkit.json")
    lower = data | {"format": 1}
    lower["self"] = self_hash(lower)
    with pytest.raises(IntegrityError, match="format is 1"):
        parse_manifest(json.dumps(lower).encode(), lowrank_set.root / "ddkit.json")


def test_sampled_labels_are_refused_before_the_first_batch(random_set, teacher, tmp_path):
    made = relabel(random_set.root, tmp_path / "sampled", teacher=teacher, codec="sampled:20", views=2, workers=1)
    with pytest.raises(OptionError, match="temperature 1, not 20"):
        ddkit.ReplayLoader(made.root, batch_size=4, temperature=20)
    assert ddkit.ReplayLoader(made.root, batch_size=4).temperature == 1
