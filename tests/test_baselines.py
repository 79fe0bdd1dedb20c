"""Baselines of `evaluate`: what each is trained on, bytes, paired differences, and the words where one is better."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddkit.core.serialization import read_dataclass, to_plain
from ddkit.errors import OptionError
from ddkit.evaluation.baselines import BASELINES, baseline_names
from ddkit.evaluation.equal_bytes import encoded_sizes, packed_bytes, source_of
from ddkit.evaluation.tables import evaluate
from ddkit.evaluation.training_data import half_precision_bytes, image_bytes
from ddkit.format.images import decode_image, encode_image
from ddkit.format.manifest_file import read_manifest, write_manifest
from ddkit.format.results import BASELINE_NAMES, ResultEntry, baseline_entry, with_earlier_differences
from ddkit.format.tars import tar_bytes
from ddkit.format.verification import directory_problems
from ddkit.networks.checkpoints import load_checkpoint
from ddkit.pipeline import distill
from ddkit.pipeline.record import load_record, work_dir
from ddkit.publishing.rendering import render_card
from ddkit.publishing.verdicts import SUBJECTS, short_name, verdicts


@pytest.fixture(scope="module")
def measured(rded_set, tmp_path_factory):
    """An RDED set of digits, evaluated with all baselines and two students of one epoch a row."""
    root = tmp_path_factory.mktemp("measured") / "rded"
    shutil.copytree(rded_set.root, root)
    shutil.copytree(f"{rded_set.root}.work", f"{root}.work")
    report = evaluate(
        root, val="digits", runs=2, epochs=1, workers=1, baseline="labeller,equal-bytes,hard,random", command="test"
    )
    return root, report


def sets_of_equal_bytes(root):
    return {made.name.split("-")[0]: read_manifest(made) for made in work_dir(root).glob("equal-bytes-*/*-*") if
            made.suffix != ".work"}  # fmt: skip


def test_names():
    assert baseline_names("labeller, random") == ("random", "labeller") and baseline_names(["hard"]) == ("hard",)
    for none in (None, "none", "off", [], ["none"]):
        assert baseline_names(none) == ()
    with pytest.raises(OptionError, match="unknown baseline 'equal' .did you mean equal-bytes.*hard, labeller, none"):
        baseline_names("random,equal")
    assert set(SUBJECTS) == set(BASELINE_NAMES) and all(short_name(name) != name for name in SUBJECTS if "-" in name)
    assert {name.split(" ")[0] for name in BASELINE_NAMES} == set(BASELINES)


def test_every_baseline_is_a_row_with_its_bytes_and_its_difference(measured, teacher):
    root, report = measured
    m = read_manifest(root)
    assert [(r.of, r.labels) for r in report] == [
        ("this", "stored"), ("random", "stored"), ("this", "hard"), ("equal-bytes", "hard"), ("equal-bytes", "stored"),
        ("this", "online"),
    ]  # fmt: skip
    ours, random, hard, bare, packed, labeller = report
    assert ours.total_bytes == m.total_bytes() and ours.images == random.images == hard.images == 30
    assert hard.total_bytes == image_bytes(m) < m.total_bytes()
    assert labeller.total_bytes == image_bytes(m) + half_precision_bytes(Path(teacher))
    assert bare.total_bytes <= ours.total_bytes and packed.total_bytes <= ours.total_bytes
    assert {r.ipc for r in report} == {3} and {r.n_students for r in report} == {2}
    assert ours.difference.to == "random"
    assert [d.to for d in ours.differences] == ["hard", "equal-bytes hard", "equal-bytes stored", "labeller"]
    for difference, theirs in zip(ours.compared(), report[1:]):
        assert difference.pairs == 2 and difference.mean == pytest.approx(ours.mean - theirs.mean, abs=0.011)
        assert baseline_entry(ours, difference.to, report) is theirs
    assert all(r.difference is None and r.differences == () for r in report[1:])
    assert read_manifest(root).results == report
    card = (root / "README.md").read_text()
    assert f"random, equal bytes ({bare.images} images)" in card and "this set minus:" in card


def test_images_of_equal_bytes_are_as_many_as_fit(measured):
    root, report = measured
    budget, made = read_manifest(root).total_bytes(), sets_of_equal_bytes(root)
    assert set(made) == {"hard", "stored"}  # what was made to measure bytes is deleted
    source = source_of(load_record(made["hard"].root))
    sizes = encoded_sizes(source, seed=0, size=32, most=10**9)
    assert len(sizes) == source.counts.min() and sizes.shape[1] == 10
    for kind, m in made.items():
        assert m.image.codec == "jpg" and m.image.size == 32 and m.real_pixels == "whole" and m.method == "random"
        assert image_bytes(m) == sizes[: m.ipc].sum()
        assert m.views.count == (1 if kind == "hard" else 5) and m.rows() == 10 * m.ipc
    hard = sizes.sum(1).cumsum()
    assert hard[made["hard"].ipc - 1] <= budget < hard[made["hard"].ipc]
    stored = made["stored"].ipc
    assert made["stored"].total_bytes() <= budget and stored < made["hard"].ipc
    larger = distill(
        root.parent / "larger", data="digits", method="random", ipc=stored + 1, protocol=made["stored"].protocol(),
        views=5, teacher=load_record(root).teacher, image_format="jpg", workers=1,
    )  # fmt: skip
    assert larger.total_bytes() > budget


def test_measuring_again_makes_and_trains_nothing(measured):
    root, report = measured
    files = {p: p.stat().st_mtime_ns for p in work_dir(root).rglob("*.safetensors")}
    again = evaluate(root, val="digits", runs=2, epochs=1, workers=1, baseline=list(BASELINES), command="test")
    assert again == report and {p: p.stat().st_mtime_ns for p in work_dir(root).rglob("*.safetensors")} == files


def test_the_command_prints_every_difference(measured):
    from typer.testing import CliRunner

    from ddkit.cli.app import app

    root, report = measured
    args = ["evaluate", str(root), "--val", "digits", "--runs", "2", "--epochs", "1", "--workers", "1"]
    found = CliRunner().invoke(app, [*args, "--baseline", "hard"], env={"COLUMNS": "300"})
    assert found.exit_code == 0, found.output
    assert (
        "minus random (95 %)" in found.output
        and "this, convnet3-w32, stored labels, minus hard labels: " in found.output
    )
    kept = read_manifest(root).results[0]  # the same students: their other differences are kept
    assert kept.difference == report[0].difference and {d.to for d in kept.compared()} == set(BASELINE_NAMES)
    wrong = CliRunner().invoke(app, [*args, "--baseline", "best"])
    assert wrong.exit_code != 0


def test_a_source_with_fewer_images_is_used_whole(photographs, tmp_path, capsys):
    from ddkit.testing import untrained_teacher

    teacher = str(untrained_teacher(tmp_path / "t.safetensors", classes=3))
    for number, name in enumerate(("ant", "bee", "cat")):
        (photographs / name).rename(photographs / str(number))
    m = distill(
        tmp_path / "set", data=str(photographs), method="random", ipc=2, size=32, views=300, protocol="demo",
        teacher=teacher, workers=1,
    )  # fmt: skip
    report = evaluate(tmp_path / "set", runs=1, epochs=1, workers=1, baseline="equal-bytes")
    entry = next(r for r in report if (r.of, r.labels) == ("equal-bytes", "hard"))
    assert entry.images == 15 and entry.total_bytes < m.total_bytes()  # 6 images a class, one of them held out
    assert "5 images per class, all that the smallest class of the source has" in capsys.readouterr().err


def test_baselines_that_cannot_be_made_are_left_out_with_a_note(random_set, tmp_path, capsys):
    copy = shutil.copytree(random_set.root, tmp_path / "copy")  # without OUT.work
    report = evaluate(copy, val="digits", runs=1, epochs=1, workers=1, baseline=list(BASELINES))
    assert [(r.of, r.labels) for r in report] == [("this", "stored"), ("this", "hard")]
    err = capsys.readouterr().err
    for name, lacking in (("random", "data and teacher"), ("equal-bytes", "data and teacher"), ("labeller", "teacher")):
        words = " and ".join(f"--{option}" for option in lacking.split(" and "))
        assert f"no baseline {name}, for want of {words}" in err
    one = evaluate(copy, val="digits", runs=1, epochs=1, workers=1, labels="hard", baseline="hard")
    assert [(r.of, r.labels, r.total_bytes) for r in one] == [("this", "hard", image_bytes(random_set))]


def test_equal_random_images_of_several_sets_are_labelled_once(small_teacher, tmp_path, capsys):
    given = {"data": "digits", "ipc": 2, "protocol": "demo", "views": 3, "teacher": small_teacher, "workers": 1}
    roots = [distill(tmp_path / method, method=method, **given).root for method in ("herding", "kcenter")]
    capsys.readouterr()
    evaluate(roots, val="digits", runs=1, epochs=1, workers=1, baseline="random")
    assert capsys.readouterr().err.count("views in") == 1
    first, second = (read_manifest(work_dir(root) / "baseline") for root in roots)
    assert first.content == second.content and not directory_problems(second.root)
    assert {path.name for path in tmp_path.rglob("*.copy")} == set()


def test_baselines_of_a_relabelled_set_are_labelled_alike(random_set, teacher, tmp_path):
    copy = Path(shutil.copytree(random_set.root, tmp_path / "copy"))
    shutil.copytree(f"{random_set.root}.work", tmp_path / "copy.work")
    protocol = tmp_path / "whole.toml"
    protocol.write_text('[views]\nscale = [1.0, 1.0]\nflip = 0.0\nmix = "none"\ncount = 2\n[train]\nepochs = 1\n')
    report = evaluate(
        copy, val="digits", runs=1, workers=1, protocol=str(protocol), teacher=teacher,
        baseline="equal-bytes,labeller",
    )  # fmt: skip
    assert [(r.of, r.labels) for r in report] == [
        ("this", "relabelled"), ("equal-bytes", "hard"), ("equal-bytes", "relabelled"), ("this", "online")
    ]  # fmt: skip
    made = sets_of_equal_bytes(copy)["stored"]
    assert made.views.count == 2 and made.views.mix == "none" and made.total_bytes() <= report[0].total_bytes


# ------------------------------------------------------------------ bytes


@given(seed=st.integers(0, 10**6), side=st.integers(1, 40), codec=st.sampled_from(["png", "webp"]))
@settings(max_examples=30, deadline=None)
def test_png_and_webp_are_lossless(seed, side, codec):
    pixels = np.random.default_rng(seed).integers(0, 256, (3, side, side), dtype=np.uint8)
    data = encode_image(pixels, codec)
    assert data == encode_image(pixels, codec) and (decode_image(data, codec, "x", side) == pixels).all()


@given(seed=st.integers(0, 10**6), side=st.integers(1, 40))
@settings(max_examples=30, deadline=None)
def test_a_jpg_is_decoded_like_it_was_encoded_and_has_quality_75(seed, side):
    import io

    from PIL import Image

    pixels = np.random.default_rng(seed).integers(0, 256, (3, side, side), dtype=np.uint8)
    data = encode_image(pixels, "jpg")
    assert data == encode_image(pixels, "jpg") and decode_image(data, "jpg", "x", side).shape == pixels.shape
    usual = io.BytesIO()
    Image.fromarray(pixels.transpose(1, 2, 0)).save(usual, "JPEG", quality=75)
    assert len(data) <= len(usual.getvalue())
    with Image.open(io.BytesIO(data)) as ours, Image.open(usual) as theirs:
        assert ours.quantization == theirs.quantization and ours.tobytes() == theirs.tobytes()


@given(sizes=st.lists(st.integers(1, 5000), min_size=1, max_size=60), views=st.integers(1, 20000))
@settings(max_examples=60, deadline=None)
def test_packed_bytes_are_those_of_the_tar(sizes, views):
    images = np.array(sizes, np.int64)[:, None]
    members = np.array([[1, size, views] for size in sizes], np.int64).ravel()
    assert packed_bytes(images, views, 32) == tar_bytes(members)


def test_half_precision_counts_every_number_of_the_network(teacher):
    network, _ = load_checkpoint(teacher)
    numbers = [*network.parameters(), *(b for b in network.buffers() if b.is_floating_point())]
    assert half_precision_bytes(Path(teacher)) == 2 * sum(tensor.numel() for tensor in numbers)


# ------------------------------------------------------------------ results and words

OURS = {
    "of": "this", "ipc": 2, "arch": "convnet3", "protocol": "demo", "labels": "stored", "val": "digits:test",
    "seeds": [0, 1], "n_sets": 1, "n_students": 2, "values": [[50.0, 52.0]], "mean": 51.0, "std": 1.41,
    "difference": None, "total_bytes": 4_200_000, "images": 20, "command": "ddkit evaluate x", "hardware": "a machine",
}  # fmt: skip


def entry(**values):
    return read_dataclass(ResultEntry, OURS | values)


def difference(to, mean, low, high):
    return {"mean": mean, "low": low, "high": high, "pairs": 2, "to": to}


def test_a_better_baseline_is_the_first_sentence_of_the_card(random_set, tmp_path):
    root = Path(shutil.copytree(random_set.root, tmp_path / "copy"))
    bare = entry(of="equal-bytes", labels="hard", mean=61.3, total_bytes=4_150_000, images=400)
    hard = entry(labels="hard", mean=55.0, total_bytes=20_000)
    ours = entry(differences=[
        difference("hard", -4.0, -9.0, 1.0), difference("equal-bytes hard", -10.3, -12.0, -8.6)
    ])  # fmt: skip
    results = (ours, hard, bare)
    sentence = (
        "Random real images with class labels alone that take no more bytes (400 images) train a better network: "
        "61.3 % with 4.2 MB against 51.0 % with 4.2 MB."
    )
    assert verdicts(ours, results) == [sentence]  # nothing is said of hard labels: the interval includes 0
    manifest = write_manifest(root, random_set.changed(results=results))
    card = render_card(manifest)
    body = card.split("\n# ", 1)[1].split("\n\n", 1)[1]
    assert body.lstrip().startswith(f"**{sentence}**")
    assert "hard labels: -4.00 [-9.00, +1.00]" in card and "| 20.0 kB |" in card
    few = entry(differences=to_plain(ours.differences), val_images=20)
    assert verdicts(few, (few, hard, bare)) == []
    assert verdicts(ours, (ours, hard)) == []  # without the entry of the baseline


def test_a_better_random_baseline_and_labeller_are_named(random_set):
    ours = entry(
        difference=difference("random", -3.0, -5.0, -1.0), differences=[difference("labeller", -8.0, -9.0, -7.0)]
    )
    results = (ours, entry(of="random", mean=54.0), entry(labels="online", mean=59.0, total_bytes=900_000))
    first, second = verdicts(ours, results)
    assert first.startswith("The same images, labelled by the teacher during training, train a better network: 59.0 %")
    assert second.startswith("Random real images, as many and with labels of the same teacher, train a better network")


def test_differences_of_the_same_students_are_kept():
    before = entry(
        difference=difference("random", 1.0, 0.0, 2.0),
        differences=[difference("hard", 3.0, 2.0, 4.0), difference("labeller", -1.0, -2.0, 0.0)],
    )
    now = entry(differences=[difference("hard", 3.5, 2.0, 5.0)], command="later")
    kept = with_earlier_differences(now, (before,))
    assert kept.difference == before.difference and [(d.to, d.mean) for d in kept.differences] == [
        ("hard", 3.5), ("labeller", -1.0),
    ]  # fmt: skip
    other = entry(values=[[50.0, 53.0]])
    assert with_earlier_differences(other, (before,)) is other and with_earlier_differences(now, ()) is now


def test_entries_of_older_versions_are_read_and_newer_keys_kept():
    """Version 0.6 has neither `images` nor `differences`, and keeps keys that it does not know."""
    older = {key: value for key, value in OURS.items() if key != "images"}
    found = read_dataclass(ResultEntry, older)
    assert found.images is None and found.differences == () and found.compared() == ()
    newer = read_dataclass(ResultEntry, OURS | {"later": [1]})
    assert to_plain(newer)["later"] == [1]
