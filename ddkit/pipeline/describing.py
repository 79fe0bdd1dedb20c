"""From what was made to a finished directory: the manifest's facts, the last check, card and preview."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ddkit.core.console import note
from ddkit.core.device import versions
from ddkit.core.files import is_abandoned, read_sealed_json, write_sealed
from ddkit.core.serialization import canonical, fingerprint, to_plain
from ddkit.errors import IntegrityError
from ddkit.format.codecs import fidelity
from ddkit.format.damage import open_shard
from ddkit.format.manifest import Manifest, check_links, is_set, read_manifest, write_manifest
from ddkit.format.rows import RowFormat
from ddkit.format.schema import FILE as FILE_NAME
from ddkit.format.shards import member, shard_rows
from ddkit.format.verification import verify
from ddkit.labelling.encoded import Rows, ShardPlan, images_unit, save_rows
from ddkit.labelling.labels import Labelling
from ddkit.labelling.packing import PackJob
from ddkit.publishing.card import publish_files
from ddkit.specs import ClassName, Protocol, TeacherSpec, ViewSpec

COST = "cost.json"
REAL_PIXELS = {"real": "whole", "patches": "crops", "noise": "none", "import": "none"}


def add_cost(work: Path, seconds: Mapping[str, float], peak_bytes: int = 0) -> None:
    """Add seconds to the parts in OUT.work/cost.json, which the manifest's cost sums over resumes; memory's peak."""
    costs = read_cost(work)
    for part, value in seconds.items():
        costs[part] = round(costs.get(part, 0.0) + value, 3)
    costs["peak_memory_bytes"] = max(peak_bytes, int(costs.get("peak_memory_bytes", 0)))
    write_sealed(work / COST, canonical(costs).encode())


def read_cost(work: Path) -> dict[str, float]:
    """What `add_cost` summed; where that is damaged it begins anew, since only times are in it."""
    found = read_sealed_json(work / COST)
    if found is None and (work / COST).exists():
        note(f"{work / COST} is damaged, or of ddkit 0.4: the times of earlier runs are not counted")
        (work / COST).unlink()
    return found or {}


def cost_facts(work: Path, records: Sequence[dict[str, Any]], rows: int, device: str) -> dict[str, Any]:
    """The manifest's `cost`: seconds of each part, summed over units and resumes; peak memory of a unit in bytes."""
    seconds = {"teach": 0.0, "select": 0.0, "recover": 0.0, "student": 0.0, "peak_memory_bytes": 0} | read_cost(work)
    seconds["relabel"] = round(sum(record["seconds"] for record in records), 3)
    per_image = round(1000 * sum(seconds[part] for part in ("recover", "select", "student")) / max(rows, 1), 3)
    return seconds | {"ms_per_image": per_image, "device": device}


