"""The checkpoint that `--teacher` names: a file, a library's network, or one trained once and kept in the cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ddkit.errors import OptionError, TeacherError
from ddkit.plain import fingerprint, to_plain
from ddkit.runtime import cache_dir, note
from ddkit.sources.classes import match_classes
from ddkit.sources.images import Source
from ddkit.sources.networks import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    check_network,
    load_checkpoint,
    read_weights,
    save_checkpoint,
    tensor_hash,
)
from ddkit.sources.teaching import default_arch, teacher_recipe, train_teacher
from ddkit.specs import ClassName, TeacherSpec


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
