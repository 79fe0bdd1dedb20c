"""Sources: what is opened, what it becomes, what is refused."""

import io
import os

import numpy as np
import pytest
import torch
from conftest import photograph
from PIL import Image

from ddkit.errors import ClassesError, ImagesUnreadable, SourceError
from ddkit.sources.decoding import Unreadable, decode_rgb, whole_image
from ddkit.sources.exporting import export
from ddkit.sources.images import open_source
from ddkit.sources.tables import splits_of
from ddkit.sources.validation import has_validation, open_validation
from ddkit.specs import ClassName, EvalTransform


def encoded(image, fmt="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, fmt, **options)
    return buffer.getvalue()


def test_every_kind_of_image_becomes_rgb_upright():
    picture = photograph(0, 30, 20)
    pixels = np.asarray(picture).transpose(2, 0, 1)
    assert (decode_rgb(encoded(picture)) == pixels).all()
    assert (decode_rgb(encoded(picture.convert("RGBA"))) == pixels).all()
    grey = np.asarray(picture.convert("L"))
    assert (decode_rgb(encoded(picture.convert("L"))) == grey[None]).all()
    sixteen = Image.fromarray(grey.astype(np.uint16) * 257)
    assert (decode_rgb(encoded(sixteen)) == grey[None]).all()
    palette = picture.quantize(16)
    assert (decode_rgb(encoded(palette)) == np.asarray(palette.convert("RGB")).transpose(2, 0, 1)).all()
    cmyk = decode_rgb(encoded(picture.convert("CMYK"), "JPEG", quality=98))
    assert cmyk.shape == (3, 30, 20) and np.abs(cmyk.astype(int) - pixels).mean() < 8
    assert decode_rgb(encoded(picture.convert("1"))).shape == (3, 30, 20)
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees to look at it
    turned = decode_rgb(encoded(picture, "PNG", exif=exif))
    assert (turned == np.rot90(pixels, -1, (1, 2))).all()


@pytest.mark.parametrize(
    "data", [b"", b"not an image", encoded(photograph(0, 30, 20))[:-40], encoded(photograph(0, 60, 60), "JPEG")[:500]]
)
def test_broken_images_are_unreadable(data):
    with pytest.raises(Unreadable):
        decode_rgb(data)


def test_whole_images_keep_their_centre():
    image = np.zeros((3, 40, 80), np.uint8)
    image[:, :, 20:60] = 200
    square = whole_image(image, 40)
    assert square.shape == (3, 40, 40) and (square == 200).all()
    assert whole_image(image, 20).shape == (3, 20, 20) and whole_image(image[:, :1], 8).shape == (3, 8, 8)


def test_digits():
    train, test = open_source("digits"), open_source("digits", split="test")
    assert len(train) + len(test) == 1797 and train.class_names == [str(i) for i in range(10)]
    assert train.read(0).shape == (3, 32, 32) and train.default_size() == 32
    assert train.fingerprint == open_source("digits").fingerprint != test.fingerprint
    assert (test.counts >= 34).all() and has_validation("digits") == "test"


def test_class_folders(photographs):
    source = open_source(str(photographs))
    assert source.class_names == ["ant", "bee", "cat"] and source.counts.tolist() == [6, 6, 6]
    assert source.read(2).shape == (3, 54, 60) and source.whole(2, 32).shape == (3, 32, 32)
    assert source.default_size() == 32 and has_validation(str(photographs)) is None
    before = source.fingerprint
    moved = photographs.rename(photographs.with_name("elsewhere"))
    assert open_source(str(moved)).fingerprint == before
    photograph(99, 50, 50).save(moved / "ant" / "0.jpg")
    os.utime(moved / "ant" / "0.jpg", (1, 1))
    assert open_source(str(moved)).fingerprint != before


def test_split_folders(photographs, tmp_path):
    root = tmp_path / "split"
    root.mkdir()
    photographs.rename(root / "train")
    for name in ("ant", "bee", "cat"):
        (root / "val" / name).mkdir(parents=True)
        photograph(7, 40, 40).save(root / "val" / name / "a.png")
    assert list(splits_of(str(root))) == ["train", "val"] and has_validation(str(root)) == "val"
    validation, reordered = open_validation(str(root), [ClassName(name=n) for n in ("cat", "ant", "bee")])
    assert reordered and validation.labels.tolist() == [1, 2, 0]
    images, labels = validation.load(EvalTransform(resize=36, crop=32))
    assert images.shape == (3, 3, 32, 32) and labels.tolist() == [1, 2, 0]


def test_class_subsets(photographs):
    chosen = open_source(str(photographs), classes="cat,ant")
    assert chosen.class_names == ["cat", "ant"] and chosen.labels.tolist() == [1] * 6 + [0] * 6
    assert chosen.rows.tolist() == [*range(6), *range(12, 18)]
    listed = photographs.parent / "classes.txt"
    listed.write_text("bee\n# comment\nant\n")
    assert open_source(str(photographs), classes=str(listed)).class_names == ["bee", "ant"]
    with pytest.raises(ClassesError, match="dog"):
        open_source(str(photographs), classes="ant,dog")
    with pytest.raises(ClassesError, match="more than once"):
        open_source(str(photographs), classes="ant,ant")
    with pytest.raises(ClassesError, match="one class"):
        open_source(str(photographs), classes="ant")


def test_broken_images_are_listed_at_once(photographs, capsys):
    (photographs / "bee" / "2.jpg").write_bytes(b"nothing")
    whole = (photographs / "cat" / "4.jpg").read_bytes()
    (photographs / "cat" / "4.jpg").write_bytes(whole[: len(whole) // 2])
    source = open_source(str(photographs))
    with pytest.raises(
        ImagesUnreadable, match=r"2 of 18.*bee/2.jpg.*cat/4.jpg.*repair or remove.*skip_bad=True"
    ) as told:
        source.without_unreadable(skip_bad=False)
    assert "--skip-bad" in told.value.command_line
    kept = source.without_unreadable(skip_bad=True)
    assert len(kept) == 16 and kept.name_rows(kept.ref.skip) == ["bee/2.jpg", "cat/4.jpg"]
    told = capsys.readouterr().err
    assert f"left out 2 of 18 images of {photographs} that do not decode: bee/2.jpg, cat/4.jpg (no image of" in told
    source.without_unreadable(skip_bad=True)
    assert capsys.readouterr().err == ""
    open_source(str(photographs)).without_unreadable(skip_bad=True)
    assert "left out 2 of 18" in capsys.readouterr().err
    with pytest.raises(ImagesUnreadable, match="bee/2.jpg"):
        source.read(8)


def test_holdout_is_stratified_seeded_and_by_content(photographs):
    source = open_source(str(photographs))
    kept, held = source.part("train", 0.34), source.part("holdout", 0.34)
    assert held.counts.tolist() == [2, 2, 2] and sorted([*kept.rows, *held.rows]) == list(range(18))
    validation, _ = open_validation(str(photographs), source.classes, split="train", source=held.spec())
    assert validation.source.rows.tolist() == held.rows.tolist() and validation.name.endswith("holdout")
    with pytest.raises(SourceError, match="no images were held out"):
        open_validation(str(photographs), source.classes, split="train", source=source.spec())


def parquet(path, **columns):
    from datasets import Dataset

    path.parent.mkdir(parents=True, exist_ok=True)
    Dataset.from_dict(columns, features=columns.pop("features", None)).to_parquet(str(path))


def test_parquet(tmp_path):
    from datasets import ClassLabel, Features, Image, Value

    cells = [{"bytes": encoded(photograph(i, 40, 50)), "path": None} for i in range(6)]
    two = Features(
        {"image": Image(), "coarse": ClassLabel(names=["x", "y"]), "fine": ClassLabel(names=["a", "b", "c"])}
    )
    parquet(tmp_path / "two" / "train-0.parquet", image=cells, coarse=[0, 1] * 3, fine=[0, 1, 2] * 2, features=two)
    with pytest.raises(SourceError, match=r"several label columns \(coarse, fine\).*label_column") as told:
        open_source(str(tmp_path / "two"))
    assert "--label-column" in told.value.command_line
    source = open_source(str(tmp_path / "two"), label_column="fine")
    assert source.class_names == ["a", "b", "c"] and source.read(3).shape == (3, 40, 50)
    with pytest.raises(SourceError, match="no column 'nope'"):
        open_source(str(tmp_path / "two"), label_column="nope")

    names = Features({"img": Image(), "label": Value("string")})
    parquet(
        tmp_path / "text" / "data" / "train-0.parquet", img=cells, label=["b", "a", "b", "a", "b", "a"], features=names
    )
    parquet(tmp_path / "text" / "data" / "test-0.parquet", img=cells[:2], label=["a", "b"], features=names)
    source = open_source(str(tmp_path / "text"))
    assert source.class_names == ["a", "b"] and source.labels.tolist() == [1, 0] * 3
    assert has_validation(str(tmp_path / "text")) == "test"

    hidden = Features({"image": Image(), "label": ClassLabel(names=["a", "b"])})
    parquet(tmp_path / "hidden" / "train-0.parquet", image=cells, label=[0, 1] * 3, features=hidden)
    parquet(tmp_path / "hidden" / "test-0.parquet", image=cells, label=[-1] * 6, features=hidden)
    assert has_validation(str(tmp_path / "hidden")) is None
    with pytest.raises(SourceError, match="-1"):
        open_validation(str(tmp_path / "hidden"), [ClassName(name="a"), ClassName(name="b")])
    with pytest.raises(SourceError, match="-1"):
        open_validation(str(tmp_path / "hidden"), [ClassName(name="a"), ClassName(name="b")], split="test")


def test_webdataset_shards_and_our_own_sets(tmp_path, random_set):
    import tarfile

    with tarfile.open(tmp_path / "train-000.tar", "w") as tar:
        for i in range(4):
            for name, data in (
                (f"{i:04d}.jpg", encoded(photograph(i, 40, 40), "JPEG")),
                (f"{i:04d}.cls", str(i % 2).encode()),
            ):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    source = open_source(str(tmp_path))
    assert (
        source.class_names == ["0", "1"]
        and source.labels.tolist() == [0, 1, 0, 1]
        and source.read(1).shape == (3, 40, 40)
    )
    ours = open_source(str(random_set.root))
    assert len(ours) == 20 and ours.class_names == random_set.class_names and ours.read(0).shape == (3, 32, 32)


def test_labels_and_images_that_are_none_or_odd(tmp_path):
    from datasets import ClassLabel, Features, Image, Value

    cells = [{"bytes": encoded(photograph(i, 40, 50)), "path": None} for i in range(6)]
    whole = Features({"image": Image(), "label": Value("int64")})
    parquet(tmp_path / "gaps" / "a.parquet", image=cells, label=[7, 10**12, 7, 10**12, None, -1], features=whole)
    source = open_source(str(tmp_path / "gaps"))
    assert source.class_names == ["7", str(10**12)] and source.labels.tolist() == [0, 1, 0, 1]
    parquet(tmp_path / "none" / "a.parquet", image=cells, label=[None] * 6, features=whole)
    with pytest.raises(ClassesError, match="no labelled images"):
        open_source(str(tmp_path / "none"))
    bad = Features({"image": Value("int64"), "label": Value("int64")})
    parquet(tmp_path / "ints" / "a.parquet", image=[1, 2], label=[0, 1], features=bad)
    with pytest.raises(SourceError, match="not images; name another with image_column") as told:
        open_source(str(tmp_path / "ints"))
    assert "--image-column" in told.value.command_line
    named = Features({"image": Image(), "label": ClassLabel(names=["a", "b"])})
    holes = [*cells[:3], None, *cells[4:]]
    parquet(tmp_path / "holes" / "a.parquet", image=holes, label=[0, 1] * 3, features=named)
    with pytest.raises(ImagesUnreadable, match="1 of 6.*row 3"):
        open_source(str(tmp_path / "holes")).without_unreadable(skip_bad=False)
    (tmp_path / "garbage").mkdir()
    (tmp_path / "garbage" / "a.tar").write_bytes(b"\x01" * 2000)
    with pytest.raises(SourceError, match="not a complete, uncompressed tar file"):
        open_source(str(tmp_path / "garbage"))


def test_a_damaged_parquet_file(tmp_path):
    (tmp_path / "train.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(SourceError, match="cannot be opened as parquet"):
        open_source(str(tmp_path))


@pytest.mark.parametrize("made", ["nothing", "empty", "loose", "file"])
def test_what_is_no_source(tmp_path, made):
    path = tmp_path / "x"
    if made in ("empty", "loose"):
        path.mkdir()
    if made == "loose":
        photograph(0, 9, 9).save(path / "a.png")
    if made == "file":
        path.write_text("hello")
    with pytest.raises(
        SourceError,
        match={"nothing": "no such folder", "empty": "empty", "loose": "not in class", "file": "not a parquet"}[made],
    ):
        open_source(str(path))


def test_opening_many_images_decodes_none(tmp_path):
    """100,000 files are opened by their names alone: here 3,000 that no decoder would take."""
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for i in range(1500):
            (tmp_path / label / f"{i:05d}.jpg").write_bytes(b"x")
    source = open_source(str(tmp_path))
    assert len(source) == 3000 and isinstance(torch.from_numpy(source.labels), torch.Tensor)


def test_what_is_left_out_of_class_folders_is_told(photographs, capsys):
    (photographs / "ant" / "x.heic").write_bytes(b"x")
    (photographs / "ant" / "._0.jpg").write_bytes(b"x")
    (photographs / "bee" / "gone.jpg").symlink_to(photographs / "nowhere.jpg")
    (photographs / "nothing").mkdir()
    (photographs / "loose.jpg").write_bytes((photographs / "ant" / "0.jpg").read_bytes())
    assert len(open_source(str(photographs))) == 18
    told = capsys.readouterr().err
    for part in ("1 file (.heic)", "1 file (broken link)", "1 image outside class folders", "images: nothing"):
        assert part in told
    assert "._0" not in told and "save the .heic files as JPEG or PNG" in told
    (photographs / "bee" / "y.HEIC").write_bytes(b"x")
    open_source(str(photographs))
    assert "2 files (.heic)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("suffixes", "words"),
    [
        ((".heic",), r"4 files \(.heic\); save the .heic files as JPEG or PNG .*heif-convert"),
        ((".avif", ".txt"), r"4 files \(.avif\), 4 files \(.txt\); save the .avif files"),
        ((".jxl",), r"4 files \(.jxl\); save the .jxl files as JPEG or PNG .*ImageMagick"),
        ((".txt",), r"only 4 files \(.txt\); expected .*CLASS/IMAGE.jpg, of the suffixes .*.jpeg"),
    ],
)
def test_class_folders_of_other_files_are_refused_with_what_is_in_them(tmp_path, suffixes, words):
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        for i in range(2):
            for suffix in suffixes:
                (tmp_path / name / f"{i}{suffix}").write_bytes(b"x")
    with pytest.raises(SourceError, match=words):
        open_source(str(tmp_path))


def test_load_dataset_opens_exported_shards(tmp_path):
    import datasets

    export("digits", tmp_path / "out")
    opened = datasets.load_dataset(str(tmp_path / "out"))
    assert {split: len(table) for split, table in opened.items()} == {"train": 1442, "test": 355}
    assert set(opened["train"].column_names) >= {"png", "cls"}
