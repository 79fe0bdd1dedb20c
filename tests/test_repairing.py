"""Whatever is damaged at random is found, and restored byte for byte from what still holds it; the rest is named."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants

import ddkit
from ddkit.cli.app import run as run_command
from ddkit.errors import FormatVersion, IntegrityError, SetError
from ddkit.format.manifest import License
from ddkit.format.manifest_file import read_manifest, write_manifest
from ddkit.format.row_records import parse_rows
from ddkit.format.verification import directory_problems
from ddkit.mutator import BYTES, KINDS, MANIFEST, ROWS, damage
from ddkit.pipeline import distill, relabel
from ddkit.publishing.pushing import push
from ddkit.testing import untrained_teacher

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
SHARD, IMAGES = "data/train-ipc002-00000.tar", "images/train-ipc002-00000.tar"
ROWS_FILE = "data/train-ipc002-00000.rows"


def tree(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def is_found(root: Path) -> bool:
    try:
        return bool(directory_problems(root))
    except (IntegrityError, FormatVersion):
        return True


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def set_back(root: Path, files: dict[str, bytes], paths) -> None:
    for path in paths:
        (root / path).write_bytes(files[path])


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    teacher = untrained_teacher(tmp_path_factory.mktemp("teacher") / "teacher.safetensors", classes=4)
    return {
        "data": "digits", "classes": "0,1,2,3", "method": "random", "protocol": "demo", "teacher": str(teacher),
        "workers": 1,
    }  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory, options):
    """Three shards with `images/` tars; not to be changed by tests."""
    return distill(tmp_path_factory.mktemp("sets") / "set", prefixes=(1, 2, 3), ipc=3, views=200, **options)


@pytest.fixture
def made(whole, tmp_path):
    """A copy with its OUT.work, which was made elsewhere."""
    shutil.copytree(f"{whole.root}.work", tmp_path / "set.work")
    return shutil.copytree(whole.root, tmp_path / "set")


@pytest.fixture
def pulled(whole, tmp_path):
    """A copy without OUT.work."""
    return shutil.copytree(whole.root, tmp_path / "set")


def test_an_intact_set_is_left_alone(made):
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    assert ddkit.repair(made) == ddkit.repair(made, made) == ddkit.pipeline.repairing.Repaired((), (), ())
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*")} == before


def test_every_kind_of_damage_is_found_and_restored_from_the_work_directory(made):
    files = tree(made)
    for number, kind in enumerate(KINDS * 2):
        times = {path: (made / path).stat().st_mtime_ns for path in files}
        done = damage(made, kind, np.random.default_rng(number))
        assert is_found(made), done
        repaired = ddkit.repair(made)
        assert (repaired.lost, repaired.problems) == ((), ()), (done, repaired)
        assert {file.path for file in repaired.restored} == set(done.paths), done
        assert tree(made) == files, done
        assert all((made / path).stat().st_mtime_ns == times[path] for path in files if path not in done.paths)
    assert not list(made.parent.glob("set.work/repairing*"))


@pytest.mark.parametrize("seed", range(4))
def test_two_damaged_copies_make_a_whole_one(pulled, whole, tmp_path, seed):
    """Each has other damaged files; the manifest is in one of them."""
    rng, files = np.random.default_rng(seed), tree(pulled)
    other = shutil.copytree(whole.root, tmp_path / "other")
    done = [damage(pulled, kind, rng) for kind in rng.choice([*BYTES, *ROWS], 3)]
    done.append(damage(pulled, str(rng.choice(list(MANIFEST))), rng))
    held = {path for one in done for path in one.paths}
    for path in sorted(set(read_manifest(other).files()) - held)[::2]:
        flip(other / path, int(rng.integers(len(files[path]))))
    before = tree(other)
    repaired = ddkit.repair(pulled, other)
    assert repaired.problems == () and {file.path for file in repaired.restored} == held, done
    assert tree(pulled) == files and tree(other) == before
    assert not (tmp_path / "set.work").exists()


def test_the_hub_restores_everything(hub, pulled, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    push(pulled, "lab/digits", license="mit")
    files = tree(pulled)
    for path in ("ddkit.json", SHARD, ROWS_FILE, IMAGES, "README.md", "preview.png"):
        (pulled / path).unlink()
    flip(pulled / "data/train-ipc001-00000.rows", 9)
    hub.forget_traffic()
    repaired = ddkit.repair(pulled, "lab/digits")
    assert repaired.problems == () and tree(pulled) == files
    fetched = {r.split("/resolve/")[1].partition("/")[2] for r in hub.requests if r.startswith("GET") and ".tar" in r}
    assert fetched == {SHARD}  # its images are those of the `images/` tar
    assert ddkit.repair(pulled).restored == ()


@pytest.mark.parametrize("path", [ROWS_FILE, IMAGES])
def test_records_and_images_are_made_from_the_shard_alone(pulled, path):
    files = tree(pulled)
    for spoil in (lambda file: file.unlink(), lambda file: file.write_bytes(b""), lambda file: flip(file, 300)):
        spoil(pulled / path)
        assert is_found(pulled)
        (restored,) = ddkit.repair(pulled).restored
        assert (restored.path, restored.source) == (path, "the set") and tree(pulled) == files


def test_a_shard_is_restored_from_its_own_members(pulled):
    """Headers, padding, order and images of its `images/` tar: what needs neither OUT.work nor a copy."""
    files, shard = tree(pulled), pulled / SHARD
    first, last = (parse_rows(files[ROWS_FILE], "")[i] for i in (0, -1))
    for at in (0, 600, first.image.offset - 300, first.image.offset, last.image.offset + 9, len(files[SHARD]) - 1):
        flip(shard, at)
        flip(shard, first.views.offset - 400)
        assert ddkit.repair(pulled).problems == () and tree(pulled) == files
    for kind in ("reordered rows", "duplicated row", "swapped rows", "swapped shards"):
        for seed in range(3):
            done = damage(pulled, kind, np.random.default_rng(seed))
            assert ddkit.repair(pulled).problems == () and tree(pulled) == files, done


def test_what_is_lost_is_named_and_left_as_it_is(pulled):
    files = tree(pulled)
    record = parse_rows(files[ROWS_FILE], "")[2]
    flip(pulled / SHARD, record.views.offset + 50)
    flip(pulled / IMAGES, 600)
    (pulled / "data/train-ipc003-00000.rows").write_text("")
    (pulled / "data/train-ipc003-00000.tar").unlink()
    before = tree(pulled)
    repaired = ddkit.repair(pulled)
    assert [file.path for file in repaired.restored] == [IMAGES]
    lost = {file.path: file.missing for file in repaired.lost}
    assert lost[SHARD] == f"views.safetensors of row {record.row:08d}" and len(repaired.problems) == 2
    assert set(lost) == {SHARD, "data/train-ipc003-00000.rows", "data/train-ipc003-00000.tar"}
    assert "both the shard and its row records" in lost["data/train-ipc003-00000.tar"]
    assert all(file.remedy == "--from ORG/NAME" for file in repaired.lost)
    assert tree(pulled) == before | {IMAGES: files[IMAGES]}


def test_units_restore_the_rows_that_they_hold(made):
    """A damaged unit of OUT.work costs its own rows alone; its shard needs none of them if they are intact."""
    files = tree(made)
    for unit in made.parent.glob("set.work/units/label-001-*.unit"):
        unit.unlink()
    damage(made, "deleted shard", np.random.default_rng(0))
    flip(made / "data/train-ipc001-00000.tar", 520)
    assert not ddkit.repair(made).lost and tree(made) == files
    (made / "data/train-ipc001-00000.tar").unlink()
    (lost,) = ddkit.repair(made).lost
    assert lost.missing == ", ".join(f"views.safetensors of row {row:08d}" for row in range(4))


def test_bytes_of_another_set_are_not_taken(pulled, random_set, whole, tmp_path):
    files = tree(pulled)
    evil = shutil.copytree(whole.root, tmp_path / "evil")
    flip(evil / SHARD, 700)
    flip(evil / ROWS_FILE, 20)
    (pulled / SHARD).unlink()
    (pulled / ROWS_FILE).unlink()
    repaired = ddkit.repair(pulled, evil)
    assert {file.path for file in repaired.lost} == {SHARD, ROWS_FILE} and not repaired.restored
    assert f"another --from than {evil}" in repaired.lost[0].remedy and not (pulled / SHARD).exists()
    set_back(pulled, files, [SHARD, ROWS_FILE])
    (pulled / "ddkit.json").write_text("{}")
    with pytest.raises(IntegrityError, match="does not hold the manifest of this set"):
        ddkit.repair(pulled, random_set.root)
    assert (pulled / "ddkit.json").read_text() == "{}"
    with pytest.raises(SetError, match="no directory nowhere"):
        ddkit.repair(pulled, "nowhere")


def test_a_manifest_that_contradicts_intact_shards_is_not_taken(whole, tmp_path, options):
    relabelled = relabel(whole.root, tmp_path / "relabelled", teacher=options["teacher"], seed=5, workers=1)
    smaller = distill(tmp_path / "smaller", ipc=1, views=whole.views.count, **options)
    copy = shutil.copytree(whole.root, tmp_path / "copy")
    (copy / "ddkit.json").write_text("{}")
    files = tree(copy)
    for other in (relabelled, smaller):
        with pytest.raises(
            IntegrityError, match=r"does not hold the manifest of this set \(data.* are of another set\)"
        ):
            ddkit.repair(copy, other.root)
        assert tree(copy) == files
    flip(copy / SHARD, 700)  # damage beside it is no other set
    assert not ddkit.repair(copy, whole.root).lost and tree(copy) == tree(whole.root)


def test_the_manifest_comes_back_as_it_was_written_last(made, tmp_path):
    write_manifest(made, read_manifest(made).changed(license=License(id="mit", name=None, link=None)))
    text = (made / "ddkit.json").read_bytes()
    newer = text.replace(b'"format": 1', b'"format": 9')  # its own hash shows that no newer ddkit wrote it
    for spoilt in (None, newer, text[:-9], b""):
        (made / "ddkit.json").unlink() if spoilt is None else (made / "ddkit.json").write_bytes(spoilt)
        assert [file.path for file in ddkit.repair(made).restored] == ["ddkit.json"]
        assert (made / "ddkit.json").read_bytes() == text
    (made / "ddkit.json").unlink()
    shutil.rmtree(tmp_path / "set.work")
    with pytest.raises(SetError, match="not a finished distilled set.*repair"):
        ddkit.repair(made)


@pytest.mark.parametrize("codec", ["lowrank:4+top1", "teacher"])
def test_labels_that_all_rows_share(tmp_path, options, codec):
    made = distill(tmp_path / "set", prefixes=(1, 2), ipc=2, views=4, codec=codec, **options)
    files, shared = tree(made.root), made.root / made.labels.file.path
    for number, kind in enumerate(["byte", "truncation", "deleted shard", "hash in the manifest"]):
        damage(made.root, kind, np.random.default_rng(number))
        shared.write_bytes(files[shared.name][:-1])
        repaired = ddkit.repair(made.root, teacher=options["teacher"] if codec == "teacher" else None)
        assert repaired.problems == () and tree(made.root) == files
    shared.unlink()
    for unit in (tmp_path / "set.work/units").glob("label-*"):
        unit.unlink()
    (lost,) = ddkit.repair(made.root).lost
    assert lost.path == shared.name
    assert ("--teacher" in lost.remedy) if codec == "teacher" else ("not all in OUT.work" in lost.missing)


def test_a_teacher_that_is_not_the_sets_is_refused(tmp_path, options):
    made = distill(tmp_path / "set", ipc=1, views=2, codec="teacher", **options)
    (made.root / "teacher.safetensors").unlink()
    with pytest.raises(SetError, match="not the set's teacher"):
        ddkit.repair(made.root, teacher=str(untrained_teacher(tmp_path / "t.safetensors", arch="convnet4", classes=4)))


def test_a_relabelled_set_is_restored_from_its_own_units(whole, tmp_path, options):
    made = relabel(whole.root, tmp_path / "again", teacher=options["teacher"], views=2, seed=1, workers=1)
    files = tree(made.root)
    for path in [*(made.root / "data").iterdir(), *(made.root / "images").iterdir(), made.root / "ddkit.json"]:
        path.unlink()
    assert ddkit.repair(made.root).problems == () and tree(made.root) == files


def command(capsys, monkeypatch, *words) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["ddkit", *map(str, words)])
    code = run_command()
    return code, *capsys.readouterr()


def test_the_command_says_what_it_did(pulled, whole, capsys, monkeypatch):
    assert "nothing to repair; 12 rows" in command(capsys, monkeypatch, "repair", pulled)[1]
    (pulled / ROWS_FILE).unlink()
    code, out, _ = command(capsys, monkeypatch, "repair", pulled)
    assert code == 0 and f"{ROWS_FILE}: restored from the set" in out and "1 files restored" in out and "next: " in out
    (pulled / SHARD).unlink()
    (pulled / ROWS_FILE).unlink()
    code, out, err = command(capsys, monkeypatch, "verify", pulled)
    assert code == 4 and f"`ddkit repair {pulled}`" in err
    code, out, err = command(capsys, monkeypatch, "repair", pulled, "--json")
    assert code == 4 and {file["path"] for file in json.loads(out)["lost"]} == {SHARD, ROWS_FILE}
    assert err.count("\n") == 1 and "2 files are still damaged" in err and "--from ORG/NAME" in err
    code, out, _ = command(capsys, monkeypatch, "repair", pulled, "--from", whole.root)
    assert code == 0 and f"{SHARD}: restored from {whole.root}" in out
