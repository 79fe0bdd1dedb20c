"""Does a set rank networks as the full data does? (its use in neural architecture search)"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ddkit.errors import OptionError
from ddkit.evaluation.measures.interface import Asked, Context, Figure, Found, MeasuredSet, Metric, Row, StudentRequest

NAME = "ranking"
PAPER = "Zhao et al. 2021 (DC, neural architecture search); Kendall 1938; Spearman 1904"
COST = "trains every network on the set, for each seed, and once on the whole source"
SUBJECT = "set"
NEEDS = ("student", "validation", "source")
METRICS = (
    Metric(name="kendall", title="Kendall's tau-b of the ranking against full data", better="higher"),
    Metric(name="spearman", title="Spearman's rho of the ranking against full data", better="higher"),
    Metric(name="p-value", title="share of random rankings with as high a tau", better="lower"),
    Metric(name="epochs", title="epochs on the whole source"),
    Metric(name="top-1", title="mean top-1 accuracy of a network trained on the set", unit="%", better="higher"),
    Metric(name="full", title="top-1 accuracy of a network trained on the whole source", unit="%"),
)
FEWEST = 3  # networks
PERMUTATIONS = 10_000
# of 0.6 to 5 million parameters, which take images from 32 pixels on
NETWORKS = (
    *("timm:resnet10t", "timm:mobilenetv2_050", "timm:mobilenetv3_small_050", "timm:regnetx_002", "timm:lcnet_050"),
    *("timm:mnasnet_small", "timm:tinynet_e", "timm:dla46_c", "timm:mobilevitv2_050", "timm:semnasnet_050"),
    *("timm:repghostnet_050", "timm:convnext_atto"),
)


@dataclass(frozen=True)
class Config:
    """Settings of the measure.

    Attributes:
        archs: The networks.
        epochs: Epochs on the whole source; none: those of the recipe of teachers.
    """

    archs: tuple[str, ...] = NETWORKS
    epochs: int | None = None


def students(asked: Asked) -> Sequence[StudentRequest]:
    """Return two requests for each network: on the set, and on the whole source.

    Args:
        asked: The settings.

    Raises:
        OptionError: There are fewer than three networks, or less than one epoch.
    """
    archs = asked.config.archs
    if len(archs) < FEWEST:
        raise OptionError(f"ranking.archs has {len(archs)} networks; give at least {FEWEST}")
    epochs = asked.config.epochs
    if epochs is not None and epochs < 1:
        raise OptionError(f"ranking.epochs is {epochs}; give at least 1")
    on_set = [StudentRequest(arch=arch, tag=arch) for arch in archs]
    return [*on_set, *(StudentRequest(arch=arch, full=True, epochs=epochs, tag=arch) for arch in archs)]


def measure(subject: MeasuredSet, context: Context) -> Iterator[Found]:
    """Yield rank correlations of the accuracies (means over seeds) on the set and on the whole source.

    Args:
        subject: The set, with the requested networks.
        context: With the validation images.
    """
    labels = context.validation()[1]
    found: dict[bool, dict[str, list[float]]] = {False: {}, True: {}}
    for network in subject.networks:
        assert network.request is not None
        accuracy = context.accuracy(network)
        found[network.request.full].setdefault(network.arch, []).append(accuracy)
    archs = sorted(found[True])
    (epochs,) = {network.epochs for network in subject.networks if network.epochs is not None}
    ours, full = ([float(np.mean(found[whole][arch])) for arch in archs] for whole in (False, True))
    for arch, small, large in zip(archs, ours, full):
        yield Row("top-1", small, arch, n=len(labels))
        yield Row("full", large, arch, n=len(labels))
    tau, rho = rank_correlations(ours, full)
    yield Row("kendall", tau, n=len(archs))
    yield Row("spearman", rho, n=len(archs))
    yield Row("p-value", permutation_p(ours, full, context.rng("ranking")), n=len(archs))
    yield Row("epochs", epochs, n=len(archs))
    yield _scatter(archs, ours, full, f"{epochs} epochs on the whole source")


def rank_correlations(ours: Sequence[float], full: Sequence[float]) -> tuple[float, float]:
    """Return Kendall's tau-b and Spearman's rho; 0 where one of the two ranks nothing.

    Args:
        ours: Accuracies of networks.
        full: Accuracies of the same networks.
    """
    from scipy.stats import kendalltau, spearmanr

    if len(set(ours)) < 2 or len(set(full)) < 2:
        return 0.0, 0.0
    return float(kendalltau(ours, full).statistic), float(spearmanr(ours, full).statistic)


def permutation_p(ours: Sequence[float], full: Sequence[float], draw: np.random.Generator) -> float:
    """Return the share of random orders of `ours` whose tau is at least as high, the given order counted in.

    Args:
        ours: Accuracies of networks.
        full: Accuracies of the same networks.
        draw: Draws the orders.
    """
    signs = np.sign(np.subtract.outer(np.array(full), np.array(full)))
    values = np.array(ours)

    def concordance(order: np.ndarray) -> float:
        return float((np.sign(np.subtract.outer(values[order], values[order])) * signs).sum())

    reached = concordance(np.arange(len(values)))
    higher = sum(concordance(draw.permutation(len(values))) >= reached for _ in range(PERMUTATIONS))
    return (1 + higher) / (1 + PERMUTATIONS)


def _scatter(archs: Sequence[str], ours: Sequence[float], full: Sequence[float], against: str) -> Figure:
    values = [{"network": arch, "set": s, "full": f} for arch, s, f in zip(archs, ours, full)]

    def axis(field: str, title: str) -> dict[str, Any]:
        return {"field": field, "type": "quantitative", "title": title, "scale": {"zero": False}}

    spec: dict[str, Any] = {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "data": {"values": values},
        "mark": {"type": "point", "filled": True, "size": 80},
        "encoding": {
            "x": axis("full", f"{against}, %"),
            "y": axis("set", "trained on the set, %"),
            "tooltip": [{"field": "network"}, {"field": "set"}, {"field": "full"}],
        },
    }
    return Figure("networks", f"Accuracy of every network on the set against {against}.", spec)
