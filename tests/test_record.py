"""A record is this user's, or it is somebody's words: then no file that it names is opened, and none is run."""

import json
import shutil
import sys

import pytest

from ddkit.core.serialization import canonical
from ddkit.errors import IntegrityError, OptionError, OtherRun
from ddkit.evaluation.baselines import make_baseline
from ddkit.evaluation.students import default_validation
from ddkit.format.manifest import self_hash
from ddkit.format.manifest_file import read_manifest
from ddkit.pipeline import distill, relabel
from ddkit.pipeline.record import load_record

EVIL = "open('ran', 'w').write('it ran')\n"


@pytest.fixture
def options(teacher):
    return {"data": "digits", "method": "random", "protocol": "demo", "views": 2, "teacher": teacher, "workers": 1}


@pytest.fixture
def received(random_set, tmp_path, monkeypatch):
    """A set that came from somebody, in the current folder, beside files that it may name."""
    root = shutil.copytree(random_set.root, tmp_path / "set")
    monkeypatch.chdir(root)
    for name in ("evil.py", "evil.toml", "evil.safetensors", "evil.txt"):
        (root / name).write_text(EVIL)
    (root / "photos").mkdir()
    opened = []
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" and armed else None)
    armed = [1]
    yield root, opened
    armed.clear()


def rewrite(root, edit):
    path = root / "ddkit.json"
    data = json.loads(path.read_text())
    edit(data)
    path.write_text(canonical(data | {"self": self_hash(data)}) + "\n")


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda d: d.update(method="evil.py"), "a method from a file"),
        (lambda d: d.update(method="evil"), "a method from a file"),
        (lambda d: d["teachers"][0].update(where="evil.safetensors"), r"teacher \(it was called 'evil"),
        (lambda d: d["teachers"][0].update(where="timm:resnet18@evil.safetensors"), r"teacher \(it was called 'timm"),
        (lambda d: d["source"].update(id="photos"), r"give data \(it was called 'photos'"),
        (lambda d: d["recipe"].update(classes="evil.txt"), r"classes \(it was called 'evil"),
    ],
)
def test_a_manifest_names_and_opens_nothing(received, edit, words):
    root, opened = received
    rewrite(root, edit)
    with pytest.raises(OptionError, match=words):
        distill(".", ipc=3, workers=1)
    assert not (root / "ran").exists() and not [name for name in opened if "evil" in name or "photos" in name]


def test_a_protocol_of_a_manifest_is_no_file(received, teacher):
    root, opened = received
    rewrite(root, lambda d: d["views"].update(protocol="evil.toml"))
    with pytest.raises(OptionError, match=r"unknown protocol 'evil.toml'"):
        distill(".", ipc=3, workers=1, data="digits", teacher=teacher)
    assert not [name for name in opened if name.endswith("evil.toml")]


def test_a_record_that_came_with_a_set_is_as_little_trusted(received, options, tmp_path, monkeypatch):
    """Everything in OUT.work/run.json is true, but for who wrote it."""
    root, opened = received
    made = distill(tmp_path / "mine", ipc=1, **options)
    text = (tmp_path / "mine.work" / "run.json").read_text()
    shutil.rmtree(root)
    shutil.copytree(made.root, root)
    monkeypatch.chdir(root)
    work = root.with_name("set.work")
    shutil.copytree(tmp_path / "mine.work", work)
    assert not load_record(root).foreign
    for key, value in {"method": "evil.py", "teacher": str(root / "evil.safetensors"), "data": str(root / "photos"),
                       "protocol": "evil.toml", "classes": "evil.txt"}.items():  # fmt: skip
        for name in ("evil.py", "evil.toml", "evil.safetensors", "evil.txt"):
            (root / name).write_text(EVIL)
        (work / "run.json").write_text(canonical(json.loads(text) | {key: value}))
        opened.clear()
        assert load_record(root).foreign
        with pytest.raises(OptionError):
            distill(root, ipc=2, workers=1)
        assert not (root / "ran").exists() and not [name for name in opened if "evil." in name], key
    (work / "run.json").write_text(canonical(json.loads(text) | {"data": str(root / "photos")}))
    assert make_baseline(read_manifest(root)) is None and default_validation(read_manifest(root)) is None
    (work / "run.json").write_text(text)
    assert distill(root, ipc=2, workers=1).ipc == 2


