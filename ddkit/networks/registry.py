"""Network registry: the small networks of the papers, timm and torchvision."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ddkit.errors import OptionError, unknown

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NARROW = (32, 64)  # other widths of the ConvNet: those of DC (Zhao et al. 2021), with BatchNorm
PART, FEW = 2**15, 4  # CPU batch: at most PART pixels, at least FEW images; results depend on it in the last bits


class _Block(nn.Module):
    """3x3 convolution, normalisation, ReLU and 2x2 average pooling."""

    def __init__(self, channels: int, width: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 3, padding=1)
        self.norm = norm(width)
        self.pool = nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.pool(torch.relu(self.norm(self.conv(x))))
        return found


class ConvNet(nn.Module):
    """The ConvNet of the distillation papers: `depth` blocks, then one linear layer.

    Input float [B,3,S,S]; logits [B,C]. The classifier reads the last feature map, flattened channel-first.
    Sources: MTT (InstanceNorm, names ending in `-in`); RDED and CUDD (BatchNorm); DC (the widths 32 and 64, here with
    BatchNorm: `-w32`, `-w64`).

    Args:
        depth: Number of blocks; each halves the sides of the image.
        classes: Number of outputs.
        size: Side of the input, pixels.
        norm: Builds a normalisation layer for a number of channels.
        width: Channels of each block.

    Raises:
        OptionError: `size` is below 2**depth.
    """

    def __init__(self, depth: int, classes: int, size: int, norm: Callable[[int], nn.Module], width: int = 128) -> None:
        super().__init__()
        if size < 2**depth:
            raise OptionError(
                f"convnet{depth} halves the image {depth} times; {size} pixels are too few, use 2^{depth}"
            )
        self.features = nn.Sequential(*(_Block(width if i else 3, width, norm) for i in range(depth)))
        self.classifier = nn.Linear(width * (size // 2**depth) ** 2, classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the penultimate features of `x`, float [B,3,S,S], as float [B,F]."""
        found: Tensor = self.features(x).flatten(1)
        return found

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.classifier(self.forward_features(x))
        return found


def _instance_norm(width: int) -> nn.Module:
    return nn.GroupNorm(width, width)


@torch.inference_mode()
def forward(network: nn.Module, inputs: Tensor) -> Tensor:
    """Run a network without gradients.

    On a CPU the batch is split, so that feature maps stay in the caches. Larger ones would also be returned to the
    operating system, and cleared by it, at every layer.

    Args:
        network: The network.
        inputs: float [B,3,S,S].

    Returns:
        Its output, float [B,C].
    """
    inputs = inputs.contiguous(memory_format=torch.channels_last)
    if inputs.device.type != "cpu":
        found: Tensor = network(inputs)
        return found
    return torch.cat([network(part) for part in inputs.split(max(FEW, PART // inputs.shape[2:].numel()))])


def _small_resnet(name: str, classes: int) -> nn.Module:
    """torchvision's ResNet with a 3x3 stem and no max-pool, for images up to 64 pixels."""
    import torchvision

    network = getattr(torchvision.models, name)(num_classes=classes)
    network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    network.maxpool = nn.Identity()
    found: nn.Module = network
    return found


def _small_networks() -> dict[str, Callable[[int, int], nn.Module]]:
    table: dict[str, Callable[[int, int], nn.Module]] = {}
    for depth in (3, 4, 5, 6):
        table[f"convnet{depth}"] = lambda c, s, d=depth: ConvNet(d, c, s, nn.BatchNorm2d)  # type: ignore[misc]
        table[f"convnet{depth}-in"] = lambda c, s, d=depth: ConvNet(d, c, s, _instance_norm)  # type: ignore[misc]
        for width in NARROW:
            table[f"convnet{depth}-w{width}"] = lambda c, s, d=depth, w=width: ConvNet(d, c, s, nn.BatchNorm2d, w)  # type: ignore[misc]
    for name in ("resnet18", "resnet50", "resnet101"):
        table[f"{name}-small"] = lambda c, s, n=name: _small_resnet(n, c)  # type: ignore[misc]
        table[name] = lambda c, s, n=name: _torchvision(n, c)  # type: ignore[misc]
    return table


def network_names() -> list[str]:
    """Return the sorted names of the built-in networks (`build_network` also takes names of timm and torchvision)."""
    return sorted(_small_networks())


def build_network(name: str, classes: int, size: int) -> nn.Module:
    """Build an untrained network with initial weights from the global random generator.

    Args:
        name: One of `network_names()`, `timm:NAME` or `torchvision:NAME`.
        classes: Number of outputs.
        size: Side of the input, pixels: the network takes float [B,3,size,size].

    Raises:
        OptionError: The name is unknown (the message lists the valid ones), or the images are too small.
    """
    library, colon, tag = name.partition(":")
    if library == "timm" and colon:
        return _timm(tag, classes, size)
    if library == "torchvision" and colon:
        return _torchvision(tag, classes)
    small = _small_networks()
    if name not in small:
        raise unknown("network", name, [*small, "timm:NAME", "torchvision:NAME"])
    return small[name](classes, size)


def check_network(name: str, classes: int, size: int) -> nn.Module:
    """Build a network as `build_network` does, leaving the global random generator as it was.

    For checking names, and for networks whose weights are loaded afterwards.

    Args:
        name: The network, as in `build_network`.
        classes: Number of outputs.
        size: Side of the input, pixels.

    Raises:
        OptionError: As `build_network`.
    """
    with torch.random.fork_rng(devices=[]):
        return build_network(name, classes, size)


def _timm(tag: str, classes: int, size: int) -> nn.Module:
    import timm

    if not timm.is_model(tag.partition(".")[0]):
        near = timm.list_models(f"*{tag.partition('.')[0][:6]}*")[:8]
        raise OptionError(f"timm has no model {tag!r}; near it: {', '.join(near) or 'none'} (`timm.list_models()`)")
    try:
        return timm.create_model(tag, num_classes=classes, img_size=size)
    except TypeError:
        return timm.create_model(tag, num_classes=classes)  # convolutional networks take any size and have no img_size


def _torchvision(tag: str, classes: int) -> nn.Module:
    import torchvision

    if tag not in torchvision.models.list_models(module=torchvision.models):
        raise unknown("torchvision model", tag, torchvision.models.list_models(module=torchvision.models))
    found: nn.Module = torchvision.models.get_model(tag, weights=None, num_classes=classes)
    return found
