"""Readers of sets, networks, cards, protocols and OUT.work.

Whatever is accepted is used as a command would use it, and compared with what another reader of the same bytes says.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from ddkit.core.files import read_sealed_json
from ddkit.core.front_matter import front_matter
from ddkit.engine.units import UnitFile
from ddkit.errors import FormatVersion, IntegrityError, OptionError, SetError, TeacherError
from ddkit.format.codecs.registry import find_codec
from ddkit.format.images import check_image, decode_image
from ddkit.format.label_file import parse_shared
from ddkit.format.manifest_file import parse_manifest
from ddkit.format.row_format import RowFormat
from ddkit.format.row_records import images_layout_problem, parse_rows, records_problem, write_rows
from ddkit.format.view_pixels import network_input
from ddkit.format.views import Views
from ddkit.format.views_member import pack_views
from ddkit.networks.checkpoints import load_checkpoint, read_weights
from ddkit.pipeline.costs import read_cost
from ddkit.pipeline.record import load_record
from ddkit.publishing.rendering import info_json, render_card, user_front_matter
from ddkit.publishing.user_content import UserContent, user_content_of
from ddkit.replay.dataset_rows import apply_view, decode_row
from ddkit.specs import Protocol, Recipe
from fuzz import inputs, mutations
from fuzz.checking import TARGETS, Target, agree, file_of, target
from fuzz.mutations import joined, of_bytes, of_json, of_parts, of_safetensors, or_bytes, parts_of

# ------------------------------------------------------------------ the files of a set


@target(
    "manifest",
    IntegrityError,
    FormatVersion,
    weight=1.5,
    mutate=of_json(inputs.true_manifest),
    inputs=lambda: [
        inputs.golden().to_bytes(),
        inputs.protocol_in_manifest(),
        *(inputs.with_codec(name).to_bytes() for name in ("topk:3", "lowrank:4", "teacher")),
    ],
)
def read_manifest_bytes(data: bytes) -> None:
    manifest = parse_manifest(data, Path("ddkit.json")).at(Path("set"))
    again = parse_manifest(manifest.to_bytes(), Path("ddkit.json"))
    agree(
        again == manifest and again.to_bytes() == manifest.to_bytes(),
        "a manifest that is written differently than read",
    )
    form = RowFormat.of(manifest)
    agree(form.tensor_bytes < 2**31 and form.largest_views > 0, "rows without a limit")
    agree(
        manifest.rows() == sum(shard.rows for shard in manifest.shards) and bool(manifest.files()),
        "rows that do not add up",
    )
    manifest.protocol() if Protocol.is_shipped(
        manifest.recommended.protocol
    ) or manifest.recommended.definition else None
    json.loads(info_json(manifest))


@target(
    "rows",
    IntegrityError,
    inputs=lambda: [inputs.shard()[1]],
    mutate=or_bytes(mutations.of_text("\t", "\n", "9" * 16, "0", "a" * 64)),
)
def read_rows(data: bytes) -> None:
    records = parse_rows(data, "data/x.rows")
    agree(write_rows(records) == data, "row records that are written differently than read")
    tar = inputs.shard()[0]
    if records_problem(tar, records, "png") is None:
        agree(
            [r.label for r in records] == [r.label for r in parse_rows(inputs.shard()[1], "")], "records of another tar"
        )
    images_layout_problem(tar, records, "png")


@target("shard", IntegrityError, mutate=of_parts(mutations.of_tar, of_bytes), inputs=lambda: [joined(*inputs.shard())])
def read_shard(data: bytes) -> None:
    """A tar that is accepted holds, for Python's own reader too, exactly the members of its records."""
    tar, lines = parts_of(data, 2)
    records = parse_rows(lines, "data/x.rows")
    if records_problem(tar, records, "png") is None:
        with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
            found = [(info.name, info.offset_data, info.size) for info in archive]
        agree(
            len(found) == 3 * len(records)
            and all(
                info[1:] == (place.offset, place.length)
                for info, place in zip(
                    (info for i, info in enumerate(found) if i % 3), (p for r in records for p in (r.image, r.views))
                )
            ),
            "other members",
        )


