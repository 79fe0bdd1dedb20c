"""BatchNorm over the batch of all ranks, so that a training does not depend on their number."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm
from torch.overrides import TorchFunctionMode

from ddkit.core.distributed import Group
from ddkit.errors import OptionError


class GlobalBatchNorm(TorchFunctionMode):
    """While active, every BatchNorm in training mode uses the statistics of the batches of all ranks together.

    It replaces `torch.nn.functional.batch_norm`, which all BatchNorm layers of torch and timm call; the network is not
    changed. torch's SyncBatchNorm needs a GPU, and converting a network to it drops the activations in timm's layers.

    Args:
        group: The ranks. All run the same layers in the same order, also on a batch without rows.
    """

    def __init__(self, group: Group) -> None:
        super().__init__()
        self._group = group

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is batch_norm:
            return self._batch_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _batch_norm(
        self,
        inputs: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        """As torch's function of this name, [B,C,...] -> [B,C,...]."""
        if not training:
            return batch_norm(inputs, running_mean, running_var, weight, bias, False, momentum, eps)
        outputs: Tensor
        outputs, mean, var, total = _Standardise.apply(inputs.float(), eps, self._group)
        with torch.no_grad():
            if running_mean is not None:
                running_mean.lerp_(mean, momentum)
            if running_var is not None:
                running_var.lerp_(var * (total / (total - 1)), momentum)
        shape = _per_channel(inputs)
        if weight is not None:
            outputs = outputs * weight.view(shape)
        if bias is not None:
            outputs = outputs + bias.view(shape)
        return outputs.to(inputs.dtype)


class _Standardise(torch.autograd.Function):
    """(x - mean) / std per channel, with mean and variance over the batches of all ranks."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float, group: Group) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        axes, shape = [0, *range(2, x.ndim)], _per_channel(x)
        count = x.new_tensor([x.numel() / x.shape[1]])
        mean = x.sum(axes) / count.clamp(min=1)
        squares = (x - mean.view(shape)).square_().sum(axes)
        counts, means, of_ranks = group.gather(torch.cat([count, mean, squares])).split([1, len(mean), len(mean)], 1)
        total = counts.sum()
        mean = (counts * means).sum(0) / total
        var = (of_ranks + counts * (means - mean).square()).sum(0) / total  # within the ranks, and between them
        scale = (var + eps).rsqrt()
        found = (x - mean.view(shape)).mul_(scale.view(shape))
        ctx.group = group
        ctx.save_for_backward(found, scale, total)
        ctx.mark_non_differentiable(mean, var, total)
        return found, mean, var, total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor, None, None]:
        found, scale, total = ctx.saved_tensors
        axes, shape = [0, *range(2, found.ndim)], _per_channel(found)
        sums = torch.cat([gradient.sum(axes), (gradient * found).sum(axes)])
        first, second = (part.view(shape) for part in (ctx.group.sum(sums) / total).chunk(2))
        return (gradient - first - found * second) * scale.view(shape), None, None


def _per_channel(x: Tensor) -> list[int]:
    """The shape in which a value per channel is broadcast over [B,C,...]."""
    return [1, -1, *[1] * (x.ndim - 2)]


def check_batch_norms(network: nn.Module) -> None:
    """Check that several ranks can train a network as one process does.

    Args:
        network: The network.

    Raises:
        OptionError: A layer keeps statistics of batches without calling BatchNorm, as timm's EvoNorm2dB0 does.
    """
    for module in network.modules():
        if getattr(module, "running_var", None) is not None and not isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise OptionError(
                f"the network has a {type(module).__name__}, whose statistics are of one rank's part of a batch; "
                "train it in one process, without torchrun"
            )
