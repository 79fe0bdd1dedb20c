"""Other people's images in, a set's images out: the layouts of earlier methods, bytes kept."""

import io
import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from conftest import photograph

import ddkit
from ddkit.core.files import host
from ddkit.errors import ClassesError, OptionError, OtherRun, SourceError
from ddkit.format.manifest_file import read_manifest
from ddkit.format.verification import directory_problems
from ddkit.pipeline import import_images
from ddkit.sources import exporting
from ddkit.sources.images import open_source

CLASSES, IPC = 10, 2


def jpeg(seed: int, side: int = 32, kind: str = "JPEG", **options) -> bytes:
    buffer = io.BytesIO()
    photograph(seed, side, side).save(buffer, kind, **options)
    return buffer.getvalue()


LAYOUTS = {
    "new": "new{c:03d}/class{c:03d}_id{i:03d}.jpg",
    "numbers": "{c:05d}/{i}.jpg",
    "names": "{c}/image-{i}.jpg",
}


def files_of(layout: str) -> dict[str, bytes]:
    return {LAYOUTS[layout].format(c=c, i=i): jpeg(10 * c + i) for c in range(CLASSES) for i in range(IPC)}


def write(root, files):
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return str(root)


def taken(tmp_path, source, teacher, **options):
    given = {"method": "sre2l", "teacher": teacher, "views": 3, "workers": 1} | options
    return import_images(source, tmp_path / "set", **given)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("zipped", [False, True])
def test_layouts_of_earlier_methods_keep_their_bytes(tmp_path, teacher, layout, zipped):
    files = files_of(layout)
    source = write(tmp_path / "images", files)
    if zipped:
        source = str(tmp_path / "images.zip")
        with zipfile.ZipFile(source, "w") as archive:
            for name, data in files.items():
                archive.writestr(f"upload/{name}", data)
            archive.writestr("upload/readme.txt", "hello")
    made = taken(tmp_path, source, teacher)
    assert made.rows() == CLASSES * IPC and made.image.codec == "jpg" and directory_problems(made.root) == []
    assert made.class_names == [str(c) for c in range(CLASSES)]  # by the teacher's names where they were numbers
    again = open_source(str(made.root))
    for i, label in enumerate(again.labels):
        theirs = {jpeg(10 * int(again.class_names[label]) + k) for k in range(IPC)}
        assert again.encoded(i) in theirs
    assert made.real_pixels == "none" and made.recipe.paper.startswith("Squeeze")


def test_an_imported_set_is_a_set(tmp_path, teacher, monkeypatch):
    import datasets

    made = taken(tmp_path, write(tmp_path / "images", files_of("new")), teacher, method="ours")
    table = datasets.load_dataset(str(made.root), split="train")
    assert table.column_names == ["jpg", "cls", "views.safetensors", "__key__"] and len(table) == CLASSES * IPC
    assert ddkit.ReplayLoader(made.root, batch_size=5).views == 3
    assert made.real_pixels == "unknown" and "made elsewhere" in (made.root / "README.md").read_text()
    content = made.content
    assert taken(tmp_path, str(tmp_path / "images"), teacher, method="ours").content == content
    with pytest.raises(OtherRun, match="another import"):
        taken(tmp_path, str(tmp_path / "images"), teacher, method="theirs")


def test_parquet_of_images_and_labels(tmp_path, teacher):
    write(tmp_path / "images", files_of("names"))
    ddkit.export(str(tmp_path / "images"), tmp_path / "parquet", as_="parquet")
    made = taken(tmp_path, str(tmp_path / "parquet"), teacher)
    assert made.rows() == CLASSES * IPC


BROKEN = [
    ({"0/x.jpg": jpeg(1)}, ClassesError, "same number of images, most have 2, 0 has 3"),
    ({"0/image-0.jpg": jpeg(1, kind="PNG")}, SourceError, "1 of 20 images are not JPEG of 32x32.*reencode=True"),
    ({"3/image-1.jpg": jpeg(1, side=40)}, SourceError, "1 of 20 images"),
]


@pytest.mark.parametrize(("changed", "kind", "words"), BROKEN)
def test_what_is_not_uniform_is_refused(tmp_path, teacher, changed, kind, words):
    source = write(tmp_path / "images", files_of("names") | changed)
    with pytest.raises(kind, match=words):
        taken(tmp_path, source, teacher)
    assert not (tmp_path / "set").exists()


def test_rotated_images_need_reencoding(tmp_path, teacher):
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    files = {name: jpeg(i, exif=exif) for i, name in enumerate(files_of("names"))}
    source = write(tmp_path / "images", files)
    with pytest.raises(SourceError, match="EXIF orientation"):
        taken(tmp_path, source, teacher)
    made = taken(tmp_path, source, teacher, reencode=True)
    assert made.image.codec == "png"
    upright = np.rot90(np.asarray(Image.open(io.BytesIO(files["0/image-0.jpg"])).convert("RGB")), -1)
    stored = open_source(str(made.root))
    assert any((stored.read(i).transpose(1, 2, 0) == upright).all() for i in range(len(stored)))


