"""Statistics of BatchNorm inputs: mean and biased variance, with gradients, in one pass over memory.

The measured network is a copy in evaluation mode whose outputs are those of the original. Measuring and normalising are
one autograd function with a backward of one pass, instead of hooks whose mean and variance autograd differentiates
(benchmarks/inversion.py compares whole steps).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ddkit.errors import TeacherError
from ddkit.synthesis.objectives import Moments


class _MeasureAndNormalise(torch.autograd.Function):
    """x [B,C,H,W] -> (normalised x, mean [G,C], biased variance [G,C]); the groups are consecutive equal parts of B."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, eps: float, groups: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        measured = [_moments(part) for part in x.chunk(groups)]
        means, variances = torch.stack([m for m, _ in measured]), torch.stack([v for _, v in measured])
        ctx.save_for_backward(x, means, weight * torch.rsqrt(var + eps))
        return functional.batch_norm(x, mean, var, weight, bias, False, 0.0, eps), means, variances

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        out, of_mean, of_var = gradients
        x, means, scale = ctx.saved_tensors
        groups, channels = means.shape
        n = x.numel() // (channels * groups)
        slope = 2 * of_var / n  # d var / d x = 2 (x - mean) / n
        offset = of_mean / n - slope * means
        view = (groups, 1, channels, 1, 1)
        parts = x.unflatten(0, (groups, -1))
        grad = torch.addcmul(offset.to(x.dtype).view(view), parts, slope.to(x.dtype).view(view)).flatten(0, 1)
        return grad.addcmul_(out, scale.to(x.dtype).view(1, -1, 1, 1)), None, None, None, None, None, None


def _moments(x: Tensor) -> Moments:
    """Return mean and biased variance of each channel, float32 [C]."""
    if x.device.type in ("cpu", "cuda"):
        zero, one = x.new_zeros(x.shape[1], dtype=torch.float32), x.new_ones(x.shape[1], dtype=torch.float32)
        return torch.batch_norm_update_stats(x, zero, one, 0.0)  # float32 buffers give float32 results
    var, mean = torch.var_mean(x.float(), (0, 2, 3), correction=0)
    return mean, var


class _Measuring(nn.Module):
    """A BatchNorm2d in evaluation mode that stores the statistics of its input in `seen`, under its number."""

    def __init__(self, norm: nn.BatchNorm2d, number: int, seen: dict[int, Moments], form: dict[str, int]) -> None:
        super().__init__()
        assert norm.running_mean is not None and norm.running_var is not None
        self.mean, self.var, self.eps = norm.running_mean, norm.running_var, norm.eps
        self.weight = torch.ones_like(self.mean) if norm.weight is None else norm.weight.detach()
        self.bias = torch.zeros_like(self.mean) if norm.bias is None else norm.bias.detach()
        self._number, self._seen, self._form = number, seen, form
        # timm's BatchNormAct2d also applies dropout and an activation
        self.after = nn.Sequential(*(getattr(norm, name) for name in ("drop", "act") if hasattr(norm, name)))

    def forward(self, x: Tensor) -> Tensor:
        out, mean, var = _MeasureAndNormalise.apply(
            x, self.mean, self.var, self.weight, self.bias, self.eps, self._form["groups"]
        )
        self._seen[self._number] = (mean, var)
        found: Tensor = self.after(out)
        return found


class Measured:
    """A copy of a network that measures the inputs of its BatchNorm2d layers.

    Args:
        network: The network.

    Attributes:
        network: The copy, in evaluation mode and frozen.
        trained: Running mean and variance of every layer, [1,C] each.

    Raises:
        TeacherError: The network has no BatchNorm; the message names the setting that drops the term.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self._seen: dict[int, Moments] = {}
        self._form = {"groups": 1}
        norms = [
            (name, module)
            for name, module in self.network.named_modules()
            if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None
        ]
        if not norms:
            raise TeacherError(
                "the teacher has no BatchNorm layers, so there are no statistics to match; use a network with "
                "BatchNorm, or drop the term with --set bn.weight=0"
            )
        self.trained: list[Moments] = []
        for number, (name, norm) in enumerate(norms):
            assert norm.running_mean is not None and norm.running_var is not None
            self.trained.append((norm.running_mean.float()[None], norm.running_var.float()[None]))
            owner, _, last = name.rpartition(".")
            setattr(self.network.get_submodule(owner), last, _Measuring(norm, number, self._seen, self._form))

    @contextmanager
    def watch(self, groups: int = 1) -> Iterator[dict[int, Moments]]:
        """Measure the forward pass that runs inside the context.

        Nothing is kept in the object afterwards, since that would keep the graph of the pass alive until the next one.

        Args:
            groups: Number of consecutive equal parts of the batch that are measured separately.

        Yields:
            A dictionary, filled at exit: number of the layer -> (mean, variance) of its input, [groups,C] each.
        """
        found: dict[int, Moments] = {}
        self._form["groups"] = groups
        yield found
        found.update(self._seen)
        self._seen.clear()
