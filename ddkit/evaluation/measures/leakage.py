"""What a set and its students give away of the real images: near copies, real pixels, membership inference."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ddkit.core.serialization import fingerprint, to_plain
from ddkit.evaluation.measures.interface import Context, Figure, Found, MeasuredNetwork, MeasuredSet, Metric, Row
from ddkit.evaluation.membership import attack_quality, rmia
from ddkit.evaluation.neighbours import as_seen, nearest, pixel_rows, sampled_source, unit_rows
from ddkit.sources.images import Source
from ddkit.teachers.teacher import Teacher

NAME = "leakage"
PAPER = "Zarifzadeh et al. 2024 (RMIA); arXiv 2506.14457 (soft labels leak the teacher's data)"
COST = "the teacher and every student on a sample of the source"
SUBJECT = "set"
NEEDS = ("student", "teacher", "source", "validation")
METRICS = (
    Metric(name="real-pixels", title="pixels that began as real ones", unit="%", better="lower"),
    Metric(name="nearest-pixels", title="mean distance to the nearest real image, grey levels", better="higher"),
    Metric(name="nearest-pixels-min", title="smallest distance to a real image, grey levels", better="higher"),
    Metric(name="copies-pixels", title="near copies by pixels (the 1 % quantile of unseen images)", unit="%",
           better="lower"),
    Metric(name="nearest-features", title="mean cosine distance to the nearest real image", better="higher"),
    Metric(name="copies-features", title="near copies by features (the same)", unit="%", better="lower"),
    Metric(name="rmia-auc", title="membership inference (RMIA), area under the curve", better="lower"),
    Metric(name="rmia-tpr-0.1", title="RMIA, true positives at 0.1 % false ones", unit="%", better="lower"),
    Metric(name="rmia-tpr-1", title="RMIA, true positives at 1 % false ones", unit="%", better="lower"),
    Metric(name="label-auc", title="membership inference by labels, area under the curve", better="lower"),
)  # fmt: skip
PAIRS = 8  # of the picture
ENLARGED = 64  # pixels, least side of an image on the picture
KINDS = {"noise": 0.0, "real": 100.0, "patches": 100.0}  # kind of origin -> pixels that began as real ones, percent


@dataclass(frozen=True)
class Config:
    """Settings of the measure.

    Attributes:
        per_class: Largest number of images of each class of the source, beside those that the set was made from.
        most: Largest number of members and of non-members.
        temperatures: Temperatures of the labels.
    """

    per_class: int = 500
    most: int = 2000
    temperatures: tuple[float, ...] = (1.0, 4.0, 20.0)


def measure(subject: MeasuredSet, context: Context) -> Iterator[Found]:
    """Yield distances to real images, the share of real pixels, and how well two attacks find the members.

    Members are the real images that the set was made from, where it records them (methods that begin with real images);
    else a sample of the source, which the teacher was trained on. Non-members are validation images of the same
    number, other ones are RMIA's population. The reference model is the teacher. It has seen the members, which makes
    the attack weaker than one with a reference model that has not: an area of 0.5 does not prove that nothing leaks.

    The attack by labels has the teacher and the labels of the set's whole images: it takes a candidate for a member if
    the teacher's probabilities of it, at a temperature, are close (KL divergence) to a label of its class.

    Args:
        subject: The set.
        context: With validation images, teacher and source.
    """
    config, manifest, source = context.config, subject.manifest, context.source()
    origins = subject.origins()
    shares = [KINDS[origin.kind] for _, origin in origins if origin.kind in KINDS]
    if len(shares) == len(origins):
        yield Row("real-pixels", sum(shares) / len(shares), n=len(shares))
    used = {int(row) for _, origin in origins if origin.kind != "import" for row in origin.rows}
    members = np.flatnonzero(np.isin(source.rows, sorted(used)))
    draw = context.rng("leakage")
    real, real_labels, indices = sampled_source(source, manifest.eval, config.per_class, draw, also=members)
    images, labels = subject.images()
    key = (  # students of other labels have the same images
        *(manifest.content, subject.ipc, fingerprint(to_plain(manifest.eval)), config, source.fingerprint),
        *(context.validation_key, context.teacher().spec.hash),
    )
    yield from context.cached(
        "distances", key, lambda: list(_distances(context, as_seen(images, manifest), real, indices, source))
    )
    chosen = np.flatnonzero(np.isin(indices, members)) if len(members) else np.arange(len(indices))
    chosen = np.sort(draw.permutation(chosen)[: config.most])
    candidates = _Candidates.of(context, real[chosen], real_labels[chosen])
    yield from _membership(context, subject.networks, candidates)
    seen = context.logits(context.teacher(), as_seen(images, manifest))
    yield from _label_attack(context, candidates, seen, labels, config.temperatures)


# ------------------------------------------------------------------ distances


def _distances(context: Context, seen: Tensor, real: Tensor, indices: np.ndarray, source: Source) -> Iterator[Found]:
    """Yield distances to the nearest real image, and the picture of the closest pairs."""
    unseen = context.validation()[0]
    by_pixels, partner = nearest(pixel_rows(seen), pixel_rows(real))
    limit = torch.quantile(nearest(pixel_rows(unseen), pixel_rows(real))[0], 0.01)
    yield Row("nearest-pixels", float(by_pixels.mean()), n=len(seen))
    yield Row("nearest-pixels-min", float(by_pixels.min()), n=len(seen))
    yield Row("copies-pixels", 100 * float((by_pixels < limit).float().mean()), n=len(seen))
    teacher = context.teacher()
    points = unit_rows(context.features(teacher, real))
    by_features, _ = nearest(unit_rows(context.features(teacher, seen)), points)
    limit = torch.quantile(nearest(unit_rows(context.teacher_features()), points)[0], 0.01)
    yield Row("nearest-features", float(by_features.square().mean() / 2), n=len(seen))
    yield Row("copies-features", 100 * float((by_features < limit).float().mean()), n=len(seen))
    closest = by_pixels.argsort(stable=True)[:PAIRS].tolist()
    rows = [torch.cat([_enlarged(seen[i]), _enlarged(real[int(partner[i])])], dim=1) for i in closest]
    far = float(by_pixels[closest[-1]])
    yield Figure(
        "nearest", f"The {len(closest)} images of the set (above) that are closest to a real image (below), by pixels, "
        f"from {float(by_pixels.min()):.1f} to {far:.1f} grey levels. Never published.",
        torch.cat(rows, dim=2).permute(1, 2, 0).contiguous().numpy(), private=True,
    )  # fmt: skip


def _enlarged(image: Tensor) -> Tensor:
    """Return an image, uint8 [3,S,S], with every pixel repeated so that its side is at least ENLARGED."""
    times = max(-(-ENLARGED // image.shape[-1]), 1)
    return image.repeat_interleave(times, 1).repeat_interleave(times, 2)


# ------------------------------------------------------------------ membership


@dataclass(frozen=True)
class _Candidates:
    """Members and others with their labels, and population points; images uint8 [n,3,S,S], labels int64 [n]."""

    members: tuple[Tensor, Tensor]
    others: tuple[Tensor, Tensor]
    population: tuple[Tensor, Tensor]

    @classmethod
    def of(cls, context: Context, images: Tensor, labels: Tensor) -> _Candidates:
        """Draw others and population from the validation images."""
        unseen, classes = context.validation()
        order = torch.from_numpy(context.rng("leakage", "others").permutation(len(unseen)))
        n = min(len(images), len(unseen) // 2)
        others, population = order[:n], order[n : n + max(n, context.config.most)]
        return cls((images, labels), (unseen[others], classes[others]), (unseen[population], classes[population]))

    def three(self) -> list[tuple[Tensor, Tensor]]:
        """Return members, others and population."""
        return [self.members, self.others, self.population]


def _membership(
    context: Context, networks: Sequence[MeasuredNetwork], candidates: _Candidates
) -> Iterator[Row]:  # fmt: skip
    """Yield the quality of RMIA on every student."""

    def of_class(network: MeasuredNetwork | Teacher) -> list[np.ndarray]:
        found = []
        for images, labels in candidates.three():
            p = context.logits(network, images).double().softmax(1)
            found.append(p[torch.arange(len(labels)), labels].numpy())
        return found

    reference = of_class(context.teacher())
    for network in networks:
        members, others, population = of_class(network)
        scores = [
            rmia(mine, theirs, population, reference[2])
            for mine, theirs in ((members, reference[0]), (others, reference[1]))
        ]
        found, n = attack_quality(*scores), len(members) + len(others)
        yield Row("rmia-auc", found.auc, n=n, seed=network.seed)
        yield Row("rmia-tpr-0.1", found.tpr_at_01, n=n, seed=network.seed)
        yield Row("rmia-tpr-1", found.tpr_at_1, n=n, seed=network.seed)


def _label_attack(
    context: Context, candidates: _Candidates, published: Tensor, classes: Tensor, temperatures: Sequence[float]
) -> Iterator[Row]:
    """Yield how well the closeness to a published label tells members, for every temperature and the highest.

    published: logits of the set's images [n,C]; classes: their labels.
    """
    teacher, areas = context.teacher(), []
    logits = [(context.logits(teacher, images), labels) for images, labels in candidates.three()[:2]]
    for temperature in temperatures:
        scores = []
        for mine, labels in logits:
            log_p = (mine.double() / temperature).log_softmax(1)
            log_q = (published.double() / temperature).log_softmax(1)
            divergence = (log_p.exp() * log_p).sum(1)[:, None] - log_p.exp() @ log_q.T  # KL(candidate, label)
            divergence[labels[:, None] != classes[None]] = torch.inf
            scores.append(-divergence.min(1).values.clamp(max=1e9).numpy())
        areas.append(attack_quality(*scores).auc)
        yield Row("label-auc", areas[-1], f"temperature {temperature:g}", n=sum(map(len, scores)))
    yield Row("label-auc", max(areas), n=sum(len(labels) for _, labels in logits))
