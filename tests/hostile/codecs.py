"""Hostile labels: the base set with labels of another codec, edited so that every hash agrees with it."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from ddkit.core.serialization import canonical
from ddkit.format.codecs.interface import centred
from ddkit.format.codecs.registry import find_codec
from ddkit.testing import untrained_teacher
from hostile import sets

# What only loading the network shows; `verify` compares its file with the hash, and does not load it.
ONLY_A_STUDENT = set[str]()
LABELS, TEACHER = "labels.safetensors", "teacher.safetensors"


def with_codec(
    root: Path, name: str, edit: Callable[[list[sets.Sample]], Any] = len, stated: str | None = None
) -> None:
    """Give a set labels of a codec. edit: the samples of the last shard; stated: what the manifest calls the codec."""
    codec, shared = find_codec(name), dict[str, np.ndarray]()

    def change(data: dict[str, Any]) -> None:
        nonlocal shared
        for number, shard in enumerate(data["shards"]):
            samples = sets.samples_of(root, shard)
            logits = [centred(s["tensors"].pop("logits")) for s in samples]
            shared = shared or codec.fit(np.concatenate(logits))
            for s, z in zip(samples, logits):
                s["tensors"] |= codec.encode(z, shared, np.random.default_rng(0))
                s["meta"] |= {"codec": name, "classes": 10}
            if number == len(data["shards"]) - 1:
                edit(samples)
            sets.write(root, shard, samples)
        data["labels"]["codec"] = stated or name
        data["format"] = 2
        if codec.FROM_PIXELS:
            untrained_teacher(root / TEACHER)
            listed(root, data, TEACHER)
        elif shared:
            (root / LABELS).write_bytes(save(shared, metadata(name)))
            listed(root, data, LABELS)

    sets.manifest(root, change)


def metadata(name: str) -> dict[str, str]:
    return {"ddkit": canonical({"format": 1, "codec": name}, indent=None)}


def listed(root: Path, data: dict[str, Any], path: str) -> None:
    """Enter a shared file in the manifest as it lies there."""
    content = (root / path).read_bytes()
    data["labels"]["file"] = {"path": path, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def row(name: str, codec: str, edit: Callable[[list[sets.Sample]], Any], stated: str | None = None) -> None:
    """A case whose rows lie."""
    sets.CASES[name] = lambda root: with_codec(root, codec, edit, stated)


def file(name: str, edit: Callable[[Path], Any], codec: str = "lowrank:4") -> None:
    """A case whose shared file lies; its hash in the manifest is true."""

    def make(root: Path) -> None:
        with_codec(root, codec)
        path = TEACHER if codec == "teacher" else LABELS
        edit(root / path)
        sets.manifest(root, lambda data: listed(root, data, path))

    sets.CASES[name] = make
    if codec == "teacher":
        ONLY_A_STUDENT.add(name)


# ------------------------------------------------------------------ rows

put = sets.tensor
row("int8_scale_nan", "int8", put("scale", np.nan))
row("int8_scale_infinite", "int8", put("scale", np.inf))
row("int8_scale_below_zero", "int8", put("scale", -1))
row("int8_without_scale", "int8", lambda s: s[0]["tensors"].pop("scale"))
row("int8_of_unsigned", "int8", lambda s: s[0]["tensors"].update(logits=s[0]["tensors"]["logits"].astype(np.uint8)))
row("int8_of_eleven_classes", "int8", lambda s: [r["meta"].update(classes=11) for r in s])
row("topk_class_beyond", "topk:3", put("index", [10, 1, 2]))
row("topk_class_far_beyond", "topk:3", put("index", [65535, 1, 2]))
row("topk_class_twice", "topk:3", put("index", [1, 1, 2]))
row("topk_not_descending", "topk:3", put("top", [1, 2, 3]))
row("topk_nan", "topk:3", put("top", np.nan))
row("topk_rest_infinite", "topk:3", put("rest_mean", np.inf))
row("topk_variance_below_zero", "topk:3", put("rest_var", -1))
row("topk_of_more_than_it_says", "topk:3", lambda s: None, "topk:4")
row("topk_of_more_than_there_are", "topk:3", lambda s: None, "topk:11")
row("topk_of_ten_thousand_digits", "topk:3", lambda s: None, "topk:" + "9" * 90)
row(
    "topk_index_of_32_bits",
    "topk:3",
    lambda s: s[0]["tensors"].update(index=s[0]["tensors"]["index"].astype(np.uint32)),
)
row("sampled_class_beyond", "sampled:9", put("index", 10))
row("sampled_counts_that_add_up_to_more", "sampled:9", put("count", 255))
row("sampled_counts_of_zero", "sampled:9", put("count", 0))
row("sampled_of_more_draws", "sampled:9", lambda s: None, "sampled:256")
row("lowrank_code_nan", "lowrank:4:f16", put("code", np.nan))
row("lowrank_code_unsigned", "lowrank:4", lambda s: s[0]["tensors"].update(code=s[0]["tensors"]["code"].view(np.uint8)))
row(
    "lowrank_code_of_another_rank",
    "lowrank:4",
    lambda s: s[0]["tensors"].update(code=s[0]["tensors"]["code"][:, :3].copy()),
)
row("lowrank_of_more_than_the_classes", "lowrank:4", lambda s: None, "lowrank:11")
row("lowrank_of_another_spelling", "lowrank:4", lambda s: None, "lowrank:4:i8")
row("lowrank_top_class_beyond", "lowrank:5:i4+top2", put("index", [10, 0]))
row("lowrank_top_infinite", "lowrank:5:i4+top2", put("top", np.inf))
row("a_codec_that_nobody_knows", "int8", lambda s: None, "int4")
row("a_codec_of_another_row", "int8", lambda s: s[1]["meta"].update(codec="fp16"))
sets.of_manifest("views_of_a_million", lambda d: d["views"].update(count=10**6))
sets.of_manifest(
    "labels_file_without_need",
    lambda d: d["labels"].update(file={"path": LABELS, "bytes": 100, "sha256": "0" * 64}) or d.update(format=2),
)

# ------------------------------------------------------------------ labels.safetensors


def tensors(edit: Callable[[dict[str, np.ndarray]], Any]) -> Callable[[Path], None]:
    """An edit of the tensors of a shared file."""

    def change(path: Path) -> None:
        held = {name: array.copy() for name, array in load(path.read_bytes()).items()}
        edit(held)
        path.write_bytes(save(held, metadata("lowrank:4")))

    return change


def twice(path: Path) -> None:
    """Two tensors of one name."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    text = data[8 : 8 + length].rstrip(b" ")
    text = text[:-1] + b',"basis":{"dtype":"F16","shape":[4],"data_offsets":[0,8]}}'
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def long_header(path: Path) -> None:
    """A header of a hundred megabytes of names."""
    entry = '{"dtype":"F16","shape":[0],"data_offsets":[0,0]}'
    text = "{" + ",".join(f'"{i:040d}":{entry}' for i in range(1_000_000)) + "}"
    path.write_bytes(struct.pack("<Q", len(text)) + text.encode())


