"""What stock tools see: load_dataset both ways, webdataset, timm, and the card's own snippet, run from its text."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from jinja2 import UndefinedError

from ddkit import ReplayLoader, decode_row, verify
from ddkit.core.serialization import read_dataclass
from ddkit.engine.units import UnitStore
from ddkit.format.codecs.registry import find_codec
from ddkit.format.manifest import ClassInfo
from ddkit.format.manifest_file import read_manifest, write_manifest
from ddkit.format.results import ResultEntry
from ddkit.networks.registry import network_names
from ddkit.publishing import rendering
from ddkit.publishing.rendering import MANY_CLASSES, front_matter, publish_files, render_card, user_front_matter
from ddkit.publishing.user_content import user_content_of
from ddkit.testing import untrained_teacher

LOAD = """
import datasets, json, sys
root, out = sys.argv[1], {}
assert "ddkit" not in sys.modules
for name in ("default", "ipc1", "ipc3", "images"):
    table = datasets.load_dataset(root, name, split="train")
    stream = list(datasets.load_dataset(root, name, split="train", streaming=True))
    out[name] = {"n": len(table), "streamed": len(stream), "columns": table.column_names,
                 "streamed_columns": list(stream[0]), "names": table.features["cls"].names,
                 "keys": table["__key__"][:], "streamed_keys": [r["__key__"] for r in stream],
                 "labels": table["cls"][:], "size": table[0]["png"].size, "none": any(r["png"] is None for r in stream)}
print(json.dumps(out))
"""


def test_load_dataset_in_a_fresh_process_without_ddkit(rded_set):
    run = subprocess.run([sys.executable, "-c", LOAD, str(rded_set.root)], capture_output=True, text=True, check=True)
    found = json.loads(run.stdout.splitlines()[-1])
    for name, rows in (("default", 30), ("ipc1", 10), ("ipc3", 30), ("images", 30)):
        columns = ["png", "cls", "views.safetensors", "__key__"]
        if name == "images":
            columns.remove("views.safetensors")
        facts = found[name]
        assert (facts["n"], facts["streamed"]) == (rows, rows)
        assert facts["columns"] == facts["streamed_columns"] == columns
        assert facts["names"] == rded_set.class_names and facts["size"] == [32, 32] and not facts["none"]
        assert facts["keys"] == facts["streamed_keys"] == [f"{i:08d}" for i in range(rows)]
        assert np.bincount(facts["labels"]).tolist() == [rows // 10] * 10


def test_the_card_of_very_many_classes_has_their_names_once(random_set):
    """The Hub refuses large cards; ImageNet-21K's names, once for each of twelve configs, would take six megabytes."""
    from datasets.info import DatasetInfosDict
    from huggingface_hub import DatasetCard

    classes = tuple(ClassInfo(name=f"class {i} of many, second name: {i}", id=f"n{i:08d}") for i in range(10_450))
    few = render_card(random_set.changed(classes=classes[:MANY_CLASSES]))
    card = render_card(random_set.changed(classes=classes, prefixes=tuple(range(1, 11)), ipc=10))
    assert len(card.encode()) < 800_000 and "&id" not in few and "<summary>The 1000 classes" in few
    assert user_content_of(card, user_front_matter).broken is None
    infos = DatasetInfosDict.from_dataset_card_data(DatasetCard(card).data)
    assert set(infos) == {"default", "images", *(f"ipc{n}" for n in range(1, 11))}
    for info in infos.values():
        assert info.features["cls"].names == [c.name for c in classes]


def test_a_missing_sample_is_noticed_by_load_dataset(rded_set, tmp_path):
    import datasets

    root = shutil.copytree(rded_set.root, tmp_path / "copy")
    first = root / rded_set.shards[0].path
    blank = bytes(1024)
    first.write_bytes(first.read_bytes()[: 5 * 512] + blank)
    with pytest.raises(datasets.exceptions.NonMatchingSplitsSizesError):
        datasets.load_dataset(str(root), split="train")


def snippet(manifest):
    text = (manifest.root / "README.md").read_text()
    return next(block for block in code_blocks(text) if "def replay(" in block)


def code_blocks(text):
    return [part.split("```")[0] for part in text.split("```python\n")[1:]]