def views_of(name: str, mix: str) -> Callable[[bytes], None]:
    """The reader of views members of a codec."""

    def read(data: bytes) -> None:
        form = RowFormat.of(inputs.with_codec(name, mix))
        row = form.unpack(data, "data/x.tar row 00000000")
        if problem := form.views_problem(row.views, np.array([0]), 10):
            raise IntegrityError(problem[1])
        views = row.views
        if name != "teacher":
            for temperature in form.codec.temperatures((1.0, 4.0, 20.0)):
                logits = inputs.decoder(name).decode(row.labels, temperature)
                agree(
                    logits.shape == (4, 10) and logits.dtype == np.float32 and bool(np.isfinite(logits).all()), "labels"
                )
        again = form.unpack(pack_views(views, row.labels, row.metadata), "")
        same = {**again.views.tensors(), **again.labels}
        agree(
            all((same[key] == array).all() for key, array in {**views.tensors(), **row.labels}.items()), "other tensors"
        )
        stacked = Views.stack([views] * 10)
        pixels = network_input(
            torch.zeros(10, 3, 32, 32, dtype=torch.uint8),
            stacked,
            np.zeros(4, int),
            np.arange(4),
            size=32,
            mean=form.shared["mean"],
            std=form.shared["std"],
        )
        agree(pixels.shape == (4, 3, 32, 32) and bool(pixels.isfinite().all()), "pixels")

    return read


for _name, _mix in (*((codec, "cutmix") for codec in inputs.CODECS), ("int8", "mixup"), ("fp16", "none")):
    _member = lambda name=_name, mix=_mix: [inputs.views_member(name, mix)]  # noqa: E731
    TARGETS[f"views-{_name}-{_mix}".replace(":", "-").replace("+", "-").removesuffix("-cutmix")] = Target(
        views_of(_name, _mix), (IntegrityError,), _member, or_bytes(of_safetensors, 0.1), 0.5
    )


@target("labels-file", IntegrityError, mutate=or_bytes(of_safetensors), inputs=lambda: [inputs.label_file("lowrank:4")])
def read_label_file(data: bytes) -> None:
    codec = find_codec("lowrank:4")
    shared = codec.prepared(parse_shared(data, codec, 10, "labels.safetensors"))
    code = np.array([[127, -128, 0, 5]], np.int8)
    agree(bool(np.isfinite(codec.decode({"code": code}, 10, 1.0, shared)).all()), "labels that are not finite")


@target(
    "dataset-row",
    SetError,
    IntegrityError,
    FormatVersion,
    mutate=of_parts(mutations.of_png, or_bytes(of_safetensors), of_bytes),
    inputs=lambda: [
        joined(inputs.first_image(), inputs.views_member(name), b"3") for name in ("fp16", "topk:3", "teacher")
    ],
)
def read_dataset_row(data: bytes) -> None:
    """A row without a manifest, as `load_dataset` yields it."""
    image, views, label = parts_of(data, 3)
    row = {"__key__": "00000000", "png": image, "views.safetensors": views, "cls": label.decode("latin1")}
    found = decode_row(row)
    agree("logits" not in found or bool(found["logits"].isfinite().all()), "labels that are not finite")
    pixels = apply_view(row, 0, row | {"__key__": f"{found['meta']['first'] + int(found.get('partner', [0])[0]):08d}"})
    agree(pixels.shape[1:] == (found["meta"]["size"],) * 2, "a view of another size")


@target(
    "stored-image",
    IntegrityError,
    mutate=or_bytes(mutations.of_png),
    inputs=lambda: [
        inputs.first_image(),
        inputs.image("WEBP", lossless=True),
        inputs.image("JPEG"),
        inputs.image("PNG", exif=inputs.turned()),
    ],
)
def read_stored_image(data: bytes) -> None:
    codec = "png" if data.startswith(b"\x89PNG") else "webp" if data.startswith(b"RIFF") else "jpg"
    check_image(data, codec, "row", 32)
    pixels = decode_image(data, codec, "row", 32)
    agree(pixels.shape == (3, 32, 32) and pixels.dtype == np.uint8, "pixels")


# ------------------------------------------------------------------ networks


@target(
    "weights",
    TeacherError,
    mutate=or_bytes(of_safetensors),
    inputs=lambda: [inputs.label_file("lowrank:4"), inputs.views_member("int8")],
)
def read_any_weights(data: bytes) -> None:
    with file_of(data) as path:
        tensors, metadata = read_weights(path)
        agree(isinstance(metadata, dict) and all(isinstance(t, torch.Tensor) for t in tensors.values()), "weights")


