"""The teacher: a frozen network with its own normalisation. Loaded, taken from a library, or trained and cached."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ddkit.errors import OptionError, SourceError, TeacherError
from ddkit.format.views import apply, draw, normalise
from ddkit.plain import fingerprint, from_plain, load_toml, to_plain
from ddkit.runtime import cache_dir, cores, note, pick_device, progress, threads
from ddkit.seeds import permutation, rng
from ddkit.sources.classes import match_classes
from ddkit.sources.decoding import centre_square
from ddkit.sources.images import Source, has_validation, open_source, open_validation
from ddkit.sources.networks import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    build_network,
    check_network,
    load_checkpoint,
    read_weights,
    save_checkpoint,
    tensor_hash,
)
from ddkit.sources.training import Batch, Fit, accuracy, fit, seeded_network
from ddkit.specs import ClassName, EvalTransform, TeacherSpec, TrainSpec, ViewSpec

RESIDENT_BYTES = 4_000_000_000  # decoded training images kept in memory; above it they are decoded again each epoch


class Teacher:
    """A frozen network. `spec` holds its mean, std, classes and hash; inputs are float [B,3,S,S], normalised by them.

    order: where its classes stand in another order than the source's, the output column of each source class.
    """

    def __init__(self, network: nn.Module, spec: TeacherSpec, device: torch.device, order: np.ndarray | None = None):
        self.spec, self.device = spec, device
        self._network = network.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self._network.requires_grad_(False)
        self._order = None if order is None else torch.as_tensor(order, device=device)

    @classmethod
    def load(cls, path: str | Path, device: torch.device, order: tuple[int, ...] | None = None) -> Teacher:
        """A teacher from its checkpoint. Raises TeacherError."""
        return cls(*load_checkpoint(path), device, None if order is None else np.array(order))

    @torch.inference_mode()
    def logits(self, inputs: Tensor) -> Tensor:
        """float [B,3,S,S] on any device -> float32 [B,C], in the order of the source's classes."""
        out = self._network(inputs.to(self.device).contiguous(memory_format=torch.channels_last)).float()
        return out if self._order is None else out[:, self._order]

    def normalise(self, pixels: Tensor) -> Tensor:
        """uint8 [B,3,H,W] -> what `logits` takes."""
        return normalise(pixels.to(self.device), self.spec.mean, self.spec.std)


# ------------------------------------------------------------------ training one


def teacher_recipe(name: str | None, data: str, size: int, epochs: int | None) -> TrainSpec:
    """How a teacher is trained: a shipped recipe or a TOML file; by default the one for the source and size."""
    name = name or (data if data == "digits" else "small" if size <= 64 else "large")
    stem, table = load_toml(name, "recipes/teach", "teacher recipe")
    return from_plain(TrainSpec, table | ({} if epochs is None else {"epochs": epochs}), f"teacher recipe {stem}")


def default_arch(data: str, size: int) -> str:
    """What `--teacher train` trains."""
    return "convnet3" if data == "digits" else "resnet18-small" if size <= 64 else "resnet18"


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
    on_estimate: Callable[[float], None] | None = None,
) -> TeacherSpec:
    """Train a network on a source and write its checkpoint; measured on the validation split or holdout, if any.

    state: the unfinished training, resumed from when it is there and removed at the end. on_estimate: told the
    expected seconds after 20 steps. Raises OptionError, Diverged, DiskError.
    """
    transform = EvalTransform.for_size(size)
    network = seeded_network(lambda: build_network(arch, len(source.classes), size), seed, "teacher", arch)
    images = _Images(source, transform if spec.augment == "rrc-flip" else EvalTransform(resize=size, crop=size))
    mean, std = images.normalisation() if size <= 64 else (IMAGENET_MEAN, IMAGENET_STD)
    labels = torch.from_numpy(source.labels)
    batch = spec.batch_for(len(source))

    def batches(epoch: int) -> Iterator[Batch]:
        order = permutation(seed, len(source), "teacher-order", epoch)
        for step, start in enumerate(range(0, len(order) - len(order) % batch, batch)):
            chosen = order[start : start + batch]
            pixels = _augment(images[chosen], spec.augment, size, seed, epoch, step)
            yield normalise(pixels, mean, std).to(device), labels[chosen].to(device)

    criterion = nn.CrossEntropyLoss(label_smoothing=spec.label_smoothing)
    epochs = spec.epochs_for(len(source), drop_last=True)
    steps = len(source) // batch
    with threads(spec.threads), progress(f"teacher {arch}", epochs, "epochs") as advance:
        job = Fit(
            spec=spec, epochs=epochs, steps_an_epoch=steps, batches=batches, loss=criterion, seed=seed, device=device,
            state=state, on_epoch=advance, on_estimate=on_estimate,
        )  # fmt: skip
        fit(network, job)
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
    teacher = _measured(network, teacher, source, device)
    teacher = save_checkpoint(out, network, teacher)
    if state is not None:
        state.unlink(missing_ok=True)
    return teacher


