"""Trains teachers on a source by a teacher recipe; `teach` is the public entry point."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ddkit.core.console import note, progress
from ddkit.core.device import threads
from ddkit.core.distributed import ALONE, Group, open_group, rank_device
from ddkit.core.locks import locked
from ddkit.core.seeds import permutation, rng
from ddkit.core.serialization import fingerprint, from_plain, load_toml, to_plain
from ddkit.errors import OptionError, SourceError
from ddkit.format.view_pixels import apply, normalise
from ddkit.format.views import draw
from ddkit.networks.checkpoints import save_checkpoint, tensor_hash
from ddkit.networks.pretrained import Pretrained, load_pretrained
from ddkit.networks.registry import IMAGENET_MEAN, IMAGENET_STD, build_network, check_network
from ddkit.networks.training import Fit, accuracy, fit, seeded_network
from ddkit.networks.training_state import Example
from ddkit.sources.images import Source, open_source
from ddkit.sources.validation import has_validation, open_validation
from ddkit.specs import EvalTransform, TeacherSpec, TrainSpec, ViewSpec

Rgb = tuple[float, ...]
RESIDENT_BYTES = 4_000_000_000  # larger training sets are not kept decoded in memory but decoded each epoch


def teacher_recipe(name: str | None, data: str, size: int, epochs: int | None) -> TrainSpec:
    """Load a teacher recipe.

    Args:
        name: A shipped recipe or a TOML file. Default: by source and size.
        data: The source, as given.
        size: Side of the input, pixels.
        epochs: Number of epochs, replacing the recipe's.

    Raises:
        OptionError: There is no such recipe, or it is invalid.
    """
    name = name or (data if data == "digits" else "small" if size <= 64 else "large")
    stem, table = load_toml(name, "recipes/teach", "teacher recipe")
    return from_plain(
        TrainSpec, table | ({} if epochs is None else {"epochs": epochs, "min_steps": 0}), f"teacher recipe {stem}"
    )


def default_arch(data: str, size: int, device: torch.device) -> str:
    """Return the architecture that `--teacher train` trains.

    A ConvNet for digits and on a CPU, where a ResNet would take hours; else a ResNet-18.

    Args:
        data: The source, as given.
        size: Side of the input, pixels.
        device: The device.
    """
    if data == "digits" or device.type == "cpu":
        depth = 3 if size <= 32 else 4 if size <= 64 else 5 if size <= 128 else 6
        return f"convnet{depth}"
    return "resnet18-small" if size <= 64 else "resnet18"


def train_teacher(
    out: Path,
    source: Source,
    *,
    arch: str,
    size: int,
    spec: TrainSpec,
    seed: int,
    device: torch.device,
    state: Path | None = None,
    key: str = "-",
    init: Pretrained | None = None,
    on_estimate: Callable[[float], None] | None = None,
    group: Group = ALONE,
) -> TeacherSpec:
    """Train a network on a source and write its checkpoint.

    The accuracy is measured on the validation split or holdout of the source, if it has one.

    Args:
        out: The checkpoint to write.
        source: The source.
        arch: Architecture.
        size: Side of the input, pixels.
        spec: Hyperparameters.
        seed: Seed of initial weights, order and augmentation.
        device: The device.
        state: File of the unfinished training: resumed if it was saved under the same `key`, removed at the end.
        key: Hash of everything that determines the weights.
        init: A pretrained network of the same architecture to fine-tune: the head is new, the normalisation is that
            of `init`; at the end its BatchNorm statistics are measured again on the source.
        on_estimate: Called once, after 20 measured steps, with the expected remaining seconds.
        group: The ranks that train the network together; rank 0 writes the files.

    Returns:
        The metadata of the checkpoint.

    Raises:
        OptionError, TeacherError, Diverged, DiskError, RankLost.
    """
    transform = EvalTransform.for_size(size)
    network = seeded_network(lambda: build_network(arch, len(source.classes), size), seed, "teacher", arch)
    shown = transform if spec.augment == "rrc-flip" else EvalTransform(resize=size, crop=size)
    images = _Images(source, shown, device)
    mean, std = images.normalisation() if size <= 64 else (IMAGENET_MEAN, IMAGENET_STD)
    if init is not None:
        init.load_into(network)
        mean, std = init.mean, init.std
    criterion = nn.CrossEntropyLoss(label_smoothing=spec.label_smoothing)
    epochs = spec.epochs_for(len(source), drop_last=True)
    labels = torch.from_numpy(source.labels).to(device)
    batches = _Batches(images, labels, spec, size, seed, mean, std, group)
    used = spec.threads if group.alone else torch.get_num_threads()  # ranks keep what torchrun gave them
    with threads(used), progress(f"teacher {arch}", epochs, "epochs") as advance:
        job = Fit(
            spec=spec, epochs=epochs, steps_an_epoch=len(batches), batches=batches.epoch, loss=criterion, seed=seed,
            device=device, state=state, key=key, on_epoch=advance, on_estimate=on_estimate, group=group,
        )  # fmt: skip
        fit(network, job)
        if init is not None:
            _measure_batch_norms(network, source, transform, mean, std, device)
    teacher = TeacherSpec(
        arch=arch,
        num_classes=len(source.classes),
        image_size=size,
        mean=mean,
        std=std,
        classes=tuple(source.class_names),
        class_ids=tuple(c.id for c in source.classes) if any(c.id for c in source.classes) else None,
        eval=transform if transform != EvalTransform.for_size(size) else None,
    )
    teacher = _measured(network, teacher, source, device, group)
    if not group.leads:
        return teacher
    teacher = save_checkpoint(out, network, teacher)
    if state is not None:
        state.unlink(missing_ok=True)
    return teacher


@torch.no_grad()
def _measure_batch_norms(
    network: nn.Module, source: Source, transform: EvalTransform, mean: Rgb, std: Rgb, device: torch.device
) -> None:
    """Set the BatchNorm statistics, which inversion matches, to averages over up to 10,000 images of the source."""
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d) and m.track_running_stats]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative average
        norm.train()
    chosen = np.unique(np.linspace(0, len(source) - 1, 10_000).astype(int))
    for part in np.array_split(chosen, -(-len(chosen) // 64)):  # equal parts, since every batch has the same weight
        inputs = normalise(source.squares(part, transform), mean, std).to(device)
        network(inputs.contiguous(memory_format=torch.channels_last))
    network.eval()


def _measured(
    network: nn.Module, teacher: TeacherSpec, source: Source, device: torch.device, group: Group
) -> TeacherSpec:
    """Return `teacher` with its accuracy on the source's validation split or holdout; unchanged if it has neither."""
    ref = source.ref
    held = source.spec() if ref.part == "train" else None
    data = ref.data
    if held is None and has_validation(data, ref.image_column, ref.label_column) is None:
        return teacher
    validation, _ = open_validation(
        data, source.classes, split=ref.split if held else None, source=held,
        image_column=ref.image_column, label_column=ref.label_column,
    )  # fmt: skip
    images, labels = validation.load(teacher.transform)
    percent = accuracy(network, images, labels, teacher.mean, teacher.std, device, "measuring the teacher", group)
    return replace(teacher, accuracy=round(percent, 2), measured_on=f"{validation.name} ({len(labels)} images)")