def test_without_the_signing_key_options_are_given_again(tmp_path, options, monkeypatch):
    made = distill(tmp_path / "o", ipc=1, **options)
    monkeypatch.setenv("DDKIT_CACHE", str(tmp_path / "another-cache"))
    with pytest.raises(OptionError, match="give teacher"):
        distill(tmp_path / "o", ipc=2)
    grown = distill(tmp_path / "o", ipc=2, teacher=options["teacher"])
    assert grown.prefixes == (1, 2) and grown.fingerprint == made.fingerprint


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"x": 1}', "[" * 100_000, "null", '"ddkit"'])
def test_a_damaged_record_is_named(tmp_path, options, damage):
    distill(tmp_path / "o", ipc=1, **options)
    (tmp_path / "o.work" / "run.json").write_text(damage)
    with pytest.raises(IntegrityError, match=r"run.json is damaged .*remove"):
        distill(tmp_path / "o", ipc=2)


# ------------------------------------------------------------------ links in what is written into


@pytest.fixture
def precious(tmp_path):
    folder = tmp_path / "precious"
    folder.mkdir()
    (folder / "train-ipc001-00000.tar").write_text("mine")
    (folder / "photo.jpg").write_text("mine")
    return folder


@pytest.mark.parametrize("what", ["data", "images", "README.md", "out.work", "out.work/units", "out.work/once"])
def test_nothing_is_written_or_cleaned_through_a_link(tmp_path, options, precious, what):
    made = distill(tmp_path / "out", ipc=1, **options)
    path = tmp_path / what if what.startswith("out.work") else made.root / what
    target = precious / "photo.jpg" if what == "README.md" else precious
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.symlink_to(target)
    for again in (
        lambda: distill(tmp_path / "out", ipc=2, data="digits", teacher=options["teacher"], workers=1),
        lambda: distill(tmp_path / "out", overwrite=True, ipc=1, **options),
    ):
        with pytest.raises(IntegrityError, match="a link"):
            again()
    assert sorted(p.name for p in precious.iterdir()) == ["photo.jpg", "train-ipc001-00000.tar"]
    assert {p.read_text() for p in precious.iterdir()} == {"mine"}


def test_a_relabelling_follows_no_link(tmp_path, random_set, teacher, precious):
    (tmp_path / "r.work").symlink_to(precious)
    with pytest.raises((IntegrityError, OtherRun)):
        relabel(random_set.root, tmp_path / "r", teacher=teacher, workers=1)
    assert len(list(precious.iterdir())) == 2


def test_the_hubs_cache_is_read_though_it_is_made_of_links(tmp_path, random_set):
    """`snapshot_download` gives such a folder: links into `blobs` beside it, and into nothing else."""
    from ddkit import ReplayLoader, verify

    snapshot, blobs = tmp_path / "repo" / "snapshots" / "abc", tmp_path / "repo" / "blobs"
    blobs.mkdir(parents=True)
    for i, path in enumerate(p for p in random_set.root.rglob("*") if p.is_file()):
        shutil.copy(path, blobs / str(i))
        link = snapshot / path.relative_to(random_set.root)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blobs / str(i))
    assert verify(str(snapshot)) == []
    ReplayLoader(snapshot, batch_size=4)
    shutil.copy(random_set.root / "README.md", tmp_path / "elsewhere")
    (snapshot / "README.md").unlink()
    (snapshot / "README.md").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(IntegrityError, match="README.md -> "):
        verify(str(snapshot))
