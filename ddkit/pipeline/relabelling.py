"""A new set from the images of another: same bytes, rows and shards, new views and labels."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ddkit.core.device import cores, device_class, pick_device
from ddkit.core.files import is_temporary, locked, read_limited, write_bytes
from ddkit.core.seeds import permutation, rng
from ddkit.core.serialization import fingerprint, to_plain
from ddkit.errors import OptionError, OtherRun, SetError
from ddkit.format.codecs import find_codec
from ddkit.format.manifest import Manifest, is_set
from ddkit.format.shards import row_key
from ddkit.format.views import network_input
from ddkit.labelling.labels import FORWARD, Labelling
from ddkit.labelling.packing import label_and_pack
from ddkit.pipeline.describing import (
    cost_facts,
    finish,
    fresh_facts,
    label_facts,
    recommended,
    restore_images,
    teacher_facts,
    view_facts,
)
from ddkit.pipeline.record import check_counts, check_out, check_work, public_name, work_dir
from ddkit.replay.stores.memory import load_set
from ddkit.sets.opening import open_set
from ddkit.specs import Protocol, TeacherSpec
from ddkit.teachers.resolving import find_teacher, match_teacher
from ddkit.teachers.teacher import Teacher

RECORD = "relabel.json"


def relabel(
    directory: str | Path,
    out: str | Path,
    *,
    teacher: str,
    protocol: str | None = None,
    views: int | None = None,
    codec: str | None = None,
    mix_within: str | None = None,
    seed: int | None = None,
    device: str = "auto",
    workers: int | None = None,
) -> Manifest:
    """Label the images of the set `directory` anew, into the set `out`; rows and shard membership stay.

    teacher: FILE, `timm:NAME[@FILE]` or `torchvision:NAME[@FILE]`; protocol, views, codec, seed: default the set's.
    mix_within: mix only within groups of classes: `5x200:SEED` (5 seeded groups of 200 classes), or a text file with a
    line `CLASS<tab>GROUP` for each class. Run again, it continues. Returns the manifest of `out`.
    Raises SetError, TeacherError, OptionError, OtherRun, IntegrityError, DiskError.
    """
    check_counts({"views": views, "seed": seed, "workers": workers})
    source, out = open_set(directory), Path(out)
    where = pick_device(device)
    path = find_teacher(teacher, None, size=None, seed=0, device=where)
    spec, order = match_teacher(path, source.classes, str(directory))
    chosen = source.protocol(protocol)
    count = views or (source.view_spec.count if chosen.name == source.data["views"]["protocol"] else None)
    law = chosen.view_spec(patches=source.patches, dataset=source.dataset, count=count)
    codec = codec or source.data["labels"]["codec"]
    find_codec(codec)
    groups = _groups(mix_within, source.class_names)
    seed = source.data["seed"] if seed is None else seed
    how = Labelling(
        out=str(out), work=str(work_dir(out)), teacher=str(path), teacher_hash=spec.hash, order=order, law=law,
        seed=seed, size=spec.image_size, image_codec=source.image_codec, codec=codec, patches=source.patches,
        groups=groups, device=str(where),
    )  # fmt: skip
    key = fingerprint([asdict(how) | {"out": "", "work": "", "teacher": spec.hash}, source.data["content"]])
    mine = fingerprint([key, list(spec.mean), list(spec.std), to_plain(spec.transform), to_plain(chosen)])
    with locked(out, "relabelling", {"key": mine}):
        claim(out, key, mine, "relabelling")
        return _relabelled(source, how, key, mine, spec, chosen, public_name(str(path)), workers or cores())


def _relabelled(
    source: Manifest, how: Labelling, fingerprint_: str, key: str, spec: TeacherSpec, chosen: Protocol, where: str,
    workers: int,
) -> Manifest:  # fmt: skip
    """The set `how.out`, by the one process that may write into it. key: of its units; where: the teacher's name."""
    out, device = Path(how.out), torch.device(how.device)
    plans = restore_images(source, Path(how.work), key)
    keep_tars = source.data["image_tars"] or None
    records = label_and_pack(how, plans, workers if device.type == "cpu" else 1, keep_tars)
    train = chosen.train_spec(ipc=source.ipc, arch=spec.arch, dataset=source.dataset)
    kept = ("name", "classes", "ipc", "image", "method", "recipe", "prefixes", "real_pixels", "log", "source")
    data: dict[str, Any] = {key: source.data[key] for key in kept} | fresh_facts(source.image_size)
    origin = {"name": source.data["name"], "content": source.data["content"], "repo": source.data["repo"]}
    data |= {
        "views": view_facts(how.law, spec.image_size, chosen.name, how.groups, how.device),
        "normalisation": {"mean": list(spec.mean), "std": list(spec.std)},
        "eval": to_plain(spec.transform),
        "labels": label_facts(how.codec, train.temperature, records),
        "seed": how.seed,
        "fingerprint": fingerprint_,
        "shard_rows": source.data["shard_rows"],
        "recommended": recommended(chosen, spec.arch),
        "cost": cost_facts(Path(how.work), records, source.rows(), device_class(device)),
        "devices": sorted({device_class(device), *source.data["devices"]}),
        "teachers": [teacher_facts(spec, where)],
        "shards": [record["entry"] for record in records],
        "image_tars": bool(records[0]["entry"]["images"]),
        "relabelled_from": origin,
    }
    return finish(out, data)


