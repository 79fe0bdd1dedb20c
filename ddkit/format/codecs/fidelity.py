"""Compares decoded labels with the teacher's logits."""

from __future__ import annotations

import numpy as np

from ddkit.format.codecs.interface import Codec, Tensors

TEMPERATURES = (1.0, 4.0, 20.0)


def fidelity_sums(logits: np.ndarray, codec: Codec, tensors: Tensors, shared: Tensors) -> np.ndarray:
    """Decode labels at each temperature and compare them with the logits they were encoded from.

    Args:
        logits: The teacher's logits [V,C].
        codec: The codec.
        tensors: The tensors that `codec.encode` returned for them.
        shared: The tensors that all rows share.

    Returns:
        Sums over views, float64 [5]: KL(teacher || decoded) in nats at T = 1, 4, 20 (NaN where the codec has no labels
        for that temperature); views with equal top-1; views.
    """
    classes = logits.shape[-1]
    known = codec.temperatures(TEMPERATURES)
    decoded = {known[0]: codec.decode(tensors, classes, known[0], shared)}
    for t in known[1:]:
        decoded[t] = codec.decode(tensors, classes, t, shared) if codec.BY_TEMPERATURE else decoded[known[0]]
    sums = [kl_sum(logits, decoded[t], t) if t in known else float("nan") for t in TEMPERATURES]
    return np.array([*sums, *agreement(logits, decoded[known[0]])])


def compared_logits(logits: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Compare two networks' logits for the same views; as `fidelity_sums`.

    Args:
        logits: The teacher's logits [V,C].
        others: The other network's, same shape.
    """
    return np.array([*(kl_sum(logits, others, t) for t in TEMPERATURES), *agreement(logits, others)])


def kl_sum(logits: np.ndarray, decoded: np.ndarray, temperature: float) -> float:
    """Return the sum over views of KL(teacher || decoded) at a temperature, in nats.

    Args:
        logits: The teacher's logits [...,C].
        decoded: The decoded logits, same shape.
        temperature: The temperature that divides both.
    """
    p, q = (_log_softmax(z.astype(np.float64) / temperature) for z in (logits, decoded))
    return float((np.exp(p) * (p - q)).sum())


def agreement(logits: np.ndarray, decoded: np.ndarray) -> tuple[float, float]:
    """Return the number of views whose largest logit is of the same class, and the number of views.

    Args:
        logits: The teacher's logits [...,C].
        decoded: The decoded logits, same shape.
    """
    return float((logits.argmax(-1) == decoded.argmax(-1)).sum()), float(np.prod(logits.shape[:-1]))


def relative_error(logits: np.ndarray, decoded: np.ndarray, temperature: float) -> float:
    """Return the mean relative error of softmax(z/T) - 1/C, what a student is pulled by at temperature T.

    Args:
        logits: The teacher's logits [N,C].
        decoded: The decoded logits, same shape.
        temperature: T.
    """
    p, q = (np.exp(_log_softmax(z.astype(np.float64) / temperature)) for z in (logits, decoded))
    pull = np.linalg.norm(p - 1 / p.shape[-1], axis=-1)
    return float((np.linalg.norm(p - q, axis=-1) / np.maximum(pull, 1e-12)).mean())


def _log_softmax(z: np.ndarray) -> np.ndarray:
    z = z - z.max(axis=-1, keepdims=True)
    found: np.ndarray = z - np.log(np.exp(z).sum(axis=-1, keepdims=True))
    return found
