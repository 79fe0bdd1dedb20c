"""Pretrained networks from timm or torchvision (downloaded or from a file), or from ddkit checkpoints."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from ddkit.errors import TeacherError
from ddkit.networks.checkpoints import load_checkpoint, read_weights
from ddkit.networks.registry import IMAGENET_MEAN, IMAGENET_STD, check_network
from ddkit.specs import ClassName


@dataclass(frozen=True)
class Pretrained:
    """A pretrained network with its normalisation.

    Attributes:
        network: The network with its weights.
        arch: Its name, as `build_network` takes it.
        mean: Mean per channel, for pixels in [0, 1].
        std: Standard deviation per channel, for pixels in [0, 1].
        size: Side of its input, pixels.
    """

    network: nn.Module
    arch: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: int

    def imagenet_classes(self) -> list[ClassName] | None:
        """Return the ImageNet-1K classes in the order of the outputs; None if the head does not have 1000 outputs."""
        from timm.data import ImageNetInfo

        head = head_of(self.network)
        if head is None or head.out_features != 1000:
            return None
        info = ImageNetInfo()
        return [ClassName(name=info.index_to_description(i), id=info.index_to_label_name(i)) for i in range(1000)]

    def load_into(self, network: nn.Module) -> None:
        """Copy these weights into a network of the same architecture that may have another number of classes.

        Args:
            network: The network to modify. Its last linear layer keeps its own weights where the shapes differ.

        Raises:
            TeacherError: The shape of another layer differs.
        """
        theirs, mine = self.network.state_dict(), network.state_dict()
        other = [name for name in mine if name not in theirs or theirs[name].shape != mine[name].shape]
        last = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)][-1:]
        if wrong := [name for name in other if not last or not name.startswith(f"{last[0]}.")]:
            raise TeacherError(f"the weights of {self.arch} do not fit at this size ({wrong[0]}); use another --size")
        network.load_state_dict({name: theirs[name] for name in mine if name not in other}, strict=False)


def head_of(network: nn.Module) -> nn.Linear | None:
    """Return the last linear layer of `network`, or None if it has none."""
    return next((m for m in reversed(list(network.modules())) if isinstance(m, nn.Linear)), None)


def is_library(ref: str) -> bool:
    """Return whether `ref` has the form `timm:NAME[@FILE]` or `torchvision:NAME[@FILE]`."""
    kind, _, rest = ref.partition(":")
    return kind in ("timm", "torchvision") and bool(rest)


def load_pretrained(ref: str, size: int | None) -> Pretrained:
    """Load a pretrained network.

    Args:
        ref: `timm:NAME[@FILE]`, `torchvision:NAME[@FILE]` or the path of a ddkit checkpoint. Without FILE, the library
            downloads the weights.
        size: Side of the input, pixels. Default: that of the checkpoint or of timm's pretrained config, else 224.

    Raises:
        TeacherError: The weights cannot be read or downloaded, or do not fit the network.
    """
    if not is_library(ref):
        network, spec = load_checkpoint(ref)
        return Pretrained(network, spec.arch, spec.mean, spec.std, size or spec.image_size)
    library, _, rest = ref.partition(":")
    tag, at, file = rest.partition("@")
    if at and not os.path.isfile(file):
        raise TeacherError(f"no weights file {file} for {library}:{tag}; give an existing safetensors file after @")
    mean, std, side = input_of(library, tag)
    side = size or side
    name = f"{library}:{tag}"
    if not at:
        return Pretrained(_download(library, tag), name, mean, std, side)
    state, _ = read_weights(Path(file))
    network = check_network(name, _outputs(state, file), side)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise TeacherError(f"{file} does not fit {name} ({str(error).splitlines()[0]})") from error
    return Pretrained(network, name, mean, std, side)


def input_of(library: str, tag: str) -> tuple[tuple[float, ...], tuple[float, ...], int]:
    """Return (mean, std, side in pixels) of the input of a network of timm or torchvision. Nothing is downloaded.

    Args:
        library: "timm" or "torchvision".
        tag: The network's name in it.
    """
    if library == "timm":
        import timm

        config = timm.models.get_pretrained_cfg(tag)
        if config is not None:
            return tuple(config.mean), tuple(config.std), config.input_size[-1]
    return IMAGENET_MEAN, IMAGENET_STD, 224


def _outputs(state: dict[str, Tensor], file: str) -> int:
    """Return the number of outputs: rows of the last 2-D weight named like a head, else of the last 2-D weight."""
    heads = [tensor for name, tensor in state.items() if tensor.ndim == 2 and name.endswith("weight")]
    if not heads:
        raise TeacherError(f"{file} has no linear head; give a classifier's weights")
    named = [t for name, t in state.items() if t.ndim == 2 and name.startswith(("fc.", "head.", "classifier."))]
    return (named or heads)[-1].shape[0]


def _download(library: str, tag: str) -> nn.Module:
    """Load pretrained weights through the library, which downloads them."""
    try:
        if library == "timm":
            import timm

            return timm.create_model(tag, pretrained=True)
        import torchvision

        found: nn.Module = torchvision.models.get_model(tag, weights="DEFAULT")
        return found
    except Exception as error:  # network errors of the libraries have no common base class
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TeacherError(
            f"{library}:{tag} cannot be fetched ({reason}); give its weights as {library}:{tag}@FILE.safetensors"
        ) from error