def replayed_like_the_card(manifest, monkeypatch, views, temperature=None, exactly=True):
    monkeypatch.chdir(manifest.root.parent)
    names: dict = {}
    exec(snippet(manifest), names)
    loader = ReplayLoader(manifest.root, batch_size=manifest.rows(), batch="dict", temperature=temperature)
    rng = np.random.default_rng(0)
    compared = 0
    while compared < views:
        epoch = int(rng.integers(manifest.views.policy.count))
        loader.set_epoch(epoch)
        batch = next(iter(loader))
        for i in rng.integers(0, manifest.rows(), 40):
            pixels, logits = names["replay"](int(batch["rows"][i]), epoch)
            assert torch.equal(pixels, batch["pixel_values"][i])
            if exactly:
                assert torch.equal(logits, batch["teacher_logits"][i])
            else:  # a network's last bits depend on the size of the batch
                assert torch.allclose(logits, batch["teacher_logits"][i], atol=1e-4)
            compared += 1


def test_the_snippet_gives_the_loaders_pixels(rded_set, random_set, monkeypatch):
    assert len(snippet(rded_set).splitlines()) <= 48
    replayed_like_the_card(rded_set, monkeypatch, 1000)
    replayed_like_the_card(random_set, monkeypatch, 200)


@pytest.mark.parametrize(
    "codec", ["int8", "topk:3", "lowrank:4", "lowrank:5:i4+top2", "lowrank:3:f16", "sampled:20", "teacher"]
)
def test_every_codec_has_its_snippet(codec, random_set, teacher, tmp_path, monkeypatch):
    from ddkit.pipeline import relabel

    made = relabel(
        random_set.root, tmp_path / f"set-{codec.replace(':', '-')}", teacher=teacher, codec=codec, views=3, workers=1
    )
    assert made.labels.codec == codec and verify(made.root) == []
    assert made.labels.temperature == (1.0 if codec.startswith("sampled") else 20.0)
    replayed_like_the_card(made, monkeypatch, 80, None, exactly=codec != "teacher")
    tensors = find_codec(codec).tensors
    card = (made.root / "README.md").read_text()
    assert all(f"`{name}`" in card for name in tensors)
    if codec != "teacher" and not codec.startswith("sampled"):
        table = next(block for block in code_blocks(card) if "decode_row" in block)
        assert ("labels=shared" in table) == bool(made.labels.file)


def test_cards_know_every_network_of_ours():
    assert all(rendering._SHOWN_ARCH.fullmatch(name) for name in network_names())


@pytest.mark.parametrize("arch", ["convnet3", "convnet3-in", "convnet4-w64"])
def test_a_carried_convnet_has_its_snippet(arch, random_set, tmp_path, monkeypatch):
    from ddkit.pipeline import relabel

    teacher = str(untrained_teacher(tmp_path / "t.safetensors", arch=arch))
    made = relabel(random_set.root, tmp_path / "set", teacher=teacher, codec="teacher", views=2, workers=1)
    replayed_like_the_card(made, monkeypatch, 40, exactly=False)


def test_the_snippet_replays_mixup(random_set, teacher, tmp_path, monkeypatch):
    from ddkit.pipeline import relabel

    protocol = tmp_path / "mixup.toml"
    protocol.write_text('[views]\nmix = "mixup"\nmix_alpha = 0.8\ncount = 3\n')
    mixed = relabel(random_set.root, tmp_path / "mixed", teacher=teacher, protocol=str(protocol), workers=1)
    replayed_like_the_card(mixed, monkeypatch, 120)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_webdataset_reads_the_shards(rded_set):
    import gc

    import webdataset

    urls = [str(rded_set.root / shard.path) for shard in rded_set.shards]
    rows = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False).decode("pil"))
    gc.collect()  # webdataset leaves its files open
    assert [row["__key__"] for row in rows] == [f"{i:08d}" for i in range(30)]
    ours = decode_row(rows[11])
    assert ours["label"] == rows[11]["cls"] and ours["logits"].shape == (5, 10)
    assert (ours["image"].numpy() == np.asarray(rows[11]["png"]).transpose(2, 0, 1)).all()


