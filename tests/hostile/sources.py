"""Hostile sources: each case makes what `ddkit distill --data source` is then given. `precious` lies beside it."""

from __future__ import annotations

import gzip
import io
import json
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from PIL import Image
from pyarrow import parquet

CASES: dict[str, Callable[[Path], None]] = {}
OPTIONS: dict[str, list[str]] = {}  # of `distill`, beside --data


def case(function: Callable[[Path], None]) -> Callable[[Path], None]:
    CASES[function.__name__] = function
    return function


def png(seed: int = 0, side: int = 32) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def folders(root: Path, classes: int = 10, images: int = 2) -> Path:
    for label in range(classes):
        (root / str(label)).mkdir(parents=True)
        for i in range(images):
            (root / str(label) / f"{i}.png").write_bytes(png(100 * label + i))
    return root


def huge(width: int, height: int) -> bytes:
    """A PNG that declares its extent, and would decode to it: all black."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    lines = zlib.compress(bytes(4_000_000), 1)  # not whole: the extent alone has to be enough
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
            + chunk(b"IDAT", lines) + chunk(b"IEND", b""))  # fmt: skip


# ------------------------------------------------------------------ tables


def table(root: Path, cells: Callable[[int], Any], labels: Any = None) -> None:
    """Twenty rows of ten classes as parquet."""
    (root / "source").mkdir()
    label = labels if isinstance(labels, pyarrow.Array) else pyarrow.array(labels or [i % 10 for i in range(20)])
    columns = {"image": pyarrow.array([cells(i) for i in range(20)]), "label": label}
    parquet.write_table(pyarrow.table(columns), root / "source" / "train.parquet")


@case
def table_of_paths_in_cells(root: Path) -> None:
    (root / "precious" / "x.png").write_bytes(png())
    table(root, lambda i: {"bytes": None, "path": str(root / "precious" / "x.png")})


@case
def table_of_one_path_among_images(root: Path) -> None:
    (root / "precious" / "x.png").write_bytes(png())
    there = {"bytes": None, "path": str(root / "precious" / "x.png")}
    table(root, lambda i: there if i == 7 else {"bytes": png(i), "path": f"{i}.png"})


@case
def table_of_paths_as_text(root: Path) -> None:
    (root / "precious" / "x.png").write_bytes(png())
    table(root, lambda i: str(root / "precious" / "x.png"))


@case
def table_of_devices(root: Path) -> None:
    table(root, lambda i: {"bytes": None, "path": "/dev/zero"})


@case
def table_of_pipes(root: Path) -> None:
    os.mkfifo(root / "pipe")
    table(root, lambda i: {"bytes": None, "path": str(root / "pipe")})


@case
def table_of_addresses(root: Path) -> None:
    table(root, lambda i: {"bytes": None, "path": "http://127.0.0.1:9/x.png"})


@case
def table_of_labels_that_overflow(root: Path) -> None:
    odd = pyarrow.array([2**64 - 1 - i % 3 for i in range(20)], pyarrow.uint64())
    table(root, lambda i: {"bytes": png(i), "path": None}, odd)


@case
def table_of_labels_that_are_lists(root: Path) -> None:
    table(root, lambda i: {"bytes": png(i), "path": None}, [[i] for i in range(20)])


@case
def table_that_is_garbage(root: Path) -> None:
    (root / "source").mkdir()
    (root / "source" / "train.parquet").write_bytes(b"PAR1" + os.urandom(500) + b"PAR1")


# ------------------------------------------------------------------ exported sources


def exported(root: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    from ddkit.sources.exporting import export

    export(str(folders(root / "plain")), root / "source")
    path = root / "source" / "source.json"
    index = json.loads(path.read_text())
    edit(index)
    path.write_text(json.dumps(index))


@case
def exported_with_a_path_outside(root: Path) -> None:
    exported(root, lambda index: index["splits"]["train"][0].update(path="../precious/secret.txt"))


@case
def exported_with_an_absolute_path(root: Path) -> None:
    exported(root, lambda index: index["splits"]["train"][0].update(path=str(root / "precious" / "secret.txt")))


@case
def exported_with_a_link(root: Path) -> None:
    exported(root, lambda index: None)
    shard = next((root / "source" / "data").glob("*.tar"))
    shard.rename(root / "precious" / "shard.tar")
    shard.symlink_to(root / "precious" / "shard.tar")


@case
def exported_without_splits(root: Path) -> None:
    exported(root, lambda index: index.pop("splits"))


@case
def exported_with_rows_that_are_none(root: Path) -> None:
    exported(root, lambda index: None)
    rows = next((root / "source" / "data").glob("*.rows"))
    rows.write_text(rows.read_text().replace("\t", " ", 3))


@case
def exported_with_a_row_beyond_the_end(root: Path) -> None:
    exported(root, lambda index: None)
    rows = next((root / "source" / "data").glob("*.rows"))
    first, _, rest = rows.read_text().partition("\n")
    label, _, length, sha256 = first.split("\t")
    rows.write_text("\t".join((label, str(10**12), length, sha256)) + "\n" + rest)


@case
def exported_with_a_class_beyond(root: Path) -> None:
    exported(root, lambda index: index["classes"].pop())


@case
def exported_with_another_image(root: Path) -> None:
    exported(root, lambda index: None)
    shard = next((root / "source" / "data").glob("*.tar"))
    data = bytearray(shard.read_bytes())
    data[700] ^= 1
    shard.write_bytes(data)


@case
def exported_index_that_is_deep(root: Path) -> None:
    exported(root, lambda index: None)
    (root / "source" / "source.json").write_text("[" * 100_000)


@case
def exported_of_a_billion_rows(root: Path) -> None:
    exported(root, lambda index: index["splits"]["train"][0].update(rows=10**18))


@case
def exported_of_one_shard_many_times(root: Path) -> None:
    exported(root, lambda index: index["splits"]["train"].extend(index["splits"]["train"] * 100_000))


# ------------------------------------------------------------------ zip


def zipped(root: Path, extra: Callable[[zipfile.ZipFile], Any]) -> Path:
    (root / "source").mkdir()
    path = root / "source" / "images.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for label in range(10):
            for i in range(2):
                archive.writestr(f"{label}/{i}.png", png(100 * label + i))
        extra(archive)
    return path


@case
def zip_with_a_bomb(root: Path) -> None:
    zipped(root, lambda z: z.writestr("3/bomb.png", bytes(300_000_000)))


def _lying(root: Path, method: int) -> None:
    """A member of 300 MB that says it has a thousand bytes."""
    path = root / "source" / "images.zip"
    zipped(root, lambda z: z.writestr("3/bomb.png", bytes(300_000_000), method))
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\x01\x02")
    data[at + 24 : at + 28] = struct.pack("<I", 1000)
    path.write_bytes(data)


CASES["zip_with_a_bomb_that_says_it_is_small"] = lambda root: _lying(root, zipfile.ZIP_DEFLATED)
CASES["zip_with_a_bomb_by_bzip2"] = lambda root: _lying(root, zipfile.ZIP_BZIP2)


@case
def zip_with_a_corrupt_member(root: Path) -> None:
    path = zipped(root, lambda z: None)
    data = bytearray(path.read_bytes())
    data[60:160] = bytes(100)
    path.write_bytes(data)


@case
def zip_that_lies_about_its_method(root: Path) -> None:
    path = zipped(root, lambda z: None)
    data = path.read_bytes()
    at = data.index(b"PK\x01\x02")
    path.write_bytes(data[: at + 10] + struct.pack("<H", 99) + data[at + 12 :])


@case
def zip_that_is_cut_off(root: Path) -> None:
    path = zipped(root, lambda z: None)
    path.write_bytes(path.read_bytes()[:-40])


@case
def zip_that_is_none(root: Path) -> None:
    (root / "source").mkdir()
    (root / "source" / "images.zip").write_bytes(os.urandom(1000))


# ------------------------------------------------------------------ tar


def tarred(root: Path, extra: Callable[[tarfile.TarFile], Any]) -> Path:
    (root / "source").mkdir()
    path = root / "source" / "train-0.tar"
    with tarfile.open(path, "w") as tar:
        for i in range(20):
            add(tar, f"{i:03d}.png", png(i))
            add(tar, f"{i:03d}.cls", str(i % 10).encode())
        extra(tar)
    return path


def add(tar: tarfile.TarFile, name: str, data: bytes, **fields: Any) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    tar.addfile(info, io.BytesIO(data))


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("touch ran",)


@case
def tar_with_a_pickled_network(root: Path) -> None:
    import torch

    buffer = io.BytesIO()
    torch.save(Evil(), buffer)
    tarred(root, lambda tar: add(tar, "000.pth", buffer.getvalue()))


@case
def tar_with_a_link(root: Path) -> None:
    tarred(root, lambda tar: add(tar, "100.png", b"", type=tarfile.SYMTYPE, linkname=str(root / "precious/secret.txt")))


@case
def tar_with_holes(root: Path) -> None:
    tarred(root, lambda tar: add(tar, "100.png", b"", type=tarfile.GNUTYPE_SPARSE))


@case
def tar_with_a_packed_member(root: Path) -> None:
    tarred(root, lambda tar: add(tar, "100.png.gz", gzip.compress(bytes(10_000_000))))


@case
def tar_that_is_packed(root: Path) -> None:
    path = tarred(root, lambda tar: None)
    path.write_bytes(gzip.compress(path.read_bytes()))


@case
def tar_that_is_cut_off(root: Path) -> None:
    path = tarred(root, lambda tar: None)
    path.write_bytes(path.read_bytes()[:5000])


@case
def tar_that_goes_back(root: Path) -> None:
    """A negative size, from which `tarfile` reads the same member again for ever."""

    def extra(tar: tarfile.TarFile) -> None:
        info = tarfile.TarInfo("100.png")
        info.size = -512
        tar.fileobj.write(info.tobuf(tarfile.GNU_FORMAT))  # type: ignore[union-attr]

    tarred(root, extra)


@case
def tar_that_goes_back_by_pax(root: Path) -> None:
    def extra(tar: tarfile.TarFile) -> None:
        info = tarfile.TarInfo("100.png")
        info.pax_headers = {"size": "-1024"}
        tar.fileobj.write(info.tobuf(tarfile.PAX_FORMAT))  # type: ignore[union-attr]

    tarred(root, extra)


@case
def tar_with_a_header_of_a_terabyte(root: Path) -> None:
    def extra(tar: tarfile.TarFile) -> None:
        info = tarfile.TarInfo("././@LongLink")
        info.size, info.type = 2**40, tarfile.GNUTYPE_LONGNAME
        tar.fileobj.write(info.tobuf(tarfile.GNU_FORMAT))  # type: ignore[union-attr]

    tarred(root, extra)


@case
def tar_with_a_member_of_exabytes(root: Path) -> None:
    def extra(tar: tarfile.TarFile) -> None:
        info = tarfile.TarInfo("100.png")
        info.size = 2**60
        tar.fileobj.write(info.tobuf(tarfile.GNU_FORMAT))  # type: ignore[union-attr]

    tarred(root, extra)


# ------------------------------------------------------------------ class folders


@case
def folder_with_an_image_of_169_million_pixels(root: Path) -> None:
    (folders(root / "source") / "3" / "0.png").write_bytes(huge(13_000, 13_000))


@case
def folder_with_an_image_that_overflows(root: Path) -> None:
    (folders(root / "source") / "3" / "0.png").write_bytes(huge(2**31 - 1, 2**31 - 1))


@case
def folder_with_text_that_grows(root: Path) -> None:
    data = png()
    text = b"zTXtname\0\0" + zlib.compress(bytes(200_000_000), 9)
    chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    (folders(root / "source") / "3" / "0.png").write_bytes(data[:33] + chunk + data[33:])


@case
def folder_of_images_that_are_none(root: Path) -> None:
    for path in folders(root / "source").rglob("*.png"):
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + os.urandom(200))


@case
def folder_whose_name_is_no_utf8(root: Path) -> None:
    os.mkdir(os.fsencode(folders(root / "source")) + b"/\xff\xfe")
    (root / "source" / "3" / "0.png").rename(os.fsdecode(os.fsencode(root / "source") + b"/\xff\xfe/0.png"))


@case
def protocol_that_is_deep(root: Path) -> None:
    folders(root / "source")
    (root / "deep.toml").write_text("x = " + "[" * 5000 + "]" * 5000)


@case
def protocol_of_ten_thousand_digits(root: Path) -> None:
    folders(root / "source")
    (root / "long.toml").write_text("x = " + "9" * 10_000)


@case
def setting_of_ten_thousand_digits(root: Path) -> None:
    folders(root / "source")


@case
def setting_that_is_deep(root: Path) -> None:
    folders(root / "source")


OPTIONS["protocol_that_is_deep"] = ["--protocol", "deep.toml"]
OPTIONS["protocol_of_ten_thousand_digits"] = ["--protocol", "long.toml"]
OPTIONS["setting_of_ten_thousand_digits"] = ["--set", "x=" + "9" * 10_000]
OPTIONS["setting_that_is_deep"] = ["--set", "x=" + "[" * 5000 + "]" * 5000]