def training_key(
    source: Source, size: int, arch: str, spec: TrainSpec, seed: int, device: torch.device, init: Pretrained | None
) -> str:
    """Return the hash of everything that determines a teacher's weights.

    Args:
        source: The source; its content and the part used count, its location does not.
        size: Side of the input, pixels.
        arch: Architecture.
        spec: Hyperparameters.
        seed: Seed of the training.
        device: The device; only its type counts.
        init: The pretrained network to fine-tune; its weights and normalisation count.
    """
    begun = [] if init is None else [tensor_hash(init.network.state_dict()), list(init.mean), list(init.std)]
    used = to_plain(replace(source.ref, data=""))
    return fingerprint([source.fingerprint, used, size, arch, to_plain(spec), seed, device.type, begun])


class _Images:
    """Training images as uint8 squares [n,3,S,S].

    They are kept on the device if they take at most a quarter of its free memory, else in main memory up to
    RESIDENT_BYTES; larger sets are decoded at every access.
    """

    def __init__(self, source: Source, transform: EvalTransform, device: torch.device) -> None:
        self._source, self._transform, self._device = source, replace(transform, resize=transform.crop), device
        size_bytes = len(source) * 3 * transform.crop**2
        self._resident = source.resident(self._transform) if size_bytes <= RESIDENT_BYTES else None
        if (
            self._resident is not None
            and device.type == "cuda"
            and size_bytes <= torch.cuda.mem_get_info(device)[0] // 4
        ):
            self._resident = self._resident.to(device)

    def __getitem__(self, rows: np.ndarray) -> Tensor:
        if self._resident is not None:
            return self._resident[torch.from_numpy(rows).to(self._resident.device)].to(self._device)
        return self._source.squares(rows, self._transform).to(self._device)

    def normalisation(self) -> tuple[Rgb, Rgb]:
        """Return mean and std (at least 0.05) per channel in [0, 1], over up to 10,000 images, rounded to 4 digits."""
        sample = self[np.unique(np.linspace(0, len(self._source) - 1, 10_000).astype(int))].cpu().double() / 255
        mean, std = sample.mean((0, 2, 3)), sample.std((0, 2, 3))
        r, g, b = (round(float(v), 4) for v in mean)
        sr, sg, sb = (max(round(float(v), 4), 0.05) for v in std)
        return (r, g, b), (sr, sg, sb)


