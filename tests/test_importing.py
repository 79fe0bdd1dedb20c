"""Other people's images in, a set's images out: the layouts of earlier methods, bytes kept."""

import io
import zipfile

import numpy as np
import pytest
from conftest import photograph

import ddkit
from ddkit.errors import ClassesError, OptionError, OtherRun, SourceError
from ddkit.format.manifest_file import read_manifest
from ddkit.format.verification import directory_problems
from ddkit.pipeline import import_images
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
    with pytest.raises(SourceError, match="no whole zip"):
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
