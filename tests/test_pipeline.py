"""The same bytes however a run was made: at once, grown, killed, with more workers. Anything else is refused."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ddkit.core.device import device_class
from ddkit.core.files import host
from ddkit.core.serialization import to_plain
from ddkit.engine.units import UnitStore
from ddkit.errors import ClassesError, DiskError, IntegrityError, OptionError, OtherRun, TeacherError, TooCostly
from ddkit.format.manifest_file import read_manifest
from ddkit.format.verification import directory_problems
from ddkit.labelling import labels
from ddkit.networks.checkpoints import load_checkpoint
from ddkit.pipeline import describing, distill, distilling, relabel, synthesis_units
from ddkit.pipeline.costs import ask_cost, time_limit
from ddkit.testing import untrained_teacher


def tars(manifest):
    return {s.path: (manifest.root / s.path).read_bytes() for s in manifest.shards}


@pytest.fixture
def options(teacher):
    return {"data": "digits", "method": "random", "protocol": "demo", "views": 3, "teacher": teacher, "workers": 1}


def test_what_is_made(random_set):
    root = random_set.root
    assert sorted(p.name for p in root.iterdir()) == ["README.md", "_info.json", "data", "ddkit.json", "preview.png"]
    made = random_set
    assert made.name == "random-digits-ipc2" and made.real_pixels == "whole" and made.method == "random"
    assert made.source.id == "digits" and made.teacher.where == "teacher.safetensors"
    assert str(root.parent) not in (root / "ddkit.json").read_text() + (root / "README.md").read_text()
    assert made.labels.fidelity.top1_agreement > 0.99 and made.cost.relabel > 0


def test_growth_equals_one_run(tmp_path, options):
    one = distill(tmp_path / "one", prefixes=(1, 3), **options)
    grown = distill(tmp_path / "grown", ipc=1, **options)
    early = tars(grown)
    grown = distill(tmp_path / "grown", ipc=3)
    assert grown.content == one.content and grown.prefixes == (1, 3)
    assert early.items() <= tars(grown).items()
    assert {k: v for k, v in grown.to_json().items() if k not in ("self", "cost", "created_by")} == {
        k: v for k, v in one.to_json().items() if k not in ("self", "cost", "created_by")
    }


def test_growth_without_the_work_directory(tmp_path, options):
    one = distill(tmp_path / "one", prefixes=(1, 2), **options)
    distill(tmp_path / "grown", ipc=1, **options)
    shutil.rmtree(tmp_path / "grown.work")
    grown = distill(tmp_path / "grown", ipc=2, data="digits", teacher=options["teacher"], workers=1)
    assert grown.content == one.content
    assert to_plain(grown.labels.fidelity) == pytest.approx(to_plain(one.labels.fidelity))


def test_two_workers_make_the_same_bytes(tmp_path, options, rded_set):
    many = distill(
        tmp_path / "many", data="digits", method="rded", prefixes=(1, 3), settings={"pool": 6, "factor": 2},
        protocol="rded", views=5, teacher=options["teacher"], workers=2,
    )  # fmt: skip
    assert many.content == rded_set.content


def test_a_damaged_shard_is_packed_again_and_results_are_kept(tmp_path, options):
    from ddkit.format.manifest import License
    from ddkit.format.manifest_file import write_manifest

    made = distill(tmp_path / "out", ipc=1, **options)
    write_manifest(made.root, made.changed(license=License(id="mit", name=None, link=None)))
    tar = made.root / made.shards[0].path
    data = bytearray(tar.read_bytes())
    data[2100] ^= 1
    tar.write_bytes(data)
    again = distill(tmp_path / "out", workers=1)
    assert again.content == made.content and directory_problems(again.root) == []
    assert again.license.id == "mit"


def test_running_again_changes_nothing(tmp_path, options):
    first = distill(tmp_path / "out", ipc=1, **options)
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "data").iterdir()}
    again = distill(tmp_path / "out")
    assert again.content == first.content
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "data").iterdir()} == times


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 1}, "seed 0, not 1"),
        ({"method": "rded"}, "method random"),
        ({"views": 5}, "views 4, not 5"),
        ({"protocol": "common"}, "protocol demo"),
        ({"ipc": 1}, "ipc 2, not 1"),
        ({"prefixes": (1, 2, 3)}, "prefixes 2"),
        ({"size": 64}, "size"),
        ({"settings": {"x": 1}}, "x None"),
    ],
)
def test_another_run_in_the_same_place_is_refused(random_set, tmp_path, teacher, change, words):
    root = shutil.copytree(random_set.root, tmp_path / "random")
    shutil.copytree(f"{random_set.root}.work", tmp_path / "random.work")
    before = (root / "ddkit.json").read_bytes()
    with pytest.raises(OtherRun, match=f"{words}.*overwrite=True"):
        distill(root, workers=1, **change)
    assert (root / "ddkit.json").read_bytes() == before and directory_problems(root) == []


def test_overwrite_starts_over_and_spares_foreign_files(tmp_path, options):
    first = distill(tmp_path / "out", ipc=1, **options)
    (tmp_path / "out" / "notes.txt").write_text("mine")
    second = distill(tmp_path / "out", ipc=1, seed=5, overwrite=True, **options)
    assert second.content != first.content and (tmp_path / "out" / "notes.txt").read_text() == "mine"
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(OtherRun, match="not empty and not a distilled set"):
            distill(foreign, overwrite=overwrite, **options)
    assert [p.name for p in foreign.iterdir()] == ["thesis.tex"]
    with pytest.raises(OtherRun, match="is a file"):
        distill(foreign / "thesis.tex", **options)


def test_a_changed_source_is_noticed(photographs, tmp_path, teacher):
    from ddkit.testing import untrained_teacher

    guide = untrained_teacher(tmp_path / "t3.safetensors", classes=3)
    guide_classes(guide, ["ant", "bee", "cat"])
    given = {"data": str(photographs), "method": "random", "ipc": 2, "views": 2, "teacher": str(guide), "workers": 1}
    manifest = distill(tmp_path / "out", **given)
    assert manifest.source.holdout == 0.1 and manifest.image.size == 32
    (photographs / "ant" / "5.jpg").write_bytes((photographs / "bee" / "5.jpg").read_bytes())
    with pytest.raises(OtherRun, match="another source or teacher"):
        distill(tmp_path / "out", **given)


def guide_classes(path, names):
    """Give an untrained teacher other class names."""
    from dataclasses import replace

    from ddkit.networks.checkpoints import load_checkpoint, save_checkpoint

    network, spec = load_checkpoint(path)
    save_checkpoint(path, network, replace(spec, classes=tuple(names)))


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"data": "no/such/folder"}, None, "no such folder"),
        ({"data": None}, OptionError, "^data is missing"),
        ({"ipc": 0}, OptionError, "^ipc is 0"),
        ({"views": 0}, OptionError, "^views is 0"),
        ({"ipc": 500}, ClassesError, "needs 500 images in each class"),
        ({"method": "rdde"}, OptionError, "did you mean rded"),
        ({"protocol": "comon"}, OptionError, "did you mean common"),
        ({"recipe": "nope"}, OptionError, "rded-small"),
        ({"recipe": "rded-small"}, OptionError, "drop one"),
        ({"settings": {"factor": 2}}, OptionError, "factor"),
        ({"teacher": "none.safetensors"}, TeacherError, "ddkit teach"),
        ({"teacher": "train:nonet"}, OptionError, "unknown network"),
        ({"codec": "int9"}, OptionError, "fp16"),
        ({"image_format": "bmp"}, OptionError, "png"),
        ({"holdout": 1.5}, OptionError, "holdout is 1.5; it must be between 0 and 1"),
        ({"prefixes": (5, 2)}, OptionError, "increasing"),
        ({"prefixes": (5, 20), "ipc": 10}, OptionError, "above ipc 10"),
        ({"size": 64}, OptionError, "make them agree"),
        ({"split": "dev"}, None, "train, test"),
        ({"device": "warp"}, OptionError, "device cpu"),
    ],
)  # fmt: skip
def test_bad_input_leaves_nothing_behind(tmp_path, options, change, error, words):
    from ddkit.errors import InputError

    with pytest.raises(error or InputError, match=words):
        distill(tmp_path / "out", **(options | {"ipc": 1} | change))
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.work").exists()


def test_a_teacher_of_another_class_count(tmp_path, options):
    from ddkit.testing import untrained_teacher

    guide = untrained_teacher(tmp_path / "t.safetensors", classes=7)
    with pytest.raises(TeacherError, match="knows 7 classes, digits has 10.*ddkit teach"):
        distill(tmp_path / "out", **(options | {"teacher": str(guide)}))
    assert not (tmp_path / "out.work").exists()


def test_a_full_disk_is_one_line_and_nothing_is_lost(tmp_path, options, random_set, monkeypatch):
    import errno

    from ddkit.core import files

    real, calls = os.replace, []

    def full(source, target):
        calls.append(target)
        if len(calls) == 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(source, target)

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(DiskError, match="No space left on device.*MB free.*nothing is lost"):
        distill(tmp_path / "out", ipc=2, **(options | {"views": 4}))
    monkeypatch.setattr(files.os, "replace", real)
    assert distill(tmp_path / "out").content == random_set.content


KILLED = ["--data", "digits", "--method", "random", "--ipc", "8", "--protocol", "demo", "--views", "40"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, teacher):
    out = tmp_path_factory.mktemp("undisturbed") / "whole"
    given = {"data": "digits", "method": "random", "ipc": 8, "protocol": "demo", "views": 40, "teacher": teacher}
    return distill(out, workers=1, **given).content


@pytest.mark.parametrize("how", ["SIGKILL", "SIGINT"])
def test_stopped_and_again_makes_the_same_bytes(tmp_path, teacher, undisturbed, how):
    out = tmp_path / "out"
    command = [
        sys.executable,
        "-m",
        "ddkit",
        "distill",
        str(out),
        *KILLED,
        "--teacher",
        teacher,
        "--workers",
        "2",
    ]
    units = tmp_path / "out.work" / "units"
    for _ in range(5):  # on a busy machine it may be done before it is hit
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 120
        while not list(units.glob("images-*")) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.2)
        process.send_signal(getattr(signal, how))
        told = process.communicate()[1]
        if process.returncode != 0:
            break
        shutil.rmtree(out)
        shutil.rmtree(tmp_path / "out.work")
    assert not (out / "ddkit.json").exists()
    if how == "SIGINT":
        assert process.returncode == 130 and "Traceback" not in told
        assert told.splitlines()[-1] == "error: stopped; run the same command again to continue"
    else:
        assert process.returncode == -signal.SIGKILL
    again = distill(out, workers=1)
    assert again.content == undisturbed
    assert not [p for p in out.rglob("*") if p.name.endswith(".tmp")]


def test_what_no_manifest_lists_is_ignored_and_removed(tmp_path, options):
    manifest = distill(tmp_path / "out", ipc=1, **options)
    stray = tmp_path / "out" / "data" / "train-ipc009-00000.tar"
    stray.write_bytes(b"half")
    gone = subprocess.run([sys.executable, "-S", "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    dead = stray.with_name(f".x.tar.{host()}.{gone.stdout.strip()}.tmp")
    alive = stray.with_name(f".x.tar.{host()}.{os.getppid()}.tmp")
    elsewhere = stray.with_name(f".x.tar.another-machine.{gone.stdout.strip()}.tmp")
    own = stray.with_name("my notes.txt")
    for path in (dead, alive, elsewhere, own):
        path.write_bytes(b"half")
    assert directory_problems(manifest.root) == []
    assert distill(tmp_path / "out").content == manifest.content
    assert not stray.exists() and not dead.exists()
    assert alive.exists() and elsewhere.exists() and own.exists()


def test_costs_are_asked(capsys):
    ask_cost({"recover": 30.0, "select": 0.1, "relabel": 30.0}, 1e6, yes=False)
    told = capsys.readouterr().err
    assert "in all about 60 s on this machine: making the images 30 s, labelling the views 30 s; " in told
    assert "labels take 1.0 MB (estimated from up to 20 measured steps)" in told
    with pytest.raises(TooCostly, match="2 h 0 min.*fewer views.*yes=True"):
        ask_cost({"recover": 60.0, "relabel": 7140.0}, 1e6, yes=False)
    with pytest.raises(TooCostly, match="21.0 GB.*fewer views"):
        ask_cost({"recover": 1.0}, 21e9, yes=False)
    ask_cost({"recover": 1e9}, 1e12, yes=True)
    time_limit("teacher", False)(3000)
    with pytest.raises(TooCostly, match="yes=True"):
        time_limit("teacher", False)(4000)


# ------------------------------------------------------------------ relabelling


def test_relabelling_keeps_images_rows_and_shards(tmp_path, rded_set, teacher):
    new = relabel(rded_set.root, tmp_path / "new", teacher=teacher, protocol="demo", views=3, workers=1)
    assert directory_problems(new.root) == [] and new.views.count == 3 and new.views.protocol == "demo"
    assert [(s.path, s.rows) for s in new.shards] == [(s.path, s.rows) for s in rded_set.shards]
    assert new.relabelled_from.content == rded_set.content and new.results == ()
    from ddkit import ReplayLoader

    a, b = ReplayLoader(rded_set.root, batch_size=5), ReplayLoader(new.root, batch_size=5)
    assert all((a.stored(r)[0] == b.stored(r)[0]).all() and a.stored(r)[2] == b.stored(r)[2] for r in range(30))
    again = relabel(rded_set.root, tmp_path / "new", teacher=teacher, protocol="demo", views=3, workers=1)
    assert again.content == new.content
    with pytest.raises(OtherRun, match="another relabelling"):
        relabel(rded_set.root, tmp_path / "new", teacher=teacher, protocol="demo", views=4, workers=1)
    with pytest.raises(OtherRun, match="not empty"):
        relabel(rded_set.root, rded_set.root, teacher=teacher)


def test_relabelling_with_the_same_policy_gives_the_same_bytes(tmp_path, rded_set, teacher):
    same = relabel(rded_set.root, tmp_path / "same", teacher=teacher, workers=1)
    assert same.content == rded_set.content


def test_mixing_within_groups(tmp_path, random_set, teacher):
    listed = tmp_path / "groups.txt"
    listed.write_text("".join(f"{i}\t{'even' if i % 2 == 0 else 'odd'}\n" for i in range(10)))
    for choice in (str(listed), "2x5:3"):
        new = relabel(
            random_set.root, tmp_path / choice.replace("/", "_")[-9:], teacher=teacher, mix_within=choice, workers=1
        )
        groups = new.views.mix_groups
        assert sorted(groups) == [0] * 5 + [1] * 5
        from ddkit.replay.stores.memory import load_set

        rows = load_set(new)
        for row in range(20):
            for partner in rows.all_views.partner[row]:
                assert partner != row and groups[rows.labels[partner]] == groups[rows.labels[row]]
    for wrong, words in (("3x5:0", "is for 15 classes"), ("nope", "neither a file")):
        with pytest.raises(OptionError, match=words):
            relabel(random_set.root, tmp_path / "x", teacher=teacher, mix_within=wrong)
    listed.write_text("0\ta\n")
    with pytest.raises(OptionError, match="no line for class '1'"):
        relabel(random_set.root, tmp_path / "x", teacher=teacher, mix_within=str(listed))


def test_the_record_is_what_was_asked(tmp_path, options):
    distill(tmp_path / "out", ipc=1, **options)
    record = json.loads((tmp_path / "out.work" / "run.json").read_text())
    assert record["views"] == 3 and record["size"] == 32 and record["prefixes"] == [1]
    assert record["fingerprint"] == read_manifest(tmp_path / "out").fingerprint


def test_one_process_may_make_many_sets_in_one_place(tmp_path, options, random_set):
    """Caches of an earlier run in the same place never reach a later one."""
    given = options | {"views": 4, "ipc": 2}
    distill(tmp_path / "out", seed=5, **given)
    again = distill(tmp_path / "out", seed=0, overwrite=True, **given)
    assert again.content == random_set.content


def test_a_set_carries_a_protocol_that_came_from_a_file(tmp_path, teacher):
    from ddkit.evaluation.students import StudentOptions, plan_students

    file = tmp_path / "mine.toml"
    file.write_text('about = "mine"\n[views]\ncount = 2\n[train]\nepochs = 7\nbatch = 5\n')
    options = dict(data="digits", method="random", ipc=1, teacher=teacher, workers=1)
    made = distill(tmp_path / "here" / "set", protocol=str(file), **options)
    assert made.views.protocol == "mine" and str(tmp_path) not in json.dumps(made.to_json())
    shutil.move(tmp_path / "here" / "set", tmp_path / "set")
    file.unlink()
    moved = read_manifest(tmp_path / "set")
    (job,) = plan_students(moved, StudentOptions(), [0], tmp_path)
    assert (job.spec.epochs, job.spec.batch) == (7, 5)
    shipped = tmp_path / "common.toml"
    shipped.write_text("")
    with pytest.raises(OptionError, match="name of a shipped protocol; rename"):
        distill(tmp_path / "other", protocol=str(shipped), **options)


def test_damaged_work_is_made_again_and_a_damaged_record_is_named(tmp_path, teacher):
    options = dict(data="digits", method="random", ipc=1, views=1, protocol="demo", teacher=teacher, workers=1)
    made = distill(tmp_path / "set", **options)
    work = tmp_path / "set.work"
    for name in ("images-001-00000", "recover-1-0", "label-001-00000-0000", "pack-001-00000"):
        unit = UnitStore(str(work)).unit(name, None).path
        data = bytearray(unit.read_bytes())
        data[len(data) // 2] ^= 1
        unit.write_bytes(data)
        shutil.rmtree(made.root)
        assert distill(tmp_path / "set", workers=1).content == made.content, name
    (work / "run.json").write_text("{")
    with pytest.raises(IntegrityError, match=r"run.json is damaged"):
        distill(tmp_path / "set")


def test_labels_are_compared_with_the_teachers(random_set, teacher, tmp_path):
    from ddkit.errors import SetError
    from ddkit.pipeline.relabelling import label_problems

    assert label_problems(random_set, teacher, sample=60) == []
    other = untrained_teacher(tmp_path / "other.safetensors", arch="convnet4")
    with pytest.raises(SetError, match="not the set's teacher"):
        label_problems(random_set, str(other))
    spec = replace(random_set.teacher, hash=load_checkpoint(other)[1].hash)
    lying = random_set.changed(teachers=(spec,))
    assert len(label_problems(lying, str(other), sample=60)) == 5


@pytest.mark.parametrize("odd", [{"seed": 1.5}, {"ipc": "10"}, {"views": 2.0}, {"workers": 0}])
def test_wrong_types_are_one_line(tmp_path, odd):
    with pytest.raises(OptionError, match=f"^{next(iter(odd))} is"):
        distill(tmp_path / "x", data="digits", method="random", **odd)
    assert list(tmp_path.iterdir()) == []


def test_a_teacher_whose_logits_explode_is_named(tmp_path):
    from ddkit.errors import Diverged
    from ddkit.networks.checkpoints import save_checkpoint

    network, spec = load_checkpoint(untrained_teacher(tmp_path / "t.safetensors"))
    with torch.no_grad():
        network.classifier.weight.mul_(1e7)
    save_checkpoint(tmp_path / "t.safetensors", network, spec)
    with pytest.raises(Diverged, match="which labels cannot store"):
        distill(tmp_path / "x", data="digits", method="random", ipc=1, views=2, protocol="demo",
                teacher=str(tmp_path / "t.safetensors"), workers=1)  # fmt: skip


def test_somebodys_distiller_that_fails_is_said_to_be_his(tmp_path, teacher):
    import ddkit

    mine = tmp_path / "mine.py"
    theirs = (Path(ddkit.__file__).parent / "distillers" / "random.py").read_text()
    mine.write_text(theirs.replace("def run(", "def run(*_):\n    raise KeyError('oh')\n\n\ndef was_run("))
    options = {"data": "digits", "ipc": 1, "views": 2, "protocol": "demo", "teacher": teacher, "workers": 1}
    with pytest.raises(OptionError, match="raised KeyError.*its run"):
        distill(tmp_path / "x", method=str(mine), **options)


def test_every_device_that_computed_bytes_is_recorded(tmp_path, options, monkeypatch):
    given = options | {"engine": "local", "workers": 1}

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as earlier:
        for module in (synthesis_units, labels, describing):
            earlier.setattr(module, "device_class", lambda _: "cpu of the first machine")
        earlier.setattr(distilling, "packing_units", stop)
        with pytest.raises(KeyboardInterrupt):
            distill(tmp_path / "out", ipc=2, **given)
    made = distill(tmp_path / "out", ipc=2, **given)
    assert made.devices == ("cpu of the first machine",)  # the second one only packed
    grown = distill(tmp_path / "out", ipc=3)
    assert set(grown.devices) == {"cpu of the first machine", device_class(torch.device("cpu"))}