def _measured(network: nn.Module, teacher: TeacherSpec, source: Source, device: torch.device) -> TeacherSpec:
    """`teacher` with its accuracy on the source's validation split or holdout; as it is where there is neither."""
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
    percent = accuracy(network, images, labels, teacher.mean, teacher.std, device)
    return replace(teacher, accuracy=round(percent, 2), measured_on=f"{validation.name} ({len(labels)} images)")


class _Images:
    """Training images as uint8 squares: kept in memory where they fit, else decoded when asked for."""

    def __init__(self, source: Source, transform: EvalTransform) -> None:
        self._source, self._transform = source, transform
        fits = len(source) * 3 * transform.crop**2 <= RESIDENT_BYTES
        self._resident = source.resident(replace(transform, resize=transform.crop)) if fits else None

    def __getitem__(self, rows: np.ndarray) -> Tensor:
        if self._resident is not None:
            return self._resident[torch.from_numpy(rows)]
        side = self._transform.crop
        with ThreadPoolExecutor(cores()) as pool:
            read = pool.map(lambda i: centre_square(torch.from_numpy(self._source.read(i)), side, side), rows)
            return torch.stack(list(read))

    def normalisation(self) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
        """Mean and std per channel in [0, 1], over up to 10,000 images, rounded to four digits."""
        sample = self[np.unique(np.linspace(0, len(self._source) - 1, 10_000).astype(int))].double() / 255
        mean, std = sample.mean((0, 2, 3)), sample.std((0, 2, 3))
        r, g, b = (round(float(v), 4) for v in mean)
        sr, sg, sb = (max(round(float(v), 4), 0.05) for v in std)
        return (r, g, b), (sr, sg, sb)


def _augment(pixels: Tensor, kind: str, size: int, seed: int, epoch: int, step: int) -> Tensor:
    """Training augmentation of uint8 [B,3,H,W] -> uint8 [B,3,size,size]."""
    n = len(pixels)
    if kind == "rrc-flip":
        law = ViewSpec(scale=(0.25, 1.0), mix="none", count=1)
        side = pixels.shape[-1]
        key = int(rng(seed, "teacher-augment", epoch, step).integers(2**62))
        views = draw(law, seed=key, first=0, rows=n, height=side, width=side, size=size)
        return apply(pixels, views, np.arange(n), np.zeros(n, int), size)
    if kind == "none":
        return pixels
    random = rng(seed, "teacher-augment", epoch, step)
    top, left = torch.from_numpy(random.integers(0, 9, (2, n)))
    padded = nn.functional.pad(pixels.float(), (4, 4, 4, 4), mode="reflect").to(torch.uint8)
    line = torch.arange(size)
    rows, columns = (top[:, None] + line)[:, None, :, None], (left[:, None] + line)[:, None, None, :]
    shifted = padded[torch.arange(n)[:, None, None, None], torch.arange(3)[None, :, None, None], rows, columns]
    if kind == "shift":
        return shifted
    flip = torch.from_numpy(random.random(n) < 0.5)[:, None, None, None]
    return torch.where(flip, shifted.flip(-1), shifted)


# ------------------------------------------------------------------ finding one


def find_teacher(
    ref: str,
    source: Source | None,
    *,
    size: int | None,
    seed: int,
    device: torch.device,
    on_estimate: Callable[[float], None] | None = None,
) -> Path:
    """The checkpoint that `--teacher` names: FILE, `timm:NAME[@FILE]`, `torchvision:NAME[@FILE]` or `train[:ARCH]`.

    A trained one is made once per (source, size, arch, recipe, seed) and kept in the cache; it needs a source.
    Raises TeacherError, OptionError.
    """
    kind, _, rest = ref.partition(":")
    if kind == "train":
        if source is None:
            raise OptionError("--teacher train needs a source; give a checkpoint")
        return _trained(rest, source, size, seed, device, on_estimate)
    if kind in ("timm", "torchvision") and rest:
        return _from_library(kind, rest, size)
    return Path(ref).absolute()


def match_teacher(path: Path, classes: Sequence[ClassName], what: str) -> tuple[TeacherSpec, tuple[int, ...] | None]:
    """A checkpoint's spec, and its column for each class where the order differs (else None).

    what: whose classes, for the message. Raises TeacherError (another class count), ClassesError (other classes).
    """
    _, spec = load_checkpoint(path)
    if spec.num_classes != len(classes):
        raise TeacherError(
            f"teacher {path} knows {spec.num_classes} classes, {what} has {len(classes)}; "
            f"train one with `ddkit teach T.safetensors --data SOURCE --arch {spec.arch}`"
        )
    order = match_classes(classes, spec.class_names(), what=f"{what} and the teacher")
    return spec, None if (order == np.arange(len(order))).all() else tuple(int(i) for i in order)