def test_numbers_must_be_the_teachers(tmp_path, teacher):
    files = {name: data for name, data in files_of("new").items() if not name.startswith("new009")}
    with pytest.raises(ClassesError, match="not 0 to 9"):
        taken(tmp_path, write(tmp_path / "images", files), teacher)
    with pytest.raises(OptionError, match="^method is 'a b'"):
        taken(tmp_path, str(tmp_path / "images"), teacher, method="a b")


def test_a_broken_zip_is_named(tmp_path):
    (tmp_path / "x.zip").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(SourceError, match="not a complete zip"):
        open_source(str(tmp_path / "x.zip"))


def test_export_as_folder_and_parquet(rded_set, tmp_path):
    import datasets

    assert ddkit.export(str(rded_set.root), tmp_path / "folder", as_="folder") == 30
    names = (tmp_path / "folder" / "classes.txt").read_text().splitlines()
    assert names == rded_set.class_names
    assert sorted(p.name for p in (tmp_path / "folder").iterdir() if p.is_dir()) == [f"{c:05d}" for c in range(10)]
    ddkit.export(str(rded_set.root), tmp_path / "parquet", as_="parquet")
    table = datasets.load_dataset(str(tmp_path / "parquet"), split="train")
    assert table.features["label"].names == names and len(table) == 30
    stored = open_source(str(rded_set.root))
    assert (np.asarray(table[7]["image"]).transpose(2, 0, 1) == stored.read(7)).all()
    assert read_manifest(rded_set.root).rows() == 30
    with pytest.raises(OptionError, match="valid: folder, parquet, shards"):
        ddkit.export("digits", tmp_path / "x", as_="zip")
    with pytest.raises(OtherRun, match="not empty"):
        ddkit.export("digits", tmp_path / "folder", as_="folder")


def files_in(root):
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def test_class_folders_by_name(tmp_path, capsys):
    names = ["Cat", "cat", "a:b", "..", "classes.txt", "St. Bernard", "猫" * 100, "écureuil"]
    folders = exporting._folders_by_name(names)
    assert folders[:6] == ["Cat", "cat (1)", "a-b", "class 3", "classes.txt (4)", "St. Bernard"]
    assert folders[7] == "écureuil" and len(folders[6].encode()) <= 200
    assert "cat (1) for cat, a-b for a:b, class 3 for .." in capsys.readouterr().err
    write(
        tmp_path / "images", {f"{name}/{i}.jpg": jpeg(i) for i, name in enumerate(("St. Bernard", "écureuil", "cat"))}
    )
    assert ddkit.export(str(tmp_path / "images"), tmp_path / "out", as_="folder", folder_names="names") == 3
    assert sorted(p.name for p in (tmp_path / "out").iterdir() if p.is_dir()) == ["St. Bernard", "cat", "écureuil"]
    assert open_source(str(tmp_path / "out")).class_names == open_source(str(tmp_path / "images")).class_names
    assert "get others" not in capsys.readouterr().err
    with pytest.raises(OptionError, match="valid: names, numbers"):
        ddkit.export("digits", tmp_path / "x", as_="folder", folder_names="ids")
    with pytest.raises(OptionError, match="shards writes no class folders"):
        ddkit.export("digits", tmp_path / "x", folder_names="names")


@pytest.mark.parametrize("as_", ["folder", "shards", "parquet"])
def test_an_interrupted_export_leaves_nothing_and_works_again(photographs, tmp_path, monkeypatch, as_):
    def interrupted(*args):
        yield from [row for _, row in zip(range(7), rows(*args))]
        raise KeyboardInterrupt

    rows, out = exporting._rows, tmp_path / "deep" / "out"
    monkeypatch.setattr(exporting, "_rows", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ddkit.export(str(photographs), out, as_=as_)
    assert list(out.parent.iterdir()) == []
    monkeypatch.setattr(exporting, "_rows", rows)
    assert ddkit.export(str(photographs), out, as_=as_) == 18
    assert list(out.parent.iterdir()) == [out] and not any(path.name.startswith(".") for path in out.iterdir())


def test_what_a_killed_export_left_is_removed(photographs, tmp_path):
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    mine = tmp_path / f".out.export.{host()}.{int(gone.stdout)}.tmp"
    alive = tmp_path / f".out.export.{host()}.{os.getppid()}.tmp"
    elsewhere = tmp_path / f".out.export.another.{int(gone.stdout)}.tmp"
    for path in (mine, alive, elsewhere):
        write(path, {"00000/00000000.jpg": b"x"})
    ddkit.export(str(photographs), tmp_path / "out", as_="folder")
    assert not mine.exists() and alive.is_dir() and elsewhere.is_dir()
    assert len(files_in(tmp_path / "out")) == 19


def test_an_export_fills_an_empty_folder_that_is_there(photographs, tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    ddkit.export(str(photographs), ".", as_="folder")
    assert len(files_in(tmp_path / "out")) == 19 and (tmp_path / "out").samefile(os.curdir)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["00000", "00001", "00002", "classes.txt"]


def test_exported_files_are_not_synced_one_by_one(photographs, tmp_path, monkeypatch):
    calls, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (calls.append(file), fsync(file)))
    ddkit.export(str(photographs), tmp_path / "out", as_="folder")
    assert len(calls) < 5
