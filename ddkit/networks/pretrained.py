"""Networks that were trained elsewhere: of timm or torchvision (downloaded, or from a file), or our checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from ddkit.errors import TeacherError
from ddkit.networks.checkpoints import load_checkpoint, read_weights
from ddkit.networks.registry import IMAGENET_MEAN, IMAGENET_STD, check_network
from ddkit.specs import ClassName


@dataclass(frozen=True)
class Pretrained:
    """A trained network with its name, its normalisation and its input size in pixels."""

    network: nn.Module
    arch: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: int

    def imagenet_classes(self) -> list[ClassName] | None:
        """The classes of an ImageNet-1K head; None where it has another one."""
        from timm.data import ImageNetInfo

        head = head_of(self.network)
        if head is None or head.out_features != 1000:
            return None
        info = ImageNetInfo()
        return [ClassName(name=info.index_to_description(i), id=info.index_to_label_name(i)) for i in range(1000)]

    def give(self, network: nn.Module) -> None:
        """Load these weights into the same architecture with another head, which keeps its own.

        Raises TeacherError where anything but the head differs.
        """
        theirs, mine = self.network.state_dict(), network.state_dict()
        other = [name for name in mine if name not in theirs or theirs[name].shape != mine[name].shape]
        last = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)][-1:]
        if wrong := [name for name in other if not last or not name.startswith(f"{last[0]}.")]:
            raise TeacherError(f"the weights of {self.arch} do not fit at this size ({wrong[0]}); use another --size")
        network.load_state_dict({name: theirs[name] for name in mine if name not in other}, strict=False)


def head_of(network: nn.Module) -> nn.Linear | None:
    """The last linear layer."""
    return next((m for m in reversed(list(network.modules())) if isinstance(m, nn.Linear)), None)


def is_library(ref: str) -> bool:
    """Whether a teacher is named as `timm:NAME[@FILE]` or `torchvision:NAME[@FILE]`."""
    kind, _, rest = ref.partition(":")
    return kind in ("timm", "torchvision") and bool(rest)


def load_pretrained(ref: str, size: int | None) -> Pretrained:
    """`timm:NAME[@FILE]`, `torchvision:NAME[@FILE]`, or one of our checkpoints by its path. size: default its own.

    Raises TeacherError.
    """
    if not is_library(ref):
        network, spec = load_checkpoint(ref)
        return Pretrained(network, spec.arch, spec.mean, spec.std, size or spec.image_size)
    library, _, rest = ref.partition(":")
    tag, at, file = rest.partition("@")
    if at and not Path(file).is_file():
        raise TeacherError(f"no weights file {file} for {library}:{tag}; give an existing safetensors file after @")
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    side = size or 224
    if library == "timm":
        import timm

        config = timm.models.get_pretrained_cfg(tag)
        if config is not None:
            mean, std, side = tuple(config.mean), tuple(config.std), size or config.input_size[-1]
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

        found: nn.Module = torchvision.models.get_model(tag, weights="DEFAULT")
        return found
    except Exception as error:  # each library has its own tree of network errors
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TeacherError(
            f"{library}:{tag} cannot be fetched ({reason}); give its weights as {library}:{tag}@FILE.safetensors"
        ) from error