def claim(out: Path, fingerprint_: str, key: str, what: str) -> None:
    """Make OUT this relabelling's (or import's: `what`), or raise OtherRun where it is something else's.

    fingerprint_: as its manifest has it, which is all that a record of ddkit 0.4 holds; key: with the teacher's
    normalisation.
    """
    record = work_dir(out) / RECORD
    check_out(out)
    check_work(work_dir(out))
    if record.is_file():
        if (read_limited(record, 1000) or b"").decode("ascii", "replace") not in (key, fingerprint_):
            raise OtherRun(
                f"{out} was begun by another {what} (images, teacher, protocol or views differ); choose another OUT"
            )
        return
    if is_set(out) or (out.exists() and (not out.is_dir() or any(not is_temporary(p) for p in out.iterdir()))):
        raise OtherRun(f"{out} is not empty; give the name of a new directory")
    write_bytes(record, key.encode())


def _groups(choice: str | None, classes: list[str]) -> tuple[int, ...] | None:
    """The mixing group of each class, in label order. Raises OptionError."""
    if choice is None:
        return None
    if found := re.fullmatch(r"(\d+)x(\d+):(\d+)", choice):
        groups, size, seed = (int(part) for part in found.groups())
        if groups * size != len(classes):
            raise OptionError(f"--mix-within {choice} is for {groups * size} classes, the set has {len(classes)}")
        order = permutation(seed, len(classes), "mix-groups")
        result = np.empty(len(classes), int)
        result[order] = np.arange(len(classes)) // size
        return tuple(int(g) for g in result)
    if not Path(choice).is_file():
        raise OptionError(f"--mix-within {choice!r} is neither a file nor GROUPSxCLASSES:SEED, as in 5x200:0")
    lines = [line.rpartition("\t") for line in Path(choice).read_text(encoding="utf-8").splitlines() if line.strip()]
    table = {name: group for name, _, group in lines}
    if missing := [name for name in classes if name not in table]:
        raise OptionError(f"--mix-within {choice} has no line for class {missing[0]!r}; write CLASS<tab>GROUP for each")
    numbers = {group: i for i, group in enumerate(sorted(set(table.values())))}
    return tuple(numbers[table[name]] for name in classes)


def label_problems(manifest: Manifest, teacher: str, *, sample: int = 256, device: str = "auto") -> list[str]:
    """Label some stored views again and compare: what is wrong, one line each; at most the first five.

    sample: views, spread over the set by its seed. Logits may differ as between kinds of hardware, up to 2 % of a
    view's largest. Raises TeacherError, ClassesError, and SetError for another teacher than the set's.
    """
    where = pick_device(device)
    path = find_teacher(teacher, None, size=manifest.size, seed=0, device=where)
    spec, order = match_teacher(path, manifest.classes, str(manifest.root))
    known = manifest.data["teachers"][0]["hash"]
    if spec.hash != known:
        raise SetError(
            f"{teacher} is not the set's teacher (weights {spec.hash[:12]}, not {known[:12]}); give that one"
        )
    network = Teacher.load(path, where, order)
    stored = load_set(manifest)
    assert stored.views is not None
    draw = rng(manifest.data["seed"], "verify-labels")
    rows = draw.integers(0, len(stored), sample)
    numbers = draw.integers(0, stored.views.count, sample)
    problems = []
    for start in range(0, sample, FORWARD):
        part = slice(start, start + FORWARD)
        inputs = network_input(
            stored.images.to(where), stored.views, rows[part], numbers[part], size=stored.size, mean=spec.mean,
            std=spec.std,
        )  # fmt: skip
        logits = network.logits(inputs).cpu()
        logits = logits - logits.mean(1, keepdim=True)
        labels = stored.logits(rows[part], numbers[part])
        wrong = (logits - labels).abs().amax(1) > 0.02 * logits.abs().amax(1) + 1e-3
        for i in (start + wrong.nonzero().flatten()).tolist():
            row = row_key(int(stored.rows[rows[i]]))
            problems.append(f"row {row} view {numbers[i]}: its label is not the teacher's")
    return problems[:5]


def law_problem(manifest: Manifest, protocol: Protocol) -> str | None:
    """Why the stored views of a set do not serve a protocol, or None. (Count and mixing groups may differ.)"""
    wanted = protocol.view_spec(patches=manifest.patches, dataset=manifest.dataset).law()
    stored = manifest.view_spec.law()
    if wanted == stored:
        return None
    key = next(key for key in wanted | stored if wanted.get(key) != stored.get(key))
    return f"its views were drawn with {key} {stored.get(key)}, protocol {protocol.name} has {wanted.get(key)}"


def demand_law(manifest: Manifest, protocol: Protocol) -> None:
    """Raises SetError, naming the relabelling that helps, where the stored views do not serve a protocol."""
    if problem := law_problem(manifest, protocol):
        raise SetError(
            f"{manifest.where}: {problem}; make a set for it with "
            f"`ddkit relabel {manifest.where} OUT --protocol {protocol.name} --teacher T`, or use --labels hard"
        )