def _trained(
    arch: str,
    source: Source,
    size: int | None,
    seed: int,
    device: torch.device,
    on_estimate: Callable[[float], None] | None,
) -> Path:
    size = size or source.default_size()
    arch = arch or default_arch(source.ref.data, size)
    spec = teacher_recipe(None, source.ref.data, size, None)
    ref = to_plain(replace(source.ref, data="")) | {"skip": list(source.ref.skip)}
    key = fingerprint([source.fingerprint, ref, size, arch, to_plain(spec), seed, device.type])[:24]
    path = cache_dir() / "teachers" / f"{arch.replace(':', '-')}-{size}-{key}.safetensors"
    if path.is_file():
        note(f"teacher: {arch} for this source is in the cache ({path})")
        return path
    note(
        f"teacher: training {arch} on {source.ref.data} ({len(source)} images, {size} px), once; kept in {path.parent}"
    )
    state = path.with_name(path.name + ".state")
    train_teacher(
        path, source, arch=arch, size=size, spec=spec, seed=seed, device=device, state=state, on_estimate=on_estimate
    )
    return path


def _from_library(library: str, rest: str, size: int | None) -> Path:
    """A pretrained network of timm or torchvision as one of our checkpoints, in the cache."""
    tag, at, file = rest.partition("@")
    if at and not Path(file).is_file():
        raise TeacherError(f"no weights file {file} for {library}:{tag}; give an existing safetensors file after @")
    import timm
    from timm.data import ImageNetInfo

    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    side = size or 224
    if library == "timm":
        config = timm.models.get_pretrained_cfg(tag)
        if config is not None:
            mean, std, side = tuple(config.mean), tuple(config.std), size or config.input_size[-1]
    name = f"{library}:{tag}"
    if at:
        state, _ = read_weights(Path(file))
        network = check_network(name, _outputs(state, file), side)
        try:
            network.load_state_dict(state)
        except RuntimeError as error:
            raise TeacherError(f"{file} does not fit {name} ({str(error).splitlines()[0]})") from error
    else:
        network = _download(library, tag)
    classes = next(m for m in reversed(list(network.modules())) if isinstance(m, nn.Linear)).out_features
    if classes != 1000:
        raise TeacherError(f"{name} has {classes} outputs and no class names; only ImageNet-1K heads are known")
    info = ImageNetInfo()
    ids = tuple(info.index_to_label_name(i) for i in range(classes))
    names = tuple(info.index_to_description(i) for i in range(classes))
    spec = TeacherSpec(
        arch=name, num_classes=classes, image_size=side, mean=mean, std=std, classes=names, class_ids=ids
    )  # fmt: skip
    path = cache_dir() / "teachers" / f"{library}-{tag}-{tensor_hash(network.state_dict())[:24]}.safetensors"
    save_checkpoint(path, network, spec)
    return path


def _outputs(state: dict[str, Tensor], file: str) -> int:
    """Outputs of a network by its weights: rows of its last two-dimensional tensor named like a head."""
    heads = [tensor for name, tensor in state.items() if tensor.ndim == 2 and name.endswith("weight")]
    if not heads:
        raise TeacherError(f"{file} has no linear head; give a classifier's weights")
    named = [t for name, t in state.items() if t.ndim == 2 and name.startswith(("fc.", "head.", "classifier."))]
    return (named or heads)[-1].shape[0]


def _download(library: str, tag: str) -> nn.Module:
    """Pretrained weights from the library's own server."""
    try:
        if library == "timm":
            import timm

            return timm.create_model(tag, pretrained=True)
        import torchvision

        return torchvision.models.get_model(tag, weights="DEFAULT")
    except Exception as error:  # each library has its own tree of network errors
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TeacherError(
            f"{library}:{tag} cannot be fetched ({reason}); give its weights as {library}:{tag}@FILE.safetensors"
        ) from error


# ------------------------------------------------------------------ the public door


def teach(
    out: str | Path,
    *,
    data: str,
    arch: str,
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
    device: str = "auto",
    on_estimate: Callable[[float], None] | None = None,
) -> TeacherSpec:
    """Train a teacher on `data` and write it to `out` (safetensors with its normalisation, classes and accuracy).

    recipe: a shipped teacher recipe (digits, small, large) or a TOML file; size: input side in pixels; epochs: instead
    of the recipe's. Run again after a kill, it goes on. Raises InputError for inputs that cannot work.
    """
    out = Path(out)
    if out.suffix != ".safetensors":
        raise OptionError(f"OUT is {out}; a checkpoint is a .safetensors file")
    source = open_source(data, split=split, image_column=image_column, label_column=label_column, classes=classes)
    size = size or source.default_size()
    spec = teacher_recipe(recipe, data, size, epochs)
    check_network(arch, len(source.classes), size)  # a wrong name shows before an hour of reading
    source = source.without_unreadable(skip_bad)
    if holdout is not None:
        if not 0 < holdout < 1:
            raise OptionError(f"--holdout is {holdout}; it is a share between 0 and 1")
        source = source.part("train", holdout)
    if len(source) < 2:
        raise SourceError(f"{data} has {len(source)} images; a teacher needs more")
    where = pick_device(device)
    key = fingerprint([source.fingerprint, to_plain(source.ref), size, arch, to_plain(spec), seed])[:16]
    state = out.with_name(f".{out.name}.{key}.state")
    return train_teacher(
        out, source, arch=arch, size=size, spec=spec, seed=seed, device=where, state=state, on_estimate=on_estimate
    )
