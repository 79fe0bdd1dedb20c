"""The loss of a student on soft labels."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import kl_div, log_softmax, softmax


def soft_label_loss(logits: Tensor, teacher_logits: Tensor, temperature: float = 20.0) -> Tensor:
    """KL(teacher || student) at a temperature, mean over the batch, without the T-squared factor.

    logits, teacher_logits: float [B,C]; returns a scalar in nats. Source: SRe2L, CUDD, RDED (their code omits T^2).
    """
    student = log_softmax(logits / temperature, dim=1)
    return kl_div(student, softmax(teacher_logits / temperature, dim=1), reduction="batchmean")
