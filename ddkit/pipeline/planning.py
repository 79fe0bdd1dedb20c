"""Plans a run before anything is made: its time, bytes, files and units, also for a dataset or a device not at hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from ddkit.core.device import cores, hardware, pick_device
from ddkit.errors import OptionError
from ddkit.networks.pretrained import input_of, is_library
from ddkit.pipeline.choices import Choices
from ddkit.pipeline.footprint import Footprint, PlannedSet
from ddkit.pipeline.options import DistillOptions
from ddkit.pipeline.pricing import price
from ddkit.pipeline.record import public_name
from ddkit.pipeline.resolving import DEFAULT_HOLDOUT, check_size, chosen_by, open_data
from ddkit.pipeline.speeds import DeviceSpeed, forward_flops
from ddkit.sources.outlines import Outline, known_dataset, known_names
from ddkit.sources.validation import can_measure
from ddkit.synthesis.interface import Probe
from ddkit.synthesis.passes import STEPS, seconds_a_pass
from ddkit.teachers.resolving import TeacherChoice, TrainingLength, check_class_count, stand_in
from ddkit.teachers.teacher import Teacher
from ddkit.teachers.teaching import teacher_recipe

IMAGENET_CLASSES = 1000
OF_A_SOURCE = ("split", "image_column", "label_column", "classes", "holdout")
ASSUMED = (
    "reading, resizing and encoding images is not counted, nor is copying between machines",
    "units of a stage are equally long; a stage student, a selection and the teacher's training use one device",
    "a teacher that has to be trained is not in the cache yet",
)


@dataclass(frozen=True, kw_only=True)
class StageForecast:
    """What one prefix adds to the set.

    Attributes:
        ipc: The prefix.
        images: Number of images that it adds.
        units: Number of units.
        one_device: Seconds by part of the manifest's `cost`, on one device.
        seconds: The same on all planned devices.
    """

    ipc: int
    images: int
    units: int
    one_device: Mapping[str, float]
    seconds: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """The expected cost of a run.

    Attributes:
        data: The source.
        classes: Number of classes.
        source_images: Number of images that the method may use.
        size: Side of the images, pixels.
        method: Name of the method.
        recipe: Name of the recipe.
        ipc: Images per class.
        views: Stored views per image; with a budget the most.
        labels: Codec of the labels, or the budget that chooses it.
        image_format: Encoding of the images; with a budget possibly another.
        teacher: Architecture of the teacher.
        speed: What the times are based on.
        seconds_a_pass: Seconds of a forward pass of the teacher over one image in float32.
        devices: Number of devices.
        teach_seconds: Seconds of the teacher's training; 0: none is needed.
        stages: What each prefix adds.
        one_device_seconds: Seconds of the whole run on one device, which are its device seconds.
        seconds: Seconds of the whole run on all planned devices.
        footprint: Its bytes, files and units.
        assumed: What the numbers do not count, and what they take for granted.
    """

    data: str
    classes: int
    source_images: int
    size: int
    method: str
    recipe: str | None
    ipc: int
    views: int
    labels: str
    image_format: str
    teacher: str
    speed: str
    seconds_a_pass: float
    devices: int
    teach_seconds: float
    stages: tuple[StageForecast, ...]
    one_device_seconds: float
    seconds: float
    footprint: Footprint
    assumed: tuple[str, ...] = ASSUMED


def plan(*, dataset: str | None = None, devices: int = 1, device_speed: str | None = None, **options: Any) -> Forecast:
    """Return the expected time, bytes, files and units of a `distill` run. Nothing is made or trained.

    Args:
        dataset: Instead of `data`, a dataset of the papers that need not be at hand: cifar10, cifar100, tinyimagenet,
            imagenet-1k or imagenet-21k-p.
        devices: Number of devices that share the units of a stage.
        device_speed: "h200", "h100", "a100", "4090", or a device's peak of dense bfloat16 operations in TFLOP/s.
            Default: this machine, measured on 20 steps.
        options: As in `distill`.

    Raises:
        InputError: The inputs cannot work.
    """
    asked = DistillOptions.of(options)
    if type(devices) is not int or devices < 1:
        raise OptionError(f"--devices is {devices!r}; it must be a whole number from 1")
    stated = None if device_speed is None else DeviceSpeed.parse(device_speed)
    outline, asked = _outline(asked, dataset)
    device = torch.device("cpu") if stated else pick_device(asked.device)
    trains_on = torch.device("cuda") if stated else device  # a name, for the teacher's architecture
    choices = chosen_by(asked, outline, trains_on)
    teacher, training, size = _teacher(choices, outline, device)
    planned = _planned_set(choices, outline, size, teacher)
    footprint = planned.footprint()  # too few images are reported before anything is measured
    workers = 1 if stated or device.type != "cpu" else asked.workers or cores()
    probe = _probe(teacher, size, workers, stated)
    stages = _stages(planned, probe, devices)
    teach = 0.0 if training is None else _teach_seconds(training, probe, size)
    return Forecast(
        data=dataset or public_name(choices.data), classes=len(outline.classes), source_images=sum(outline.counts),
        size=size, method=choices.distiller.name, recipe=choices.recipe, ipc=choices.ipc, views=planned.policy.count,
        labels=choices.codec if choices.budget is None else f"budget {choices.budget}",
        image_format=choices.image_format, teacher=teacher.spec.arch,
        speed=stated.about if stated else f"measured on {STEPS} steps: {hardware(device)}",
        seconds_a_pass=probe.each, devices=devices, teach_seconds=teach, stages=stages,
        one_device_seconds=teach + sum(sum(stage.one_device.values()) for stage in stages),
        seconds=teach + sum(sum(stage.seconds.values()) for stage in stages), footprint=footprint,
    )  # fmt: skip


def _outline(asked: DistillOptions, dataset: str | None) -> tuple[Outline, DistillOptions]:
    """Return the outline of the source, and the options with its name as `data`. Raises OptionError."""
    if dataset is not None and asked.data is not None:
        raise OptionError("--data and --dataset are both given; drop one of them")
    if dataset is not None:
        outline = known_dataset(dataset)
        if given := [name for name in OF_A_SOURCE if getattr(asked, name) is not None]:
            raise OptionError(f"--{given[0].replace('_', '-')} is for a source at hand; drop it, or give --data")
        return outline, replace(asked, data=outline.data)
    if asked.data is None:
        raise OptionError(
            f"--data is missing; give a source, or --dataset {'|'.join(known_names())}, which need not be at hand"
        )
    source = open_data(asked.data, asked, asked.rehash)
    holdout = asked.holdout
    if holdout is None and not can_measure(asked.data, asked.image_column, asked.label_column):
        holdout = DEFAULT_HOLDOUT
    return Outline.of(source, holdout), asked


def _teacher(choices: Choices, outline: Outline, device: torch.device) -> tuple[Teacher, TrainingLength | None, int]:
    """Return the teacher or a stand-in, the length of its training (None: it needs none), and the size of the images.

    A library's network is never downloaded: one with 1000 classes is taken to know those of ImageNet-1K.
    """
    ref, size, classes = choices.teacher, choices.size, outline.classes
    library = is_library(ref)
    if not library and ref.partition(":")[0] != "train":
        path, network, spec = TeacherChoice(ref, size).at_hand()
        check_class_count(path, spec, len(classes), outline.data)
        check_size(spec, size or spec.image_size)
        return Teacher(network, spec, device), None, spec.image_size
    arch = ref.partition("@")[0] if library else ref.partition(":")[2]
    trained = not library or len(classes) != IMAGENET_CLASSES
    if size is None:
        size = outline.default_size() if trained else input_of(*arch.split(":", 1))[2]
    recipe = teacher_recipe("finetune" if library else None, outline.data, size, None)
    length = TrainingLength.of(recipe, sum(outline.counts)) if trained else None
    return stand_in(arch, outline.class_names, size, device), length, size


def _probe(teacher: Teacher, size: int, workers: int, stated: DeviceSpeed | None) -> Probe:
    """Measure this machine, or compute the speed of the stated device."""
    if stated is None:
        return Probe(teacher=teacher, size=size, workers=workers, each=seconds_a_pass(teacher, size))
    seconds = stated.seconds(forward_flops(teacher, size))
    return Probe(teacher=teacher, size=size, workers=workers, each=seconds["float32"], stated=seconds)


def _planned_set(choices: Choices, outline: Outline, size: int, teacher: Teacher) -> PlannedSet:
    choices.check_budget(len(outline.classes), size)
    return PlannedSet(
        distiller=choices.distiller, plans=choices.plans(outline, size), size=size, patches=choices.patches,
        codec=choices.codec, policy=choices.policy,
        budget=choices.budget, image_format=choices.image_format, teacher=teacher, sample=outline.sample(size),
    )  # fmt: skip


def _stages(planned: PlannedSet, probe: Probe, devices: int) -> tuple[StageForecast, ...]:
    """Price the stages on one device and on all of them, from the same measurements."""
    one, several = (
        price(planned.distiller, planned.plans, on, planned.labels) for on in (probe, replace(probe, devices=devices))
    )
    return tuple(
        StageForecast(ipc=plan.last, images=plan.images, units=units, one_device=alone, seconds=shared)
        for plan, units, alone, shared in zip(planned.plans, planned.units, one, several)
    )


def _teach_seconds(training: TrainingLength, probe: Probe, size: int) -> float:
    """The seconds of the teacher's training; a step takes three passes over its batch."""
    if probe.stated is None:
        return training.seconds(probe.teacher, size)
    return 3 * training.steps * training.batch * probe.stated[training.spec.precision]
