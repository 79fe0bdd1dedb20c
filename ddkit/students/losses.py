"""The loss of a student on soft labels."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import kl_div, log_softmax, softmax


def soft_label_loss(logits: Tensor, teacher_logits: Tensor, temperature: float = 20.0) -> Tensor:
    """KL(teacher || student) at a temperature, mean over the batch, without the factor T**2.

    Source: SRe2L, CUDD and RDED (their code omits T**2).

    Args:
        logits: Logits of the student, float [B,C].
        teacher_logits: Logits of the teacher, float [B,C].
        temperature: The temperature T that divides both.

    Returns:
        A scalar in nats.
    """
    student = log_softmax(logits / temperature, dim=1)
    return kl_div(student, softmax(teacher_logits / temperature, dim=1), reduction="batchmean")
