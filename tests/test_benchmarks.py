"""Benchmarks at their smallest scale, stopping and continuing; exports are sources again; what replay.py compares."""

import importlib
import json
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.special import softmax

from ddkit import ReplayLoader
from ddkit.errors import IntegrityError, OptionError, OtherRun
from ddkit.format.codecs.interface import centred
from ddkit.format.resampling import resample
from ddkit.format.view_pixels import normalise
from ddkit.sources.exporting import export
from ddkit.sources.images import open_source

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))


def test_an_exported_source_is_the_same_source(photographs, tmp_path):
    assert export(str(photographs), tmp_path / "out") == 18
    before, after = open_source(str(photographs)), open_source(str(tmp_path / "out"))
    assert after.class_names == before.class_names and after.fingerprint == before.fingerprint
    assert (after.read(7) == before.read(7)).all()
    with pytest.raises(OtherRun, match="not empty"):
        export(str(photographs), tmp_path / "out")
    shard = tmp_path / "out" / "data" / "train-00000.tar"
    data = bytearray(shard.read_bytes())
    data[700] ^= 1
    shard.write_bytes(data)
    with pytest.raises(IntegrityError, match="row 0"):
        open_source(str(tmp_path / "out")).read(0)


def test_stock_readers_open_an_export(tmp_path):
    import datasets

    export("digits", tmp_path / "out")
    rows = datasets.load_dataset(
        "webdataset", data_files=str(tmp_path / "out" / "data" / "test-*.tar"), split="train", cache_dir=str(tmp_path)
    )
    assert len(rows) == 355 and rows[0]["cls"] in range(10) and rows[0]["png"].size == (32, 32)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # where the alarm hits a callback
def test_the_gpu_benchmark_runs_tiny_and_continues(toy_source, tmp_path, monkeypatch):
    import gpu

    monkeypatch.chdir(tmp_path)
    args = ["--data", str(toy_source), "--tiny", "--device", "cpu", "--work", "work", "--out", "gpu.json"]
    assert gpu.main([*args, "--minutes", "0.0001"]) == 3
    assert gpu.main([*args, "--minutes", "9"]) == 0
    found = json.loads(Path("gpu.json").read_text())
    second = {"cudd-1-seed1", "random-1-seed1"}
    assert set(found["rows"]) == {"teacher", "speed", "cudd-1", "random-1", "cudd-2", "random-2", "rded-1"} | second
    assert found["command"].startswith("python benchmarks/gpu.py") and found["versions"]["torch"]
    assert found["rows"]["cudd-2"]["n_students"] == 2


def test_the_contenders_of_replay_show_the_same_views(random_set, tmp_path):
    """The papers' loader and plain webdataset, up to JPEG and the resampling of PIL; timm draws its own crops."""
    import replay_contenders as contenders

    loader, seen = ReplayLoader(random_set, batch_size=20, device="cpu"), random_set.normalisation
    crops = [resample(torch.from_numpy(image), boxes[0], 32) for image, boxes, _ in map(loader.stored, range(20))]
    wanted = normalise(torch.stack(crops), seen.mean, seen.std)
    logits = torch.stack([torch.from_numpy(loader.view(row, 0)[1]) for row in range(20)])

    def check(images, found):
        rows = (found.float()[:, None] - logits).abs().sum(-1).argmin(1)
        assert torch.equal(logits[rows], found.float()) and len(set(rows.tolist())) == len(images)
        assert (images - wanted[rows]).abs().mean((1, 2, 3)).max() < 0.2  # another row or crop: about 1

    papers = contenders.papers(random_set, tmp_path, 10)
    (labels,) = tmp_path.glob("papers-labels-*")
    folder = contenders.FkdFolder(tmp_path / "papers-images", labels, 32, seen.mean, seen.std)
    for number, indices in enumerate(contenders.epoch_batches(20, 10, torch.Generator().manual_seed(42))):
        images, record = folder.__getitems__([(0, number, indices)])
        check(images, record["logits"])
    plain = contenders.plain_webdataset(random_set, tmp_path, 5)
    for contender, batch in ((papers, 10), (plain, 5), (contenders.timm_reader(random_set, tmp_path, 5), 5)):
        with closing(contender.batches()) as batches:
            images, found = next(batches)
        assert images.shape == (batch, 3, 32, 32) and len(found) == batch
        if contender is plain:
            check(images, found)


def test_the_benchmark_of_bytes_runs_tiny_and_continues(teacher, tmp_path, monkeypatch):
    run = importlib.import_module("bytes").main
    monkeypatch.chdir(tmp_path)
    args = ["--teacher", teacher, "--methods", "random", "--ipc", "1", "--views", "2", "--runs", "1", "--epochs", "1"]
    run([*args, "--steps", "1", "--out", "bytes.json"])
    found = json.loads(Path("bytes.json").read_text())
    points = {point["baseline"]: point for point in found["points"]}
    assert set(points) >= {None, "hard", "equal-bytes hard", "labeller"} and "random" not in points
    assert points["equal-bytes hard"]["bytes"] <= points[None]["bytes"] and found["conditions"]["data"] == "digits"
    with Image.open("bytes.png") as picture:
        assert picture.width > 500
    other = found["points"][0] | {"method": "herding"}
    Path("bytes.json").write_text(json.dumps(found | {"points": [other, *found["points"]]}))
    run([*args, "--steps", "1", "--out", "bytes.json"])  # reads everything back
    assert json.loads(Path("bytes.json").read_text()) == found | {"points": [other, *found["points"]]}
    kept = importlib.import_module("bytes")._kept
    assert kept(Path("bytes.json"), found["conditions"], ["random"], {1}) == [other]
    assert kept(Path("bytes.json"), found["conditions"] | {"views": 3}, ["random"], {1}) == []


@given(st.integers(1, 6), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_labels_that_are_cut_as_fkd_does_are_the_largest_probabilities_divided_by_their_sum(k, seed):
    import fkd_codec

    codec = fkd_codec.Renormalised(k)
    logits = centred(np.random.default_rng(seed).normal(size=(5, 6)) * 3).astype(np.float16).astype(np.float32)
    stored = codec.encode(logits, {}, np.random.default_rng(0))
    found = softmax(codec.decode(stored, 6, 1.0, {}).astype(np.float64), axis=-1)
    p = softmax(logits.astype(np.float64), axis=-1)
    largest = np.take_along_axis(p, stored["index"].astype(int), axis=-1)  # of equal ones, which are kept is free
    assert np.array_equal(np.sort(largest, axis=-1), np.sort(p, axis=-1)[:, -k:])
    kept = np.zeros_like(p)
    np.put_along_axis(kept, stored["index"].astype(int), largest, axis=-1)
    assert np.allclose(found, kept / kept.sum(-1, keepdims=True), atol=1e-6)
    assert codec.bytes_per_view(6) == 4 * k and codec.problem({n: t[None] for n, t in stored.items()}, 6, True) is None
    with pytest.raises(OptionError, match="temperature 1"):
        codec.decode(stored, 6, 20.0, {})