@pytest.mark.filterwarnings(
    "ignore:Use 'content=:DeprecationWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
    "ignore::ResourceWarning",
)
def test_every_usage_on_the_card_runs_from_its_own_text(hub, rded_set, tmp_path, monkeypatch, capsys):
    """A stranger's way: the card of a pushed set is fetched, and every command and snippet on it is run."""
    import gc
    import re

    import datasets
    from huggingface_hub import constants

    from ddkit.cli import app
    from ddkit.hub import fetch
    from ddkit.publishing.pushing import push

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    copy = shutil.copytree(rded_set.root, tmp_path / "sent")
    push(copy, "lab/rded", license="mit")
    monkeypatch.chdir(tmp_path)
    card = fetch("lab/rded", "README.md").read_text()
    load = re.search(r"`(load_dataset\(.*\))` \|", card)[1]
    table = eval(load, {"load_dataset": datasets.load_dataset})
    assert table.column_names == ["image", "label", "views.safetensors", "__key__"]
    part = re.search(r"`(load_dataset\(.*?\))` fetches", card)[1]
    assert len(eval(part, {"load_dataset": datasets.load_dataset})["train"]) == 10
    commands = re.findall(r"`ddkit ([^`]+)`", card)
    assert {c.split()[0] for c in commands} == {"train", "pull", "verify", "evaluate"}
    for words in (c.split() for c in commands if not c.startswith("evaluate")):
        monkeypatch.setattr(sys, "argv", ["ddkit", *words, *(["--epochs", "1"] if words[0] == "train" else [])])
        assert app.run() == 0, capsys.readouterr().err
    blocks = code_blocks(card)
    assert len(blocks) == 4
    found = [{}, {}, {}, {}]
    for block, names in zip(blocks, found):
        exec(block, names)
    gc.collect()
    assert [found[0]["loader"].rows, len(found[2]["dataset"]), found[3]["x"].shape] == [30, 30, (3, 32, 32)]
    assert found[1]["views"]["logits"].shape == (5, 10)


def test_timm_reads_the_shards(rded_set):
    from timm.data.readers.reader_wds import _load_info, _parse_split_info

    split = _parse_split_info("train", _load_info(str(rded_set.root)))
    assert split.num_samples == 30 and split.shard_lengths == (10, 20)
    assert all((rded_set.root / name).is_file() for name in split.filenames)


def test_the_front_matter_is_complete(rded_set):
    text = (rded_set.root / "README.md").read_text()
    head = yaml.safe_load(text.split("---\n")[1])
    assert head == front_matter(rded_set)
    assert [c["config_name"] for c in head["configs"]] == ["default", "ipc1", "ipc3", "images"]
    assert [c.get("default", False) for c in head["configs"]] == [True, False, False, False]
    assert not any("*" in path for c in head["configs"] for f in c["data_files"] for path in f["path"])
    counts = {i["config_name"]: i["splits"][0]["num_examples"] for i in head["dataset_info"]}
    assert counts == {"default": 30, "ipc1": 10, "ipc3": 30, "images": 30}
    assert {"dataset-distillation", "webdataset", "ipc-3", "ddkit"} <= set(head["tags"])


def test_every_number_comes_from_the_manifest(rded_set):
    text = render_card(rded_set)
    for fact in (rded_set.source.fingerprint, rded_set.teacher.hash, rded_set.content, "Not evaluated"):
        assert fact in text
    assert "made of crops of real images" in text and "load_dataset(" in text
    broken = rded_set.changed(source=SimpleNamespace(id="x"))
    with pytest.raises(UndefinedError):
        render_card(broken)


RESULT = {
    "of": "this", "ipc": 2, "arch": "convnet3", "protocol": "demo", "labels": "stored", "val": "digits:test",
    "seeds": [0, 1], "n_sets": 1, "n_students": 2, "values": [[50.0, 52.0]], "mean": 51.0, "std": 1.41,
    "difference": {"mean": 3.5, "low": -1.0, "high": 8.0, "pairs": 2, "to": "random"}, "total_bytes": 1000,
    "seconds": 3.0, "command": "ddkit evaluate x", "hardware": "a machine",
}  # fmt: skip


def results(*values):
    return tuple(read_dataclass(ResultEntry, value) for value in values)


def test_results_are_shown_with_their_conditions(random_set, tmp_path):
    root = Path(shutil.copytree(random_set.root, tmp_path / "copy"))
    manifest = write_manifest(root, random_set.changed(results=results(RESULT)))
    publish_files(manifest)
    text = (root / "README.md").read_text()
    assert "51.00 ± 1.41" in text and "+3.50 [-1.00, +8.00]" in text and "1 × 2" in text
    assert "`ddkit evaluate x`, seeds 0, 1, a machine" in text and "Not evaluated" not in text


def test_pictures_are_drawn(rded_set, tmp_path):
    from PIL import Image

    from ddkit.publishing.pictures import curves, preview_grid, view_strip

    (tmp_path / "grid.png").write_bytes(preview_grid(rded_set))
    view_strip(rded_set, tmp_path / "strip.png")
    curves({"a": [{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.0, "accuracy": 50.0}]}, tmp_path / "c.png")
    for name in ("grid", "strip", "c"):
        with Image.open(tmp_path / f"{name}.png") as image:
            assert image.width > 200 and len(np.unique(np.asarray(image.convert("L")))) > 20
    with Image.open(rded_set.root / "preview.png") as image:
        assert image.height > 4 * 64 and image.width > 9 * 64  # three blocks of four classes, three images each