@dataclass(frozen=True)
class _Batches:
    """The batches of augmented training images; a last incomplete one is left out.

    Attributes:
        images: The training images.
        labels: Their labels, int64 [n], on the device.
        spec: Batch size and augmentation.
        size: Side of the input, pixels.
        seed: Seed of order and augmentation.
        mean: Mean per channel of the normalisation.
        std: Standard deviation per channel of the normalisation.
        group: The ranks that each batch is split among.
    """

    images: _Images
    labels: Tensor
    spec: TrainSpec
    size: int
    seed: int
    mean: Rgb
    std: Rgb
    group: Group

    def __len__(self) -> int:
        return len(self.labels) // self.spec.batch_for(len(self.labels))

    def epoch(self, epoch: int) -> Iterator[Example]:
        """Yield this rank's part of every batch of one epoch; an image is augmented alike whatever the rank."""
        batch = self.spec.batch_for(len(self.labels))
        part, order = self.group.part(batch), permutation(self.seed, len(self.labels), "teacher-order", epoch)
        for step in range(len(self)):
            chosen = order[step * batch : (step + 1) * batch][part]
            random = rng(self.seed, "teacher-augment", epoch, step)
            pixels = _augment(self.images[chosen], part, batch, self.spec.augment, self.size, random)
            yield normalise(pixels, self.mean, self.std), self.labels[torch.from_numpy(chosen).to(self.labels.device)]


def _augment(pixels: Tensor, part: slice, batch: int, kind: str, size: int, random: np.random.Generator) -> Tensor:
    """Augment training images, `part` of a batch: uint8 [n,3,H,W] -> uint8 [n,3,size,size]."""
    n = len(pixels)
    if kind == "none" or n == 0:
        return pixels
    if kind == "rrc-flip":
        policy = ViewSpec(scale=(0.25, 1.0), mix="none", count=1)
        side, key = pixels.shape[-1], int(random.integers(2**62))
        views = draw(policy, seed=key, first=part.start, rows=n, height=side, width=side, size=size)
        return apply(pixels, views, np.arange(n), np.zeros(n, int), size)
    top, left = torch.from_numpy(random.integers(0, 9, (2, batch))[:, part]).to(pixels.device)
    padded = nn.functional.pad(pixels.float(), (4, 4, 4, 4), mode="reflect").to(torch.uint8)
    line, every = torch.arange(size, device=pixels.device), torch.arange(n, device=pixels.device)[:, None, None, None]
    rows, columns = (top[:, None] + line)[:, None, :, None], (left[:, None] + line)[:, None, None, :]
    shifted = padded[every, torch.arange(3, device=pixels.device)[None, :, None, None], rows, columns]
    if kind == "shift":
        return shifted
    flip = torch.from_numpy(random.random(batch)[part] < 0.5)[:, None, None, None].to(pixels.device)
    return torch.where(flip, shifted.flip(-1), shifted)