file("basis_infinite", tensors(lambda t: t["basis"].__setitem__((1, 2), np.inf)))
file("basis_nan", tensors(lambda t: t["basis"].__setitem__((0, 0), np.nan)))
file("basis_of_nine_classes", tensors(lambda t: t.update(basis=t["basis"][:, :9].copy())))
file("basis_in_single", tensors(lambda t: t.update(basis=t["basis"].astype(np.float32))))
file("scale_nan", tensors(lambda t: t["scale"].__setitem__(0, np.nan)))
file("offset_missing", tensors(lambda t: t.pop("offset")))
file("offset_infinite", tensors(lambda t: t["offset"].__setitem__(3, -np.inf)))
file("labels_file_with_a_tensor_more", tensors(lambda t: t.update(payload=np.zeros(100_000, np.uint8))))
file("labels_file_with_a_name_twice", twice)
file("labels_file_of_a_hundred_megabytes", long_header)
file("labels_file_that_says_so", lambda path: path.write_bytes(struct.pack("<Q", 100_000_000) + path.read_bytes()[8:]))
file(
    "labels_file_whose_shape_holds_a_list",
    lambda path: path.write_bytes(sets.with_shape(path.read_bytes(), [10**9, [1]])),
)
file("labels_file_of_exabytes", lambda path: path.write_bytes(struct.pack("<Q", 2**63) + b"{}"))
file("labels_file_is_a_pickle", lambda path: path.write_bytes(pickle.dumps({"basis": [1.0]})))
file(
    "labels_file_of_another_codec", lambda path: path.write_bytes(save(load(path.read_bytes()), metadata("lowrank:5")))
)
file("labels_file_is_empty_json", lambda path: path.write_bytes(struct.pack("<Q", 2) + b"{}"))