def test_the_rows_remember_where_they_come_from(rded_set):
    loader = ReplayLoader(rded_set.root, batch_size=1)
    assert loader.rows == 30
    made = UnitStore(f"{rded_set.root}.work").unit("images-003-00000", "-")
    origins = replace(made, key=None).read()[1]["origins"]  # whatever its key
    assert origins[0]["kind"] == "patches" and len(origins[0]["rows"]) == 4
    assert read_manifest(rded_set.root).real_pixels == "crops"


def test_results_of_a_part_are_said_to_be_of_a_part(rded_set, tmp_path):
    root = Path(shutil.copytree(rded_set.root, tmp_path / "copy"))
    result = {
        "of": "this", "ipc": 1, "arch": "convnet3", "protocol": "rded", "labels": "stored", "val": "digits:test",
        "seeds": [0, 1], "n_sets": 1, "n_students": 2, "values": [[50.0, 50.0]], "mean": 50.0, "std": 0.0,
        "difference": None, "total_bytes": 1000, "seconds": 3.0, "command": "ddkit evaluate x --ipc 1",
        "hardware": "a machine",
    }  # fmt: skip
    text = render_card(write_manifest(root, rded_set.changed(results=results(result))))
    assert "the first 1 images per class, 10 images" in text and "these 10" not in text
    assert "| images per class |" in text.split("## Results")[1]
    one = result | {"seeds": [0], "n_students": 1, "values": [[50.0]]}  # too little to lead with, told all the same
    text = render_card(write_manifest(root, rded_set.changed(results=results(one))))
    assert "reaches 50.00" not in text and "one student" in text and "these 10" not in text
    assert "| images per class |" in text.split("## Results")[1]


def test_only_what_people_write_inside_the_marks_is_told(rded_set, tmp_path, capsys):
    root = Path(shutil.copytree(rded_set.root, tmp_path / "copy"))
    card = root / "README.md"
    publish_files(read_manifest(root))
    card.write_text(card.read_text() + "\nAfter the marks.\n")
    publish_files(read_manifest(root))
    assert "is replaced" not in capsys.readouterr().err and "After the marks." in card.read_text()
    card.write_text(card.read_text().replace("## Citation", "Inside the marks.\n\n## Citation"))
    publish_files(read_manifest(root))
    assert "is replaced" in capsys.readouterr().err and "Inside the marks." not in card.read_text()


def leaves(value):
    """Every number of a manifest."""
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from leaves(inner)
    elif type(value) in (int, float):
        yield value


def test_every_number_in_words_and_tables_is_the_manifests(rded_set, tmp_path):
    """Each is a number there, rounded or in percent; a count of classes, rows or bytes; or a row's number."""
    import re

    root = Path(shutil.copytree(rded_set.root, tmp_path / "copy"))
    difference = {"mean": 3.57, "low": -1.04, "high": 8.18, "pairs": 2, "to": "random"}
    values = {"values": [[51.3, 52.9]], "mean": 52.1, "std": 1.13}
    row = RESULT | {"ipc": 3, "protocol": "rded", "difference": difference} | values
    random = row | {"of": "random", "mean": 48.53, "std": 2.29, "difference": None}
    manifest = write_manifest(root, rded_set.changed(results=results(row, random)))
    data, text = manifest.to_json(), render_card(manifest)
    known = set(leaves(data)) | {
        len(data["classes"]),
        65535,
        8,
        95,
        *range(10),
    }  # fixed: unmixed, bits, interval, names
    known |= {r["ipc"] * len(data["classes"]) for r in data["results"]} | {manifest.rows(p) for p in manifest.prefixes}
    sizes = [sum(s.bytes for s in manifest.shards_of(p)) for p in manifest.prefixes]
    known |= {size / unit for size in sizes for unit in (1, 1e3, 1e6, 1e9)} | {n / m for n in (2,) for m in (1, 2)}
    body = re.sub(
        r"<!--.*?-->|<details>.*?</details>|```.*?```|`[^`]*`|\]\([^)]*\)|arXiv \S+|\n#[^\n]*",
        " ",
        text.split("---\n", 2)[2],
        flags=re.DOTALL,
    )
    found = re.findall(r"(?<![\w.])[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?(?![\w])", body)
    assert len(found) > 40
    for number in found:
        digits = len(number.partition(".")[2].partition("e")[0])
        near = 0.5 * 10.0**-digits * (1 if "e" not in number else 10.0 ** int(number.partition("e")[2])) + 1e-9
        values = [v for k in known for v in (k, 100 * k)]
        assert any(abs(abs(float(number)) - abs(v)) <= near for v in values), f"{number} is not in the manifest"
