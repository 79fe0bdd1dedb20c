"""Diversity and realism of a set: entropies, nearest neighbours, recall and coverage, and a t-SNE map."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddkit.evaluation.measures.interface import Context, Figure, Found, MeasuredSet, Metric, Row
from ddkit.evaluation.neighbours import as_seen, coverage, nearest, pixel_rows, recall, sampled_source, unit_rows

NAME = "diversity"
PAPER = "RDED section 3; Kynkäänniemi et al. 2019 (recall); Naeem et al. 2020 (coverage); CUDD Fig. 9 (t-SNE)"
COST = "the teacher on the set and on a sample of the source"
SUBJECT = "set"
NEEDS = ("teacher", "source")
METRICS = (
    Metric(name="diversity-ratio", title="diversity ratio H(mean label) of the set over the source", better="higher"),
    Metric(name="class-diversity-ratio", title="diversity ratio within classes", better="higher"),
    Metric(name="realism", title="realism score, mean log p(class) of the teacher", better="higher"),
    Metric(name="neighbour-pixels", title="mean distance to the nearest image of the class, grey levels"),
    Metric(name="neighbour-features", title="mean cosine distance to the nearest image of the class", better="higher"),
    Metric(name="closest", title="smallest distance of two images, grey levels"),
    Metric(name="duplicates", title="images that differ from another by less than 5 grey levels", unit="%",
           better="lower"),
    Metric(name="recall", title="recall in teacher features, k = 5", better="higher"),
    Metric(name="coverage", title="coverage in teacher features, k = 5", better="higher"),
    Metric(name="sources", title="distinct real images that an image of a class was made from", better="higher"),
)  # fmt: skip
K = 5
DUPLICATE = 5.0  # grey levels, root mean square


@dataclass(frozen=True)
class Config:
    """Settings of the measure.

    Attributes:
        per_class: Largest number of images of each class of the source.
        map_classes: Number of classes of the t-SNE map, the first ones.
        map_images: Largest number of real images of each class on it.
    """

    per_class: int = 100
    map_classes: int = 10
    map_images: int = 60


def measure(subject: MeasuredSet, context: Context) -> Iterator[Found]:
    """Yield what RDED defines literally, the same within classes, and distances to neighbours.

    The literal diversity ratio is H of the mean soft label of the set over that of the source (RDED Eq. 5). It is about
    1 for every set with equally many images of each class; within classes it tells sets apart. The realism score is
    RDED's Eq. 7 with the human label as the class.

    Args:
        subject: The set.
        context: With the teacher and the source.
    """
    config, manifest, teacher = context.config, subject.manifest, context.teacher()
    images, labels = subject.images()
    seen = as_seen(images, manifest)
    real, real_labels, _ = sampled_source(context.source(), manifest.eval, config.per_class, context.rng("diversity"))
    ours, theirs = (context.logits(teacher, part).double().softmax(1) for part in (seen, real))
    yield Row("diversity-ratio", _entropy(ours.mean(0)) / _entropy(theirs.mean(0)), n=len(labels))
    conditional = [
        sum(_entropy(p[of == c].mean(0)) for c in labels.unique()) for p, of in ((ours, labels), (theirs, real_labels))
    ]
    yield Row("class-diversity-ratio", conditional[0] / max(conditional[1], 1e-12), n=len(labels))
    chosen = ours[torch.arange(len(labels)), labels].clamp(min=1e-12)
    yield Row("realism", float(chosen.log().mean()), n=len(labels))
    features, real_features = (unit_rows(context.features(teacher, part)) for part in (seen, real))
    yield from _neighbours(pixel_rows(images), features, labels)
    yield Row("recall", recall(real_features, features, K), n=len(real))
    yield Row("coverage", coverage(real_features, features, K), n=len(real))
    rows = [{(label, row) for row in origin.rows} for label, origin in subject.origins() if origin.kind != "import"]
    if rows:
        yield Row("sources", len(set().union(*rows)) / len(manifest.classes), n=len(rows))
    yield _map(context, config, (features, labels), (real_features, real_labels))


def _entropy(p: Tensor) -> float:
    """Return the entropy of probabilities [C] in nats."""
    return float(-(p * p.clamp(min=1e-300).log()).sum())


def _neighbours(pixels: Tensor, features: Tensor, labels: Tensor) -> Iterator[Row]:
    """Yield distances to the nearest image of the same class. pixels, features: as `pixel_rows`, `unit_rows`."""
    by_pixels, by_features = [], []
    for label in labels.unique():
        mine = labels == label
        if mine.sum() > 1:
            by_pixels.append(nearest(pixels[mine], pixels[mine], same=True)[0])
            by_features.append(nearest(features[mine], features[mine], same=True)[0])
    if by_pixels:
        n = sum(map(len, by_pixels))
        yield Row("neighbour-pixels", float(torch.cat(by_pixels).mean()), n=n)
        yield Row("neighbour-features", float(torch.cat(by_features).square().mean() / 2), n=n)
    everywhere, _ = nearest(pixels, pixels, same=True)
    yield Row("closest", float(everywhere.min()), n=len(labels))
    yield Row("duplicates", 100 * float((everywhere < DUPLICATE).float().mean()), n=len(labels))


def _map(
    context: Context, config: Config, synthetic: tuple[Tensor, Tensor], real: tuple[Tensor, Tensor]
) -> Figure:  # fmt: skip
    """Return a t-SNE map of features of real and synthetic images of the first classes (CUDD Fig. 9)."""
    from sklearn.manifold import TSNE

    rows, points = [], []
    for kind, (features, labels), most in (("real", real, config.map_images), ("synthetic", synthetic, None)):
        for label in range(min(config.map_classes, len(context.classes))):
            mine = features[labels == label][:most]
            points.append(mine)
            rows += [(kind, context.classes[label])] * len(mine)
    stacked = torch.cat(points).numpy()
    perplexity = min(30.0, max((len(stacked) - 1) / 3, 1.0))
    found = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(stacked)
    values = [
        {"x": round(float(x), 2), "y": round(float(y), 2), "kind": kind, "class": name}
        for (kind, name), (x, y) in zip(rows, np.asarray(found))
    ]
    spec: dict[str, Any] = {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "data": {"values": values},
        "mark": {"type": "point", "filled": True},
        "encoding": {
            "x": {"field": "x", "type": "quantitative", "axis": None},
            "y": {"field": "y", "type": "quantitative", "axis": None},
            "color": {"field": "class", "type": "nominal"},
            "shape": {"field": "kind", "type": "nominal", "scale": {"range": ["circle", "diamond"]}},
            "size": {"condition": {"test": "datum.kind == 'synthetic'", "value": 90}, "value": 18},
            "opacity": {"condition": {"test": "datum.kind == 'synthetic'", "value": 1}, "value": 0.45},
            "tooltip": [{"field": "class"}, {"field": "kind"}],
        },
    }
    return Figure("t-sne", "t-SNE of teacher features: real images (dots) and images of the set (diamonds).", spec)
