"""Loss terms of image inversion as pure functions of logits, statistics and pixels, computed in float32.

Sources: SRe2L, arXiv 2306.13092; CUDD, arXiv 2405.09150, eq. 4-7. docs/methods.md says where the authors' code differs
and is followed. tests/test_objectives.py compares values and gradients with a float64 reference implementation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Moments = tuple[Tensor, Tensor]  # mean and biased variance per channel, float32 [groups,C]


def classification(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy in nats, mean over the batch.

    Args:
        logits: float [B,C].
        labels: int64 [B].
    """
    return functional.cross_entropy(logits.float(), labels)


def batch_norm(
    found: Sequence[Moments],
    targets: Sequence[Moments],
    *,
    first: float = 10.0,
    norm: Literal["sum", "per-layer-mean"] = "sum",
    moment: Literal["variance", "std"] = "variance",
) -> Tensor:
    """Distance of a batch's BatchNorm inputs to target statistics (SRe2L; CUDD eq. 4).

    The sum over layers of the L2 norms of both differences, averaged over the G groups.

    Args:
        found: Mean and variance of every layer, [G,C] each.
        targets: Mean and variance of every layer, [G,C] or [1,C] each.
        first: Weight of the first layer.
        norm: `sum` adds plain norms; `per-layer-mean` divides each by sqrt(C) and by the number of layers, so that one
            weight suits networks of any width and depth.
        moment: What the second norm compares. The papers write std, their code compares variances.
    """
    total = found[0][0].new_zeros(())
    for number, ((mean, var), (mean_target, var_target)) in enumerate(zip(found, targets, strict=True)):
        if moment == "std":
            var, var_target = (var + 1e-8).sqrt(), (var_target + 1e-8).sqrt()
        layer = _l2(mean - mean_target) + _l2(var - var_target)
        if norm == "per-layer-mean":
            layer = layer / (mean.shape[-1] ** 0.5 * len(found))
        total = total + (first if number == 0 else 1.0) * layer.mean()
    return total


def _l2(difference: Tensor) -> Tensor:
    found: Tensor = torch.linalg.vector_norm(difference, dim=-1)
    return found


def regulariser(values: Tensor, anchor: Tensor) -> Tensor:
    """Mean squared distance over all elements (CUDD).

    Args:
        values: Pixels, float [B,3,S,S], or features, float [B,F].
        anchor: The same of the real images, under the same augmentation.
    """
    return functional.mse_loss(values.float(), anchor.float())


def adversarial(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    mask: Literal["teacher", "none"] = "teacher",
    form: Literal["stable", "paper"] = "stable",
) -> Tensor:
    """-1/B sum of log(1 - p_student(y)), which makes the student wrong where the teacher is right (CUDD eq. 7).

    Args:
        student_logits: float [B,C].
        teacher_logits: float [B,C].
        labels: The classes y, int64 [B].
        mask: `teacher` sums over the rows that the teacher classifies correctly, `none` over all (Table X).
        form: `stable` computes the logarithm as logsumexp over the other classes minus logsumexp over all; `paper` is
            log(1 - p + 1e-12), whose gradient vanishes for margins above 17.
    """
    z = student_logits.float()
    if form == "stable":
        own = functional.one_hot(labels, z.shape[1]).bool()
        log_wrong = torch.logsumexp(z.masked_fill(own, -torch.inf), 1) - torch.logsumexp(z, 1)
    else:
        p = z.softmax(1).gather(1, labels[:, None])[:, 0]
        log_wrong = torch.log(1 - p + 1e-12)
    if mask == "teacher":
        log_wrong = torch.where(teacher_logits.argmax(1) == labels, log_wrong, 0.0)
    return -log_wrong.sum() / len(labels)
