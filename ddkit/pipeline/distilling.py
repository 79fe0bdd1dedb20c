"""The main path: source -> teacher -> distiller -> images -> labels -> shards -> manifest, prefix by prefix.

All work is split into units, each with one result file in OUT.work. A unit whose file is complete is skipped, so
running the same command again continues after an interruption.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ddkit.core.worker_state import STATE
from ddkit.format.manifest import ImageInfo, LogInfo, Manifest, RecipeInfo
from ddkit.labelling.packing import PackedShards
from ddkit.pipeline.budgeting import within_budget
from ddkit.pipeline.describing import Made, build_manifest, existing_manifest, real_pixels_of, source_info
from ddkit.pipeline.options import DistillOptions
from ddkit.pipeline.record import is_recorded, public_name, work_dir
from ddkit.pipeline.resolving import resolve
from ddkit.pipeline.run import Increment, Run
from ddkit.pipeline.sharing import finish_in_turn, in_turn, writing
from ddkit.pipeline.units import (
    encoding_units,
    labelling_units,
    packing_units,
    run_units,
    shared_label_units,
    synthesis_units,
)
from ddkit.text import plain_name


def distill(out: str | Path, **options: Any) -> Manifest:
    """Distil a source into the directory `out`: a complete, verified set that `load_dataset` opens.

    A second call with the same `out` continues the run: options that are not given come from its record, a larger
    `ipc` extends the set, any other difference raises OtherRun.

    Args:
        out: The directory to make. `out`.work beside it keeps units, students and the record.
        data: The source: "digits", a folder of class folders, a folder or file of parquet or tar shards, a distilled
            set, or a Hub id "ORG/NAME[@REVISION]".
        method: Name of a distiller, or a Python file with one. Default "cudd".
        ipc: Images per class. Default 10.
        seed: Seed of all randomness. Default 0.
        recipe: A shipped recipe's name, or a TOML file. Default: the method's recipe for this source or image size.
        settings: Settings of the method by dotted key; they override the recipe's.
        protocol: A shipped protocol's name, a TOML file, or a Protocol: the augmentation policy of the views and how
            students train. Default: the recipe's.
        views: Stored views per image. Default: the protocol's.
        size: Side of the images, pixels. Default: the teacher's input, else the source's default.
        classes: A subset of the classes: "a,b,c", a text file, or a shipped list such as "imagenette".
        holdout: Share of the source held out for evaluation. Default 0.1 if it has no labelled test split.
        teacher: A checkpoint, "timm:NAME[@FILE]", "torchvision:NAME[@FILE]" or "train[:ARCH]". Default "train".
        codec: Codec of the soft labels: "fp16", "int8", "topk:K", "lowrank:R[:i4|i8|f16][+topK]", "sampled:K" or
            "teacher". Default "fp16", or the budget "40x" above 100 classes.
        budget: "40x", labels and views that many times smaller than in half precision, or "300MB", the size of the set:
            chooses `image_format`, view count and `codec` from the labels' error on a sample of the images. `views`
            is then the count to start from.
        label_precision: Arithmetic of the teacher that labels: "float32" or "bfloat16". Default "float32".
        image_format: Encoding of the images. Default "png".
        prefixes: IPC of each nested set, increasing. Default: the method's (CUDD's stages), else `ipc` alone.
        split: Split of the source. Default "train", else its only one.
        image_column: Column of the images, if it cannot be inferred.
        label_column: Column of the labels, if it cannot be inferred.
        skip_bad: Skip images that do not decode.
        rehash: Hash every file of the source again instead of trusting cached hashes.
        device: "auto", "cpu", "cuda" or another torch device.
        workers: Number of processes. Default: the number of cores; it does not affect the bytes of the set.
        engine: Where units run: "local", "ranks" or "ray". Default: "ranks" in a process that torchrun, srun or a SLURM
            or PBS array started, else "local".
        devices: GPUs of this machine to use, "all" or "0,1". Default: all.
        yes: Continue above an hour or 20 GB of labels.
        overwrite: Start over if `out` holds another run.

    Returns:
        The manifest of the set.

    Raises:
        InputError: The inputs cannot work (exit code 2).
        Refused: The run would replace another, or take more than an hour (3).
        IntegrityError: Bytes differ from what was written (4).
        EnvironmentFailure: The environment failed: disk, network, a diverged loss (1).
    """
    asked, directory = DistillOptions.of(options), Path(out)
    engine = asked.select_engine(work_dir(directory))
    what = ("distilling", asked.decisive() | {"overwrite": asked.overwrite}, engine)
    with writing(directory, *what):
        STATE.drop()
        run = None
        if not is_recorded(directory):
            with in_turn(directory, *what):
                if not is_recorded(directory):  # the first of several processes asks, trains and records
                    run = resolve(directory, asked, engine)
        run = run or resolve(directory, asked, engine)
        packed = None
        for increment in run.increments():
            run_units(synthesis_units(run, increment), engine)
            run = within_budget(run, increment)
            packed = packed or PackedShards(run.labelling)
            run_units(encoding_units(run, increment), engine)  # encodes the images as they are published
            run_units(labelling_units(packed, increment.shards), engine)  # runs the teacher on every stored view
            run_units(shared_label_units(packed, increment.shards), engine)
            run_units(packing_units(packed, increment.shards), engine)
            manifest = describe(run, increment, packed)
            run.record_stage(manifest)  # the next stage's student replays it
        return finish_in_turn(run.out, manifest, engine, run.holds_out)


def describe(run: Run, last: Increment, packed: PackedShards) -> Manifest:
    """Build the manifest of all increments up to `last`.

    Args:
        run: The run.
        last: The last increment; it and all earlier ones are packed.
        packed: The packed shards.
    """
    record, kept = run.record, existing_manifest(run.out)
    records = packed.records([shard for s in range(1, last.stage + 1) for shard in run.increment(s).shards])
    source = source_info(run.source.spec(), public_name(run.source.spec().id))
    if run.distiller.real_pixels is not None:
        real_pixels = run.distiller.real_pixels(run.config)
    else:
        real_pixels = real_pixels_of(records)
    made = Made(
        name=f"{run.distiller.name}-{plain_name(source.id)}-ipc{last.plan.last}",
        classes=run.source.classes,
        image=ImageInfo(size=record.size, mode="RGB", codec=record.image_format, patches=run.patches),
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
        budget=record.spent,
    )  # fmt: skip
    return build_manifest(
        made, run.labelling, records, label_file=packed.label_file, teacher=run.teacher.spec,
        teacher_name=public_name(record.teacher), protocol=run.protocol,
    )  # fmt: skip