@sets.case
def labels_file_is_missing(root: Path) -> None:
    with_codec(root, "lowrank:4")
    (root / LABELS).unlink()


@sets.case
def labels_file_is_a_link(root: Path) -> None:
    with_codec(root, "lowrank:4")
    (root / LABELS).rename(root.parent / "precious" / LABELS)
    (root / LABELS).symlink_to(root.parent / "precious" / LABELS)


@sets.case
def labels_file_is_the_teachers(root: Path) -> None:
    with_codec(root, "lowrank:4")
    (root / LABELS).rename(root / TEACHER)
    sets.manifest(root, lambda data: listed(root, data, TEACHER))


@sets.case
def labels_file_of_a_terabyte(root: Path) -> None:
    with_codec(root, "lowrank:4")
    os.truncate(root / LABELS, 10**12)
    sets.manifest(root, lambda data: data["labels"]["file"].update(bytes=10**12))


# ------------------------------------------------------------------ teacher.safetensors


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("touch ran",)


def network(
    edit: Callable[[dict[str, Any]], Any], weights: Callable[[dict[str, np.ndarray]], Any] = len
) -> Callable[[Path], None]:
    """An edit of the metadata and the weights of a carried network; it lacks its own hash, as those of others do."""

    def change(path: Path) -> None:
        data = path.read_bytes()
        said = json.loads(json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]["ddkit"])
        del said["sha256"]
        held = {name: array.copy() for name, array in load(data).items()}
        edit(said)
        weights(held)
        path.write_bytes(save(held, {"ddkit": json.dumps(said)}))

    return change


def carried(name: str, edit: Callable[[Path], Any]) -> None:
    file(f"teacher_{name}", edit, "teacher")


carried("of_another_network", network(lambda m: m.update(arch="convnet4")))
carried("of_a_network_of_gigabytes", network(lambda m: m.update(arch="timm:vit_giant_patch14_224")))
carried("of_a_network_that_nobody_knows", network(lambda m: m.update(arch="evil")))
carried("of_a_network_of_the_hub", network(lambda m: m.update(arch="timm:hf-hub:evil/x")))
carried("of_a_path", network(lambda m: m.update(arch="../../precious/secret.txt")))
carried("of_nine_classes", network(lambda m: m.update(num_classes=9, classes=[str(i) for i in range(9)])))
carried("of_a_billion_classes", network(lambda m: m.update(num_classes=10**9)))
carried("of_another_size", network(lambda m: m.update(image_size=64, eval={"resize": 64, "crop": 64})))
carried("of_another_mean", network(lambda m: m.update(mean=[0, 0, 0])))
carried("without_a_weight", network(len, lambda w: w.pop(min(w))))
carried("of_weights_nan", network(len, lambda w: w[min(w)].fill(np.nan)))
carried("of_complex_weights", network(len, lambda w: w.update({k: v.astype(np.complex64) for k, v in w.items()})))
carried("that_was_changed", lambda path: path.write_bytes(path.read_bytes()[:-4] + bytes(4)))
carried("is_a_pickle", lambda path: path.write_bytes(pickle.dumps(Evil())))
carried("is_text", lambda path: path.write_bytes(b"# no network"))


@sets.case
def teacher_is_missing(root: Path) -> None:
    with_codec(root, "teacher")
    (root / TEACHER).unlink()


@sets.case
def teacher_of_another_hash(root: Path) -> None:
    with_codec(root, "teacher")
    sets.manifest(root, lambda data: data["labels"]["file"].update(sha256="0" * 64))
