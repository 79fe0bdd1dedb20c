"""The main path: source -> teacher -> distiller -> images -> labels -> shards -> manifest, prefix by prefix.

Everything is a unit with one file in OUT.work. A unit whose file is there is not done again, so running the same
command again continues after any kill.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ddkit.core.files import locked
from ddkit.core.worker_state import STATE
from ddkit.format.manifest import ImageInfo, LogInfo, Manifest, RecipeInfo
from ddkit.labelling.packing import PackedShards
from ddkit.pipeline.describing import Made, build_manifest, finish, real_pixels_of, source_info, standing
from ddkit.pipeline.options import DistillOptions
from ddkit.pipeline.record import public_name, work_dir
from ddkit.pipeline.resolving import resolve
from ddkit.pipeline.run import Increment, Run
from ddkit.pipeline.units import encoding_units, labelling_units, packing_units, run_units, synthesis_units
from ddkit.text import plain_name


def distill(out: str | Path, **options: Any) -> Manifest:
    """Distil a source into the directory `out`: a finished, verified set that `load_dataset` opens.

    Run again with the same `out` it continues: options that are not given come from the record beside it, a larger
    `ipc` extends the set, any other difference is refused.

    Args:
        out: The directory to make. Beside it `out`.work keeps units, students and the record.
        data: The source: "digits", a folder of class folders, a folder or file of parquet or tar shards, a distilled
            set, or a Hub id "ORG/NAME[@REVISION]".
        method: A distiller's name, or a Python file with one. Default "cudd".
        ipc: Images per class. Default 10.
        seed: Of all randomness. Default 0.
        recipe: A shipped recipe's name, or a TOML file. Default: the method's for this source, else for its size.
        settings: Settings of the method by (dotted) key, over the recipe's.
        protocol: A shipped protocol's name, a TOML file, or a Protocol: the augmentation policy of the views and how
            students train. Default: the recipe's.
        views: Views stored of each image. Default: the protocol's.
        size: Side of the images, pixels. Default: the teacher's input, else by the source.
        classes: A subset: "a,b,c", a text file, or a shipped list such as "imagenette".
        holdout: Share of the source kept for measuring. Default 0.1 where it has no labelled test split.
        teacher: A checkpoint, "timm:NAME[@FILE]", "torchvision:NAME[@FILE]" or "train[:ARCH]". Default "train".
        codec: How soft labels are stored. Default "fp16".
        image_format: How images are stored. Default "png".
        prefixes: Nested sets to make, rising. Default: the method's (CUDD's stages), else the IPC alone.
        split: Of the source. Default "train", else its only one.
        image_column: Column with the images, where it cannot be inferred.
        label_column: Column with the labels, where it cannot be inferred.
        skip_bad: Leave out images that do not decode.
        rehash: Read every file of the source again instead of trusting cached hashes.
        device: "auto", "cpu", "cuda" or another torch device.
        workers: Processes. Default: the cores; the bytes do not depend on it.
        yes: Go ahead above an hour or 20 GB of labels.
        overwrite: Start over where `out` holds another run.

    Returns:
        The manifest of the set.

    Raises:
        InputError: Inputs that cannot work (exit code 2).
        Refused: It would replace, or take more than an hour (3).
        IntegrityError: Bytes differ from what was written (4).
        EnvironmentFailure: The environment failed: disk, network, a diverged loss (1).
    """
    asked, directory = DistillOptions.of(options), Path(out)
    work_dir(directory)
    with locked(directory, "distilling", asked.decisive() | {"overwrite": asked.overwrite}):
        STATE.drop()
        run = resolve(directory, asked)
        packed = PackedShards(run.labelling)
        for increment in run.increments():
            run_units(synthesis_units(run, increment), run.workers)
            run_units(encoding_units(run, increment), run.workers)  # the bytes that are published
            run_units(labelling_units(packed, increment.shards), run.workers)  # the teacher on every view of them
            run_units(packing_units(packed, increment.shards), run.workers)
            manifest = describe(run, increment, packed)
            run.record_stage(manifest)  # what a killed run and the next stage's student read
        return finish(run.out, manifest)


def describe(run: Run, last: Increment, packed: PackedShards) -> Manifest:
    """The manifest of a run's increments up to `last`, all of which are packed."""
    record, kept = run.record, standing(run.out)
    records = packed.records([shard for s in range(1, last.stage + 1) for shard in run.increment(s).shards])
    source = source_info(run.source.spec(), public_name(run.source.spec().id))
    if run.distiller.real_pixels is not None:
        real_pixels = run.distiller.real_pixels(run.config)
    else:
        real_pixels = real_pixels_of(records)
    made = Made(
        name=f"{run.distiller.name}-{plain_name(source.id)}-ipc{last.plan.last}",
        classes=run.source.classes,
        image=ImageInfo(size=record.size, codec=record.image_format, patches=run.patches),
        method=run.distiller.name,
        recipe=RecipeInfo(
            name=record.recipe, config=record.config, dataset=record.dataset, classes=record.classes,
            paper=run.distiller.paper,
        ),
        fingerprint=record.fingerprint,
        prefixes=record.prefixes[: last.stage],
        real_pixels=real_pixels,
        log=LogInfo(skipped=tuple(run.source.name_rows(run.source.ref.skip)), plan=run.log(last.stage)),
        source=source,
        devices=kept.devices if kept else (),
        kept=kept,
    )  # fmt: skip
    return build_manifest(
        made, run.labelling, records, teacher=run.teacher.spec, teacher_name=public_name(record.teacher),
        protocol=run.protocol,
    )  # fmt: skip