# ------------------------------------------------------------------ public entry point


def teach(
    out: str | Path,
    *,
    data: str,
    arch: str | None = None,
    init: str | None = None,
    recipe: str | None = None,
    size: int | None = None,
    epochs: int | None = None,
    seed: int = 0,
    split: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    classes: str | None = None,
    holdout: float | None = None,
    skip_bad: bool = False,
    rehash: bool = False,
    device: str = "auto",
    on_estimate: Callable[[float], None] | None = None,
) -> TeacherSpec:
    """Train a teacher, or fine-tune a pretrained network, and write a safetensors checkpoint.

    The checkpoint holds normalisation, classes and accuracy. An interrupted training resumes when it is run again. The
    processes that torchrun started train it together, and rank 0 writes the files.

    Args:
        out: The checkpoint, a `.safetensors` file.
        data: The source, as in `distill`.
        arch: The network to train from scratch.
        init: Instead, a pretrained network to fine-tune with a new head: "timm:NAME[@FILE]",
            "torchvision:NAME[@FILE]" or a ddkit checkpoint.
        recipe: A shipped teacher recipe (digits, small, large, finetune) or a TOML file. Default: by source and size.
        size: Side of the input, pixels. Default: by the source.
        epochs: Number of epochs. Default: the recipe's.
        seed: Seed of the initial weights, the order of images and their augmentation.
        split: Split of the source. Default: "train", else its only one.
        image_column: Column with the images, where it cannot be inferred.
        label_column: Column with the labels, where it cannot be inferred.
        classes: A subset: "a,b,c", a text file, or a shipped list.
        holdout: Share of the source that is kept for measuring the accuracy.
        skip_bad: Leave out images that cannot be decoded.
        rehash: Read every file of the source again instead of trusting cached hashes.
        device: "auto" or a torch device name.
        on_estimate: Called once, after 20 measured steps, with the expected remaining seconds.

    Returns:
        The metadata of the checkpoint.

    Raises:
        InputError: An option, the source or the pretrained network is invalid.
        OtherRun: Another process is training the same file.
        Diverged: The loss is not finite.
        RankLost: Another rank failed.
    """
    out = Path(out)
    if out.suffix != ".safetensors":
        raise OptionError(f"OUT is {out}; a checkpoint is a .safetensors file")
    where = rank_device(device)
    with ExitStack() as stack:
        group = stack.enter_context(open_group(where))
        source = open_source(
            data, split=split, image_column=image_column, label_column=label_column, classes=classes, rehash=rehash
        )
        size = size or source.default_size()
        pretrained = None if init is None else load_pretrained(init, size)
        if pretrained is not None and arch not in (None, pretrained.arch):
            raise OptionError(f"--arch is {arch}, --init is a {pretrained.arch}; drop --arch")
        arch = pretrained.arch if pretrained else arch
        if arch is None:
            raise OptionError(
                "--arch is missing; choose one of `ddkit list networks`, or give a trained network with --init"
            )
        spec = teacher_recipe(recipe or ("finetune" if pretrained else None), data, size, epochs)
        fresh = check_network(arch, len(source.classes), size)  # an invalid network fails before all images are read
        if pretrained is not None:
            pretrained.load_into(fresh)
        source = source.without_unreadable(skip_bad)
        if holdout is not None:
            if not 0 < holdout < 1:
                raise OptionError(f"--holdout is {holdout}; it must be between 0 and 1")
            source = source.part("train", holdout)
        if len(source) < 2:
            raise SourceError(f"{data} has {len(source)} images; a teacher needs more")
        key = training_key(source, size, arch, spec, seed, where, pretrained)
        state = out.with_name(f".{out.name[:100]}.{key[:16]}.state")
        note(
            f"teacher {arch}: {len(source)} images of {size} px, {spec.epochs_for(len(source), drop_last=True)} epochs"
        )
        if group.leads:
            stack.enter_context(locked(out, "training", {"key": key}, wait=False))
        return train_teacher(
            out, source, arch=arch, size=size, spec=spec, seed=seed, device=where, state=state, key=key,
            init=pretrained, on_estimate=on_estimate, group=group,
        )  # fmt: skip
