"""What is resumed or kept is never another run's: for each kind, one input is changed at a time."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import photograph

import ddkit.networks.training as training
from ddkit.core.files import read_sealed
from ddkit.engine import Local
from ddkit.errors import OptionError, OtherRun, TeacherError
from ddkit.evaluation.baselines import Subject, make_baseline, random_baseline
from ddkit.evaluation.students import StudentOptions, plan_students
from ddkit.evaluation.tables import run_students
from ddkit.evaluation.training_data import TrainingData
from ddkit.networks.checkpoints import load_checkpoint, save_checkpoint, tensor_hash
from ddkit.pipeline import distill, relabel
from ddkit.sources.images import open_source
from ddkit.sources.validation import ValidationRef
from ddkit.specs import EvalTransform, Protocol
from ddkit.students.training import train_student
from ddkit.teachers.resolving import TeacherChoice
from ddkit.teachers.teaching import teach
from ddkit.testing import untrained_teacher


class Stopped(Exception):
    pass


def stop(epochs):
    """For `on_epoch`: stops after so many."""
    done = 0

    def told(n, earlier=False):
        nonlocal done
        done += n
        if done >= epochs:
            raise Stopped

    return told


def weights(path):
    return load_checkpoint(path)[1].hash


@pytest.fixture
def often(monkeypatch):
    """A training saves its state after every epoch."""
    monkeypatch.setattr(training, "SAVE_EVERY_S", 0.0)


# ------------------------------------------------------------------ students of `train`


def student(manifest, out, seed=0, **changed):
    options = {"arch": "convnet3", "epochs": 4} | changed
    (job,) = plan_students(manifest, StudentOptions(**options), [seed], out)
    return job


def test_a_stopped_training_goes_on(random_set, tmp_path, often):
    train_student(student(random_set, tmp_path / "whole"))
    with pytest.raises(Stopped):
        train_student(student(random_set, tmp_path / "s"), on_epoch=stop(2))
    told = []
    train_student(student(random_set, tmp_path / "s"), on_epoch=lambda n, earlier=False: told.append((n, earlier)))
    assert told[0] == (2, True)
    assert weights(tmp_path / "s.safetensors") == weights(tmp_path / "whole.safetensors")
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith("s") or p.name.startswith(".")) == [
        "s.jsonl", "s.safetensors"
    ]  # fmt: skip


@pytest.mark.parametrize(
    "changed", [{"labels": "hard"}, {"seed": 1}, {"epochs": 5}, {"ipc": 1}, {"arch": "convnet3-in"}, {"set": 1}]
)
def test_another_student_never_continues_it(random_set, rded_set, tmp_path, often, changed):
    """Labels, seed, epochs, prefix, network or set: the weights are those of a training that was never begun before."""
    with pytest.raises(Stopped):
        train_student(student(rded_set, tmp_path / "s"), on_epoch=stop(2))
    other = dict(changed)
    manifest = random_set if other.pop("set", 0) else rded_set
    train_student(student(manifest, tmp_path / "s", **other))
    train_student(student(manifest, tmp_path / "fresh", **other))
    assert weights(tmp_path / "s.safetensors") == weights(tmp_path / "fresh.safetensors")


def test_a_damaged_state_is_not_continued(random_set, tmp_path, often, capsys):
    with pytest.raises(Stopped):
        train_student(student(random_set, tmp_path / "s"), on_epoch=stop(2))
    (state,) = tmp_path.glob(".s.*.state")
    data = bytearray(state.read_bytes())
    data[len(data) // 2] ^= 1
    state.write_bytes(data)
    train_student(student(random_set, tmp_path / "s"))
    train_student(student(random_set, tmp_path / "fresh"))
    assert weights(tmp_path / "s.safetensors") == weights(tmp_path / "fresh.safetensors")
    assert "starting from the beginning" in capsys.readouterr().err


def test_the_default_name_tells_labels_and_seed(random_set, tmp_path, monkeypatch):
    from ddkit import train

    monkeypatch.chdir(tmp_path)
    for options in ({}, {"labels": "hard"}, {"seed": 3}, {"labels": "hard", "seed": 3}):
        train(random_set.root, epochs=1, **options)
    assert sorted(p.name.removeprefix("random-digits-ipc2-convnet3-w32") for p in tmp_path.glob("*.safetensors")) == [
        "-hard-s3.safetensors", "-hard.safetensors", "-s3.safetensors", ".safetensors"
    ]  # fmt: skip


# ------------------------------------------------------------------ students of `evaluate`


@pytest.fixture
def folder(tmp_path):
    """Small photographs of two classes, to measure on."""
    for label in range(10):
        (tmp_path / "val" / str(label)).mkdir(parents=True)
        for i in range(2):
            photograph(10 * label + i, 32, 32).save(tmp_path / "val" / str(label) / f"{i}.png")
    return tmp_path / "val"


def test_a_kept_result_is_of_the_same_images(random_set, tmp_path, folder):
    def job():
        made = student(random_set, tmp_path / "x", val=ValidationRef(data=str(folder)), epochs=1)
        return replace(made, out=str(tmp_path / f"s-{made.result_key[:8]}"))

    first = job()
    run_students([first], Local())
    assert job().out == first.out
    written = Path(first.out + ".json").stat().st_mtime_ns
    run_students([first], Local())
    assert Path(first.out + ".json").stat().st_mtime_ns == written
    photograph(999, 32, 32).save(folder / "3" / "0.png")
    assert job().out != first.out
    Path(first.out + ".json").write_text('{"accuracy": 99.0, "seconds": 1, "epochs": 1, "history": []}')
    assert run_students([first], Local())[first.out].accuracy != 99.0


def test_the_teacher_counts_by_its_weights_and_normalisation(random_set, tmp_path):
    def key():
        return student(random_set, tmp_path / "s", labels="online", teacher=str(tmp_path / "t.safetensors")).key

    network, spec = load_checkpoint(untrained_teacher(tmp_path / "t.safetensors"))
    first = key()
    save_checkpoint(tmp_path / "t.safetensors", network, replace(spec, mean=(0.1, 0.2, 0.3)))
    second = key()
    with torch.no_grad():
        network.classifier.weight.mul_(2)
    save_checkpoint(tmp_path / "t.safetensors", network, spec)
    assert len({first, second, key()}) == 3


# ------------------------------------------------------------------ teachers


def test_a_stopped_teacher_is_not_another(tmp_path, often, monkeypatch):
    (tmp_path / "r.toml").write_text("epochs = 2\nbatch = 128\nmin_steps = 0\n")
    options = dict(data="digits", arch="convnet3", recipe=str(tmp_path / "r.toml"), size=16, classes="0,1")

    def fails(images, *_):
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(training, "learning_rate", lambda spec, step, *a: fails(0) if step >= 3 else 1.0)
        with pytest.raises(Stopped):
            teach(tmp_path / "t.safetensors", **options)
    assert list(tmp_path.glob(".t.safetensors.*.state"))
    for changed in ({"seed": 1}, {"classes": "0,2"}, {"holdout": 0.2}):
        teach(tmp_path / "t.safetensors", **(options | changed))
        teach(tmp_path / "fresh.safetensors", **(options | changed))
        assert weights(tmp_path / "t.safetensors") == weights(tmp_path / "fresh.safetensors")


def test_a_damaged_teacher_in_the_cache_is_made_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DDKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("ddkit.teachers.resolving.teacher_recipe", lambda *a: replace(_quick()))
    source = open_source("digits", classes="0,1")

    def ask(seed=0):
        choice = TeacherChoice("train:convnet3", 32)
        return choice.train(source, seed=seed, device=torch.device("cpu"), what="digits").path

    path = ask()
    before = path.read_bytes()
    for at in (len(before) // 2, 300):  # a weight; its normalisation or classes
        data = bytearray(before)
        data[at] ^= 1
        path.write_bytes(data)
        with pytest.raises(TeacherError):
            load_checkpoint(path)
        assert ask() == path and path.read_bytes() == before
    assert "it is trained again" in capsys.readouterr().err
    assert ask(seed=1) != path


def _quick():
    from ddkit.specs import TrainSpec

    return TrainSpec(loss="ce", epochs=1, batch=64)


# ------------------------------------------------------------------ distilling


@pytest.fixture
def options(teacher):
    return {"data": "digits", "method": "random", "protocol": "demo", "views": 2, "teacher": teacher, "workers": 1}


def forget(out):
    """What a user may delete: the set and the record of the run; its units stay."""
    shutil.rmtree(out)
    (out.with_name(out.name + ".work") / "run.json").unlink()


@pytest.mark.parametrize(
    "changed",
    [{"seed": 1}, {"views": 3}, {"classes": "3,4,5,6,7,8,9,0,1,2"}, {"holdout": 0.2}, {"prefixes": (1, 2)},
     {"method": "herding"}, {"protocol": "rded"}],
)  # fmt: skip
def test_units_of_another_run_are_not_taken(tmp_path, options, changed):
    first = distill(tmp_path / "o", ipc=2, **options)
    forget(tmp_path / "o")
    again = distill(tmp_path / "o", **({"ipc": 2} | options | changed))
    fresh = distill(tmp_path / "fresh", **({"ipc": 2} | options | changed))
    assert again.content == fresh.content != first.content


def test_a_teacher_that_normalises_otherwise_is_another(tmp_path, options):
    network, spec = load_checkpoint(options["teacher"])
    mine = tmp_path / "t.safetensors"
    save_checkpoint(mine, network, spec)
    distill(tmp_path / "o", ipc=1, **(options | {"teacher": str(mine)}))
    save_checkpoint(mine, network, replace(spec, mean=(0.1, 0.2, 0.3)))
    with pytest.raises(OtherRun, match="mean and std"):
        distill(tmp_path / "o", ipc=2)
    shutil.rmtree(tmp_path / "o.work")
    with pytest.raises(OtherRun, match="mean and std"):
        distill(tmp_path / "o", ipc=2, data="digits", teacher=str(mine))
    relabel(tmp_path / "o", tmp_path / "r", teacher=options["teacher"], workers=1)
    with pytest.raises(OtherRun, match="another relabelling"):
        relabel(tmp_path / "o", tmp_path / "r", teacher=str(mine), workers=1)
    save_checkpoint(mine, network, replace(spec, eval=EvalTransform(resize=48, crop=32)))
    with pytest.raises(OtherRun, match="another relabelling"):
        relabel(tmp_path / "o", tmp_path / "r", teacher=str(mine), workers=1)
    with pytest.raises(OtherRun, match="resize and crop"):
        distill(tmp_path / "o", ipc=2, data="digits", teacher=str(mine))


def test_a_method_of_a_file_counts_by_what_is_in_it(tmp_path, options, teacher):
    import ddkit

    mine = tmp_path / "mine.py"
    text = (Path(ddkit.__file__).parent / "distillers" / "random.py").read_text().replace('"random"', '"mine"', 1)
    mine.write_text(text)
    distill(tmp_path / "o", ipc=1, **(options | {"method": str(mine)}))
    with pytest.raises(OptionError, match="a method from a file; give that file with method"):
        distill(tmp_path / "o", ipc=2)
    mine.write_text(text + "\n# another\n")
    with pytest.raises(OtherRun, match="another version of"):
        distill(tmp_path / "o", ipc=2, method=str(mine))
    mine.write_text(text)
    assert distill(tmp_path / "o", ipc=2, method=str(mine)).ipc == 2


def test_an_edited_method_of_a_file_is_run_as_it_is_now_by_workers_too(tmp_path, options):
    import ddkit

    mine = tmp_path / "mine.py"
    text = (Path(ddkit.__file__).parent / "distillers" / "random.py").read_text()
    text = text.replace('"random"', '"mine"', 1).replace("classes_a_unit=16", "classes_a_unit=2")
    mine.write_text(text)
    asked = options | {"method": str(mine), "ipc": 1}
    first = distill(tmp_path / "first", **(asked | {"workers": 2}))
    mine.write_text(text.replace(".numpy()", ".numpy() // 2"))
    two, one = (distill(tmp_path / f"by-{n}", **(asked | {"workers": n})) for n in (2, 1))
    assert first.content != two.content == one.content


def test_a_protocol_of_a_file_counts_by_what_is_in_it(tmp_path, options):
    mine = tmp_path / "own.toml"
    shipped = Path(training.__file__).parents[1] / "protocols" / "demo.toml"
    mine.write_text(shipped.read_text())
    made = distill(tmp_path / "o", ipc=1, **(options | {"protocol": str(mine)}))
    mine.write_text(shipped.read_text().replace("epochs = 60", "epochs = 61"))
    with pytest.raises(OtherRun, match="another protocol own"):
        distill(tmp_path / "o", ipc=2, protocol=str(mine))
    mine.unlink()  # the record and the set hold it themselves
    grown = distill(tmp_path / "o", ipc=2)
    assert grown.recommended == made.recommended
    assert Protocol.from_table(grown.recommended.definition, "x").name == "own"


def test_passes_over_the_source_are_kept_by_run_and_whole(tmp_path, options):
    two = str(untrained_teacher(tmp_path / "two.safetensors", classes=2))
    made = distill(tmp_path / "o", ipc=1, **(options | {"method": "herding", "classes": "0,1", "teacher": two}))
    kept = list((tmp_path / "o.work" / "once").iterdir())
    assert kept
    for path in kept:
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    for path in (tmp_path / "o.work" / "units").iterdir():
        path.unlink()
    shutil.rmtree(tmp_path / "o")
    assert distill(tmp_path / "o").content == made.content


def test_times_that_are_damaged_begin_anew(tmp_path, options, capsys):
    made = distill(tmp_path / "o", ipc=1, **options)
    (tmp_path / "o.work" / "cost.json").write_text("{")
    grown = distill(tmp_path / "o", ipc=2)
    assert "not counted" in capsys.readouterr().err and grown.cost.recover >= 0 <= made.cost.teach


def test_a_baseline_is_of_the_same_source_and_teacher(tmp_path, options, capsys):
    made = distill(tmp_path / "o", ipc=1, **(options | {"method": "herding"}))
    assert make_baseline(made).method == "random"
    shutil.rmtree(tmp_path / "o.work")
    other = untrained_teacher(tmp_path / "other.safetensors", arch="convnet4")
    data = TrainingData(of="this", labels="stored", manifest=made)
    assert random_baseline(Subject(given=made, data=data, source="digits", teacher=str(other))) == []
    assert "is not the one the set was made with" in capsys.readouterr().err


# ------------------------------------------------------------------ hashes of files


def test_a_file_edited_in_place_is_seen(tmp_path, photographs):
    before = open_source(str(photographs)).fingerprint
    path = photographs / "ant" / "0.jpg"
    stat, data = path.stat(), bytearray(path.read_bytes())
    data[-10] ^= 1
    with open(path, "r+b") as file:
        file.write(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_size == stat.st_size and path.stat().st_mtime_ns == stat.st_mtime_ns
    assert open_source(str(photographs)).fingerprint != before


@pytest.mark.parametrize("kind", ["parquet", "shards"])
def test_a_table_or_shard_edited_in_place_is_seen(tmp_path, photographs, kind):
    """Also what `datasets` keeps of it, and the row records of an exported source."""
    from ddkit import export

    for out, turn in (("a", False), ("b", True)):
        if turn:  # the same images under other classes, in a table of the same size
            (photographs / "ant").rename(photographs / "x")
            (photographs / "bee").rename(photographs / "ant")
            (photographs / "x").rename(photographs / "bee")
        export(str(photographs), tmp_path / out, as_=kind)
    first = open_source(str(tmp_path / "a"))
    before = first.fingerprint, [first.read(i).tobytes() for i in range(3)]
    for path in (p for p in (tmp_path / "a").rglob("*") if p.is_file()):
        stat, other = path.stat(), tmp_path / "b" / path.relative_to(tmp_path / "a")
        with open(path, "r+b") as file:
            file.write(other.read_bytes())
            file.truncate()
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    for rehash in (False, True):
        again = open_source(str(tmp_path / "a"), rehash=rehash)
        assert again.fingerprint == open_source(str(tmp_path / "b")).fingerprint != before[0]
        assert [again.read(i).tobytes() for i in range(3)] != before[1]


def test_damaged_or_doubted_hashes_are_made_again(tmp_path, photographs):
    source = open_source(str(photographs))
    fingerprint, cached = source.fingerprint, source._cached_hashes()[0]
    data = bytearray(cached.read_bytes())
    data[-1] ^= 1
    cached.write_bytes(data)
    assert open_source(str(photographs)).fingerprint == fingerprint
    written = cached.stat().st_mtime_ns
    assert open_source(str(photographs)).fingerprint == fingerprint and cached.stat().st_mtime_ns == written
    assert open_source(str(photographs), rehash=True).fingerprint == fingerprint
    assert cached.stat().st_mtime_ns > written


def test_what_does_not_decode_is_asked_again_where_the_answer_is_damaged(photographs):
    (photographs / "ant" / "0.jpg").write_bytes(b"\xff\xd8\xffno")
    source = open_source(str(photographs))
    bad = source.unreadable()
    place, key = source._checked()
    assert len(bad) == 1 and json.loads(read_sealed(place, key))
    place.write_text("{}")
    assert open_source(str(photographs)).unreadable() == bad


@pytest.mark.parametrize(
    "odd",
    [{"accuracy": 1e300}, {"measured_on": "a\x1b[2J"}, {"arch": "convnet3\x1b"}, {"mean": (1e300, 0, 0)},
     {"std": (1e-300, 1, 1)}, {"image_size": 4096}, {"arch": "timm:vit_giant_patch14_224"},
     {"eval": EvalTransform(resize=10**6, crop=32)}],
)  # fmt: skip
def test_a_teacher_that_no_manifest_can_name_is_refused_at_once(tmp_path, odd):
    network, spec = load_checkpoint(untrained_teacher(tmp_path / "t.safetensors"))
    save_checkpoint(tmp_path / "odd.safetensors", network, replace(spec, **odd))
    with pytest.raises(TeacherError):
        load_checkpoint(tmp_path / "odd.safetensors")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn])
def test_a_teacher_of_any_real_numbers_is_taken(tmp_path, dtype):
    from safetensors.torch import save_file

    from ddkit.networks.checkpoints import read_weights

    state, told = read_weights(untrained_teacher(tmp_path / "t.safetensors"))
    small = {name: value.to(dtype) if value.is_floating_point() else value for name, value in state.items()}
    told.pop("sha256")
    save_file(small, tmp_path / "small.safetensors", {"ddkit": json.dumps(told)})
    assert load_checkpoint(tmp_path / "small.safetensors")[1].hash == tensor_hash(small) != tensor_hash(state)


def test_a_hash_of_weights_tells_one_bit():
    tensor = torch.zeros(3)
    first = tensor_hash({"a": tensor})
    tensor.numpy().view(np.uint32)[0] ^= 1
    assert tensor_hash({"a": tensor}) != first