def label_facts(codec: str, temperature: float, records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The manifest's `labels`; fidelity over all views of all shards."""
    sums = np.sum([record["fidelity"] for record in records], axis=0)
    return {"codec": codec, "fidelity": fidelity(sums), "temperature": temperature, "group": 1}


def view_facts(law: ViewSpec, size: int, protocol: str, groups: Sequence[int] | None, device: str) -> dict[str, Any]:
    """The manifest's `views`."""
    backend = "cuda" if device.startswith("cuda") else "cpu"
    mix_groups = None if groups is None else list(groups)
    return to_plain(law) | {"size": size, "protocol": protocol, "mix_groups": mix_groups, "backend": backend}


def teacher_facts(teacher: TeacherSpec, where: str) -> dict[str, Any]:
    """One entry of the manifest's `teachers`."""
    return {
        "arch": teacher.arch,
        "hash": teacher.hash,
        "weight": 1.0,
        "mode": "eval",
        "accuracy": teacher.accuracy,
        "measured_on": teacher.measured_on,
        "where": where,
    }


def recommended(protocol: Protocol, arch: str) -> dict[str, Any]:
    """The manifest's `recommended`: how to train from the set. A protocol that is not shipped is carried whole."""
    return {"protocol": protocol.name, "definition": protocol.definition(), "arch": arch, "overrides": {}}


def class_facts(classes: Sequence[ClassName]) -> list[dict[str, Any]]:
    return [{"name": c.name, "id": c.id} for c in classes]


def fresh_facts(size: int) -> dict[str, Any]:
    """What every new manifest begins with."""
    return {
        "created_by": versions(),
        "install": "pip install ddkit",
        "repo": None,
        "license": None,
        "shard_rows": shard_rows(size),
        "relabelled_from": None,
        "subset_of": None,
        "results": [],
    }


def shard_key(key: str, prefixes: Sequence[int]) -> str:
    """What the units of a prefix's shards are sealed under. key: of the run; prefixes: up to this one."""
    return fingerprint([key, list(prefixes)])


def shard_plans_of(manifest: Manifest, key: str) -> list[ShardPlan]:
    """The shards of a set as they were planned. key: of the run that goes on with them."""
    plans, first, numbers = [], 0, dict.fromkeys(manifest.prefixes, 0)
    for shard in manifest.data["shards"]:
        prefix = shard["prefix"]
        stage = manifest.prefixes.index(prefix) + 1
        mine = shard_key(key, manifest.prefixes[:stage])
        plans.append(
            ShardPlan(prefix=prefix, stage=stage, number=numbers[prefix], first=first, rows=shard["rows"], key=mine)
        )
        numbers[prefix] += 1
        first += shard["rows"]
    return plans


def restore_images(manifest: Manifest, work: Path, key: str) -> list[ShardPlan]:
    """The `images` units of a set, from its published bytes, where they are not there. Raises IntegrityError."""
    form = RowFormat.of(manifest)
    plans = shard_plans_of(manifest, key)
    for plan, shard in zip(plans, manifest.data["shards"]):
        if images_unit(work, plan).is_good():
            continue
        tar, records = open_shard(manifest, shard)
        metas = [form.unpack(member(tar, r.views), f"{plan.path} row {r.row}")[2] for r in records]
        images = [member(tar, r.image) for r in records]
        labels, ranks = np.array([r.label for r in records]), np.array([m["rank"] for m in metas])
        save_rows(work, plan, Rows(images, labels, ranks, [m["origin"] for m in metas]))
    return plans


def restore_units(manifest: Manifest, how: Labelling, key: str) -> None:
    """Where OUT.work is gone: the units of packed shards again, so that a growth begins where the set ends."""
    found = manifest.data["labels"]["fidelity"]
    for plan, shard in zip(restore_images(manifest, Path(how.work), key), manifest.data["shards"]):
        pack = PackJob(how=how, shard=plan)
        if pack.record() is None:
            views = plan.rows * manifest.view_spec.count
            sums = [*(found[f"kl_t{t}"] * views for t in (1, 4, 20)), found["top1_agreement"] * views, views]
            pack.save({"entry": shard, "fidelity": sums, "seconds": 0.0})


def kept_facts(out: Path) -> dict[str, Any]:
    """What a set that is grown or made again keeps of its manifest: what was measured, and where it was published."""
    return {key: read_manifest(out).data[key] for key in ("results", "repo", "license")} if is_set(out) else {}


def earlier_devices(out: Path) -> list[str]:
    """Device classes that made what stands in OUT."""
    return read_manifest(out).data["devices"] if is_set(out) else []


def finish(out: Path, data: dict[str, Any]) -> Manifest:
    """Write the manifest, check every byte against it, remove what killed runs left, render card and preview. Of what
    lies beside the listed files only shards and row records go, and temporary files whose writer is gone.

    Raises IntegrityError when the check fails (the disk is at fault).
    """
    manifest = write_manifest(out, data)
    listed = manifest.files()
    check_links(out)
    for path in (*out.glob("data/*"), *out.glob("images/*"), *out.iterdir()):
        name = path.relative_to(out).as_posix()
        ours = is_abandoned(path) or (FILE_NAME.fullmatch(name) is not None and name not in listed)
        if ours and path.is_file():
            path.unlink(missing_ok=True)
    if problems := verify(out):
        raise IntegrityError(f"{out}: {problems[0]}; the disk did not keep what was written, run the command again")
    publish_files(manifest)
    return read_manifest(out)