@target(
    "checkpoint",
    TeacherError,
    mutate=of_parts(of_json(), of_safetensors),
    inputs=lambda: [inputs.checkpoint_edits()],
    weight=1.5,
)
def read_checkpoint(data: bytes) -> None:
    """A checkpoint whose metadata is the first part, and some of whose weights are those of the second."""
    from safetensors.torch import load, save

    metadata, edits = parts_of(data, 2)
    try:
        tensors = {name: torch.from_numpy(array) for name, array in inputs.checkpoint()[1].items()} | load(edits)
        whole = save(tensors, {"ddkit": metadata.decode("utf-8", "replace")})
    except Exception:  # noqa: BLE001 (edits that are no safetensors: another target's)
        return
    with file_of(whole) as path:
        network, spec = load_checkpoint(path)
        agree(
            not network.training and all(bool(t.isfinite().all()) for t in network.parameters()),
            "weights that are not finite",
        )
        agree(0 < spec.num_classes == len(spec.classes) and 0 < spec.image_size <= 2048, "metadata without limits")


# ------------------------------------------------------------------ text


@target("card", ValueError, mutate=mutations.YAML, inputs=inputs.cards)
def read_card(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    user_content_of(text, user_front_matter)
    matter, _ = front_matter(text)
    agree(all(isinstance(key, str) for key in matter), "front matter")


@target(
    "rendered-card",
    IntegrityError,
    FormatVersion,
    ValueError,
    mutate=of_parts(of_json(inputs.true_manifest), mutations.YAML),
    inputs=lambda: [joined(inputs.golden().to_bytes(), card) for card in inputs.cards()],
)
def render_again(data: bytes) -> None:
    """A card is rendered of any manifest, and what a user wrote into it is read again as it was."""
    about, card = parts_of(data, 2)
    manifest = parse_manifest(about, Path("ddkit.json")).at(Path("set"))
    content = user_content_of(card.decode("utf-8", "replace"), user_front_matter)
    kept = content if not content.broken else UserContent()
    again = user_content_of(render_card(manifest, kept), user_front_matter)
    agree(
        not again.broken and again.before.strip() == kept.before.strip(), "a card that is written differently than read"
    )


@target("protocol", OptionError, mutate=mutations.TOML, inputs=inputs.protocol_files)
def read_protocol(data: bytes) -> None:
    with file_of(data, "mine.toml") as path:
        try:
            found = Protocol.load(str(path))
        except OptionError:
            Recipe.load(str(path))
            return
        agree(
            Protocol.from_table(found.definition() or {"name": found.name}, "itself").name == found.name,
            "another protocol",
        )


# ------------------------------------------------------------------ OUT.work


@target("record", IntegrityError, OptionError, mutate=of_json(), inputs=lambda: [inputs.record()])
def read_record(data: bytes) -> None:
    with file_of(data, "set.work/run.json") as path:
        found = load_record(path.parent.parent / "set")
        agree(found is not None and found.foreign, "a record that nobody signed counts as this user's")
        assert found is not None
        found.unnamed()
        found.load_protocol()


def _of_unit(data: bytes, rng: random.Random) -> bytes:
    return inputs.sealed(of_safetensors(inputs.unsealed(data), rng))


@target("unit", IntegrityError, mutate=or_bytes(_of_unit, 0.1), inputs=lambda: [inputs.unit()])
def read_unit(data: bytes) -> None:
    with file_of(data) as path:
        file = UnitFile(path, "k")
        with contextlib.suppress(IntegrityError):
            agree(isinstance(file.metadata(), dict), "metadata of no table")
        tensors, metadata = file.read()
        agree(
            isinstance(metadata, dict) and all(isinstance(t, np.ndarray) for t in tensors.values()),
            "a unit of no arrays",
        )


def _of_sealed_json(data: bytes, rng: random.Random) -> bytes:
    return inputs.sealed(of_json()(inputs.unsealed(data), rng), "-")


@target(
    "sealed-json",
    mutate=or_bytes(_of_sealed_json, 0.1),
    inputs=lambda: [inputs.sealed_json({"teach": 1.5, "made": {"x": [1, 2]}})],
)
def read_cost_log(data: bytes) -> None:
    with file_of(data, "cost.json") as path:
        read_sealed_json(path)
        agree(isinstance(read_cost(path.parent).peak, int), "a cost of no number")
