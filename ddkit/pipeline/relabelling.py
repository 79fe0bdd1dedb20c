"""Makes a new set from the images of another: same bytes, rows and shards, new views and labels."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ddkit.core.device import pick_device
from ddkit.core.files import is_temporary, read_limited, write_bytes
from ddkit.core.seeds import permutation, rng
from ddkit.core.serialization import fingerprint, to_plain
from ddkit.core.worker_state import STATE
from ddkit.engine import Engine, select_engine
from ddkit.errors import OptionError, OtherRun, SetError
from ddkit.format.codecs.interface import centred
from ddkit.format.codecs.registry import find_codec
from ddkit.format.entries import row_key
from ddkit.format.manifest import Manifest, RelabelledFrom
from ddkit.format.manifest_file import is_set
from ddkit.labelling.labels import FORWARD, Labelling
from ddkit.labelling.packing import PackedShards
from ddkit.pipeline.describing import Made, build_manifest, existing_manifest, restore_images
from ddkit.pipeline.options import check_counts, check_precision, known_codec
from ddkit.pipeline.recoding import has_same_labels, take_labels
from ddkit.pipeline.record import check_out, check_work, public_name, work_dir
from ddkit.pipeline.sharing import finish_in_turn, in_turn, writing
from ddkit.pipeline.units import label_and_pack
from ddkit.replay.stores.memory import load_set
from ddkit.sets.opening import open_set
from ddkit.specs import Protocol, TeacherSpec
from ddkit.teachers.carried import load_carried
from ddkit.teachers.resolving import ResolvedTeacher, resolve_teacher

RECORD = "relabel.json"


def relabel(
    directory: str | Path,
    out: str | Path,
    *,
    teacher: str,
    protocol: str | None = None,
    views: int | None = None,
    codec: str | None = None,
    label_precision: str | None = None,
    mix_within: str | None = None,
    seed: int | None = None,
    device: str = "auto",
    workers: int | None = None,
    engine: str | None = None,
    devices: str | None = None,
) -> Manifest:
    """Label the images of a set again, into a new set with the same rows and shards.

    A second call with the same `out` continues the relabelling.

    Args:
        directory: The set whose images are used: a directory, or a Hub id.
        out: The directory of the new set.
        teacher: A checkpoint, "timm:NAME[@FILE]" or "torchvision:NAME[@FILE]".
        protocol: A protocol's name or TOML file. Default: the set's.
        views: Stored views per image. Default: the set's; with another protocol, that protocol's.
        codec: Codec of the soft labels, as for `distill`. Default: the set's.
        label_precision: Arithmetic of the teacher: "float32" or "bfloat16". Default: the set's, for stored labels.
        mix_within: Mix images only within groups of classes: "5x200:SEED" (5 seeded groups of 200 classes), or a text
            file with a line CLASS<tab>GROUP for each class.
        seed: Seed of the views. Default: the set's.
        device: "auto" or a torch device name.
        workers: Number of processes. Default: the number of cores.
        engine: Where units run, as for `distill`.
        devices: GPUs to use, as for `distill`.

    Returns:
        The manifest of `out`.

    Raises:
        SetError, TeacherError, OptionError, OtherRun, IntegrityError, DiskError.
    """
    check_counts(views=views, seed=seed, workers=workers)
    source, out, where = open_set(directory), Path(out), pick_device(device)
    runner = select_engine(engine, device=where, workers=workers, devices=devices, work=work_dir(out))
    STATE.drop()
    found = resolve_teacher(teacher, source.classes, str(directory))
    chosen = source.protocol(protocol)
    count = views or (source.views.count if chosen.name == source.views.protocol else None)
    policy = chosen.view_spec(patches=source.image.patches, dataset=source.recipe.dataset, count=count)
    codec = known_codec(codec or source.labels.codec, source.classes)
    inherited = "float32" if find_codec(codec).FROM_PIXELS else source.labels.precision
    how = Labelling(
        out=str(out), work=str(work_dir(out)), teacher=str(found.path), teacher_hash=found.spec.hash,
        order=found.order, policy=policy, seed=source.seed if seed is None else seed, size=found.spec.image_size,
        image_codec=source.image.codec, codec=codec, patches=source.image.patches,
        groups=_groups(mix_within, source.class_names), device=str(where),
        precision=check_precision(label_precision or inherited, device, codec),
    )  # fmt: skip
    claim = Claim.of(how, found.spec, chosen, source.content)
    with writing(out, "relabelling", {"key": claim.key}, runner):
        return _relabelled(source, how, claim, found, chosen, runner)


def _relabelled(
    source: Manifest, how: Labelling, claim: Claim, teacher: ResolvedTeacher, chosen: Protocol, engine: Engine
) -> Manifest:
    """Make the set `how.out`; this process holds its lock, or shares the run with others."""
    out, packed = Path(how.out), PackedShards(how, source.image_tars or None)
    with in_turn(out, "relabelling", {"key": claim.key}, engine):
        claim.take(out, "relabelling")
        shards = restore_images(source, how, claim.key)
        if has_same_labels(source, how, teacher.spec):
            take_labels(source, how, packed.missing(shards))
    records = label_and_pack(packed, shards, engine)
    made = Made(
        name=source.name, classes=source.classes, image=source.image, method=source.method, recipe=source.recipe,
        fingerprint=claim.fingerprint, prefixes=source.prefixes, real_pixels=source.real_pixels, log=source.log,
        source=source.source, devices=source.devices, kept=existing_manifest(out),
        relabelled_from=RelabelledFrom(name=source.name, content=source.content, repo=source.repo),
    )  # fmt: skip
    manifest = build_manifest(
        made, how, records, label_file=packed.label_file, teacher=teacher.spec,
        teacher_name=public_name(str(teacher.path)), protocol=chosen,
    )  # fmt: skip
    return finish_in_turn(out, manifest, engine, lambda: claim.holds(out))


def labelling_settings(teacher: TeacherSpec, protocol: Protocol) -> list[Any]:
    """Return the teacher's preprocessing, which its hash does not cover, and the protocol, as JSON values.

    Args:
        teacher: Spec of the teacher.
        protocol: The protocol.
    """
    return [list(teacher.mean), list(teacher.std), to_plain(teacher.transform), to_plain(protocol)]


@dataclass(frozen=True)
class Claim:
    """Identifies the relabelling or import that a directory belongs to.

    Attributes:
        fingerprint: Hash of the labelling and the images, as in the manifest.
        key: Hash of the fingerprint, the teacher's preprocessing and the protocol.
    """

    fingerprint: str
    key: str

    @classmethod
    def of(cls, how: Labelling, teacher: TeacherSpec, protocol: Protocol, *images: Any) -> Claim:
        """Compute the claim of a labelling.

        Args:
            how: The labelling.
            teacher: Spec of the teacher.
            protocol: The protocol.
            images: JSON values that identify the images.
        """
        labelling = {name: value for name, value in to_plain(how).items() if name != "policy"}
        labelling |= {"law": to_plain(how.policy), "out": "", "work": "", "teacher": teacher.hash}
        shared = fingerprint([labelling, *images])
        return cls(shared, fingerprint([shared, *labelling_settings(teacher, protocol)]))

    def holds(self, out: Path) -> bool:
        """Return whether a directory belongs to this relabelling or import.

        Args:
            out: The directory OUT.
        """
        return claimed_key(out) in (self.key, self.fingerprint)  # a record of ddkit 0.4 holds the fingerprint alone

    def take(self, out: Path, what: str) -> None:
        """Reserve a directory for this relabelling or import, by a record in OUT.work.

        Args:
            out: The directory OUT.
            what: "relabelling" or "import", for messages.

        Raises:
            OtherRun: The directory belongs to another run, or is not empty.
        """
        check_out(out)
        check_work(work_dir(out))
        if claimed_key(out) is not None:
            if not self.holds(out):
                raise OtherRun(
                    f"{out} belongs to another {what} (images, teacher, protocol or views differ); choose another OUT"
                )
            return
        if is_set(out) or (out.exists() and (not out.is_dir() or any(not is_temporary(p) for p in out.iterdir()))):
            raise OtherRun(f"{out} is not empty; give the name of a new directory")
        write_bytes(work_dir(out) / RECORD, self.key.encode())


def claimed_key(out: Path) -> str | None:
    """Return the key of the relabelling or import that a directory belongs to, or None if OUT.work records none.

    Args:
        out: The directory OUT.
    """
    record = work_dir(out) / RECORD
    return (read_limited(record, 1000) or b"").decode("ascii", "replace") if record.is_file() else None


def _groups(choice: str | None, classes: list[str]) -> tuple[int, ...] | None:
    """Return the mixing group of each class, in label order. Raises OptionError."""
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
    if not os.path.isfile(choice):
        raise OptionError(f"--mix-within {choice!r} is neither a file nor GROUPSxCLASSES:SEED, as in 5x200:0")
    lines = [line.rpartition("\t") for line in Path(choice).read_text(encoding="utf-8").splitlines() if line.strip()]
    table = {name: group for name, _, group in lines}
    if missing := [name for name in classes if name not in table]:
        raise OptionError(f"--mix-within {choice} has no line for class {missing[0]!r}; write CLASS<tab>GROUP for each")
    numbers = {group: i for i, group in enumerate(sorted(set(table.values())))}
    return tuple(numbers[table[name]] for name in classes)


def teacher_of(manifest: Manifest, ref: str) -> ResolvedTeacher:
    """Resolve the teacher that labelled a set.

    Args:
        manifest: The set.
        ref: The teacher, as for `--teacher`.

    Raises:
        TeacherError, ClassesError.
        SetError: It is another teacher than the set's.
    """
    found = resolve_teacher(ref, manifest.classes, str(manifest.root), size=manifest.views.size)
    if found.spec.hash != manifest.teacher.hash:
        raise SetError(
            f"{ref} is not the set's teacher (weights {found.spec.hash[:12]}, not {manifest.teacher.hash[:12]}); "
            "give that one"
        )
    return found


def label_problems(manifest: Manifest, teacher: str, *, sample: int = 256, device: str = "auto") -> list[str]:
    """Label a sample of the stored views again and compare the logits with the stored labels.

    Logits may differ between kinds of hardware, by up to 2 % of the view's largest logit.

    Args:
        manifest: The set.
        teacher: The set's teacher, as for `--teacher`.
        sample: Number of views, drawn over the whole set with its seed.
        device: "auto" or a torch device name.

    Returns:
        One line per differing label, at most five; empty if all agree.

    Raises:
        TeacherError, ClassesError.
        SetError: `teacher` is not the set's teacher.
    """
    where, found = pick_device(device), teacher_of(manifest, teacher)
    network, stored = found.open(where), load_set(manifest).to(where)
    codec = stored.decoder.codec
    carried = load_carried(manifest, where) if codec.FROM_PIXELS else network
    temperature = codec.usual_temperature(20.0)
    draw = rng(manifest.seed, "verify-labels")
    rows = draw.integers(0, len(stored), sample)
    view_indices = draw.integers(0, stored.views, sample)
    problems = []
    for start in range(0, sample, FORWARD):
        part = slice(start, start + FORWARD)
        inputs = stored.batch(rows[part], view_indices[part]).pixels.network_input(found.spec.mean, found.spec.std)
        logits = centred(network.logits(inputs).cpu().numpy())
        if codec.FROM_PIXELS:
            labels, again = centred(carried.logits(inputs).cpu().numpy()), logits
        else:
            labels = stored.logits(rows[part], view_indices[part], temperature)
            encoded = codec.encode(logits, stored.decoder.shared, draw)
            again = stored.decoder.decode(encoded, temperature)
        for i in (start + np.flatnonzero(~codec.agree(labels, again))).tolist():
            row = row_key(int(stored.rows[rows[i]]))
            problems.append(f"row {row} view {view_indices[i]}: its stored label differs from the teacher's")
    return problems[:5]


def policy_problem(manifest: Manifest, protocol: Protocol) -> str | None:
    """Return why the stored views of a set do not match a protocol's augmentation policy, or None if they do.

    The number of views and the mixing groups may differ.

    Args:
        manifest: The set.
        protocol: The protocol.
    """
    policy = protocol.view_spec(patches=manifest.image.patches, dataset=manifest.recipe.dataset)
    wanted, stored = policy.comparable(), manifest.views.policy.comparable()
    if wanted == stored:
        return None
    key = next(key for key in wanted | stored if wanted.get(key) != stored.get(key))
    return f"its views were drawn with {key} {stored.get(key)}, protocol {protocol.name} has {wanted.get(key)}"


def require_policy(manifest: Manifest, protocol: Protocol) -> None:
    """Check that the stored views of a set match a protocol's augmentation policy.

    Args:
        manifest: The set.
        protocol: The protocol.

    Raises:
        SetError: They do not; the message gives the `ddkit relabel` command that makes such a set.
    """
    if problem := policy_problem(manifest, protocol):
        raise SetError(
            f"{manifest.where}: {problem}; make a set for it with "
            f"`ddkit relabel {manifest.where} OUT --protocol {protocol.name} --teacher T`, or use --labels hard"
        )
