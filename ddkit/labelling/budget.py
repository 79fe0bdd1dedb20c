"""Chooses image format, view count and label codec for a budget of bytes, from the labels of a sample of views."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ddkit.errors import OptionError
from ddkit.format.codecs.fidelity import relative_error
from ddkit.format.codecs.interface import Codec, Tensors, layout_bytes
from ddkit.format.codecs.registry import find_codec
from ddkit.format.label_info import BudgetRow
from ddkit.format.shards import labels_outweigh
from ddkit.format.tars import BLOCK

UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9}
HEADER = 700  # bytes of the header and the metadata of a views member
LARGEST_TABLE = 12  # considered ways that are shown and recorded

# Expected loss in points: what students lose to the error of labels, and to seeing a view again. A rough fit to a few
# measurements; docs/labels.md names them.
ERROR_POINTS = 80.0  # points at a relative error of 1 and FEW_CLASSES classes, growing with the error's square
FEW_CLASSES = 100  # with more, an error costs less in proportion: most classes are far from a view's own
REUSE_POINTS = 0.13  # each further time that a view is seen
LOSSY_IMAGE_POINTS = 0.5  # JPEG instead of a lossless format
CLEARLY_LESS = 1.0  # points


@dataclass(frozen=True)
class BudgetGoal:
    """A budget as the user gave it.

    Attributes:
        text: As given, in canonical spelling.
        factor: Labels and views have to be this many times smaller than half-precision labels of all views; None: a
            size is given.
        bytes: Largest size of the whole set in bytes; None: a factor is given.
    """

    text: str
    factor: float | None = None
    bytes: float | None = None

    @classmethod
    def parse(cls, text: str) -> BudgetGoal:
        """Parse a budget.

        Args:
            text: A factor for the labels, as in "40x", or a size of the set, as in "300MB".

        Raises:
            OptionError: It is neither.
        """
        if (found := re.fullmatch(r"(\d{1,4}(?:\.\d+)?)x", text)) and float(found[1]) >= 1:
            return cls(f"{_plain(found[1])}x", factor=float(found[1]))
        if (found := re.fullmatch(r"(\d{1,6}(?:\.\d+)?) ?([kMG]?B)", text)) and float(found[1]) > 0:
            return cls(f"{_plain(found[1])}{found[2]}", bytes=float(found[1]) * UNITS[found[2]])
        raise OptionError(f"--budget is {text[:30]!r}; give a factor, as in 40x, or a size, as in 300MB")

    def label_bytes(self, full_bytes: float) -> float:
        """Return an upper bound for the bytes of views and labels.

        Args:
            full_bytes: Bytes with half-precision labels of all views.
        """
        return full_bytes / self.factor if self.factor else min(full_bytes, self.bytes or 0.0)

    def allows(self, total: float, label_bytes: float, full_bytes: float) -> bool:
        """Return whether a set fits.

        Args:
            total: Bytes of the set.
            label_bytes: Bytes of its views and labels among them.
            full_bytes: Bytes of all views with half-precision labels.
        """
        if self.factor is not None:
            return label_bytes * self.factor <= full_bytes
        return total <= (self.bytes or 0.0)


def _plain(number: str) -> str:
    """A decimal number without superfluous zeros."""
    whole, point, rest = number.partition(".")
    return (whole.lstrip("0") or "0") + (point + rest).rstrip("0").rstrip(".")


@dataclass(frozen=True, kw_only=True)
class BudgetSample:
    """What a choice is based on.

    Attributes:
        rows: Rows of the set.
        views: View count to start from: the protocol's.
        epochs: Epochs of the protocol for a set of this size.
        logits: Centred logits of a sample of views, float32 [N,C].
        view_layout: Bytes of one view's integers.
        image_bytes: Mean bytes of an image by image format.
        temperature: Temperature at which the protocol trains students.
        teacher_bytes: Bytes of the teacher in half precision.
    """

    rows: int
    views: int
    epochs: int
    logits: np.ndarray
    view_layout: int
    image_bytes: Mapping[str, float]
    temperature: float
    teacher_bytes: int

    def reuse(self, views: int) -> float:
        """Return how often a student sees each view, at least 1.

        Args:
            views: Number of views.
        """
        return max(self.epochs / views, 1.0)


def candidates(classes: int, temperature: float) -> Iterator[str]:
    """Yield the names of the codecs to consider.

    Args:
        classes: C, the number of classes.
        temperature: Temperature at which students learn.
    """
    yield from ("fp16", "int8", "teacher")
    for k in (5, 10, 20, 50, 100):
        if 4 * k + 4 < classes:
            yield f"topk:{k}"
    for rank in (256, 128, 96, 64, 48, 32, 24, 16, 12, 8, 4, 2):  # the largest first: the others reuse its basis
        for code, kept in ((code, kept) for code in (":i4", "") for kept in (0, 1, 2, 3, 5, 10)):
            if rank <= classes and kept < rank:
                yield f"lowrank:{rank}{code}" + (f"+top{kept}" if kept else "")
    if temperature == 1:
        yield from (f"sampled:{k}" for k in (12, 25, 50))


def choose(goal: BudgetGoal, sample: BudgetSample) -> list[BudgetRow]:
    """Return the considered ways to spend the budget, the chosen one first, then others by expected loss.

    A codec is fitted on half of the sample and its error measured on the other half.

    Args:
        goal: The budget.
        sample: What the choice is based on.

    Raises:
        OptionError: Nothing fits; the message names the smallest possible set.
    """
    classes, known, ways = sample.logits.shape[-1], dict[str, Tensors](), []
    for codec in map(find_codec, candidates(classes, sample.temperature)):
        error = label_error(codec, sample.logits, sample.temperature, known)
        ways += [_way(sample, image, views, codec, error) for views in _view_counts(sample.views)
                 for image in (["png"] if goal.factor else sample.image_bytes)]  # fmt: skip
    full = sample.rows * sample.views * (sample.view_layout + 2 * classes)
    fitting = [way for way in ways if goal.allows(way.bytes, way.label_bytes, full)]
    if not fitting:
        least = min(ways, key=lambda way: (way.label_bytes if goal.factor else way.bytes, way.label_bytes))
        raise OptionError(
            f"--budget {goal.text}: nothing fits; the smallest is {least.codec} with {least.views} views and "
            f"{least.image} images, {least.bytes / 1e6:.3g} MB, {full / least.label_bytes:.3g}x; give a larger budget"
        )
    chosen, *rest = sorted(fitting, key=_by_loss)
    kinds = {find_codec(way.codec).FAMILY: way for way in reversed(rest)}  # the best of each kind is shown
    kinds.pop(find_codec(chosen.codec).FAMILY, None)
    shown = [*kinds.values(), *(way for way in rest if way not in kinds.values())][: LARGEST_TABLE - 1]
    return [chosen, *sorted(shown, key=_by_loss)]


def carried_instead(table: Sequence[BudgetRow]) -> BudgetRow | None:
    """Return the way that carries the teacher, where it is expected to lose clearly less than the chosen one.

    Args:
        table: What `choose` returned.
    """
    carried = next((way for way in table if find_codec(way.codec).FROM_PIXELS), None)
    return carried if carried is not None and table[0].loss - carried.loss >= CLEARLY_LESS else None


def check_reachable(goal: BudgetGoal, *, views: int, view_layout: int, classes: int) -> None:
    """Check before a set is made that its views alone do not exceed a budget.

    Args:
        goal: The budget.
        views: View count to start from.
        view_layout: Bytes of one view's integers.
        classes: C, the number of classes.

    Raises:
        OptionError: No codec and view count can reach the factor.
    """
    most = views * (view_layout + 2 * classes) / (min(_view_counts(views)) * view_layout)
    if goal.factor is not None and goal.factor > most:
        raise OptionError(
            f"--budget {goal.text}: with {views} views and {classes} classes the views without labels are {most:.3g}x "
            "smaller; give a smaller factor, more --views, or a --codec instead"
        )


def is_reachable(goal: BudgetGoal, *, rows: int, views: int, view_layout: int, classes: int) -> bool:
    """Return whether some codec reaches a factor, whatever the teacher and the images.

    Args:
        goal: The budget, a factor.
        rows: Rows of the set.
        views: View count to start from.
        view_layout: Bytes of one view's integers.
        classes: C, the number of classes.
    """
    full, least = rows * views * (view_layout + 2 * classes), min(_view_counts(views))
    codecs = [codec for codec in map(find_codec, candidates(classes, 0.0)) if not codec.FROM_PIXELS]
    sizes = (
        _label_bytes(codec, rows, least, view_layout, classes, layout_bytes(codec.shared_layout(classes)))
        for codec in codecs
    )
    return any(goal.allows(0, size, full) for size in sizes)


def _label_bytes(codec: Codec, rows: int, views: int, view_layout: int, classes: int, shared: float) -> float:
    return rows * views * (view_layout + codec.bytes_per_view(classes)) + shared


def _by_loss(way: BudgetRow) -> tuple[bool, float, float, str]:
    """Key of the order of ways. A carried teacher comes last: its labels are exact, but every training step runs it."""
    return find_codec(way.codec).FROM_PIXELS, way.loss, way.bytes, way.codec


def label_error(codec: Codec, logits: np.ndarray, temperature: float, known: dict[str, Tensors]) -> float:
    """Return the relative error of a codec's labels on views that it was not fitted on.

    Args:
        codec: The codec.
        logits: Centred logits of a sample of views, float32 [N,C].
        temperature: Temperature at which students learn.
        known: What the first codec of each family was fitted to on these logits; completed here.
    """
    if codec.FROM_PIXELS:
        return 0.0
    shared = codec.fit(logits[::2], known.get(codec.FAMILY))
    known.setdefault(codec.FAMILY, shared)
    others = logits[1::2] if len(logits) > 1 else logits
    tensors = codec.encode(others, shared, np.random.default_rng(0))
    return relative_error(others, codec.decode(tensors, logits.shape[-1], temperature, shared), temperature)


def expected_loss(error: float, classes: int, reuse: float, image: str) -> float:
    """Return the points of accuracy that a student is expected to lose.

    Args:
        error: Relative error of the labels.
        classes: C, the number of classes.
        reuse: How many more times a student sees each view than with all views of the protocol.
        image: Image format.
    """
    lossy = LOSSY_IMAGE_POINTS if image == "jpg" else 0.0
    return ERROR_POINTS * FEW_CLASSES / max(classes, FEW_CLASSES) * error**2 + REUSE_POINTS * reuse + lossy


def _way(sample: BudgetSample, image: str, views: int, codec: Codec, error: float) -> BudgetRow:
    classes = sample.logits.shape[-1]
    shared = sample.teacher_bytes if codec.FROM_PIXELS else layout_bytes(codec.shared_layout(classes))
    label_bytes = _label_bytes(codec, sample.rows, views, sample.view_layout, classes, shared)
    stored = TarBytes.of(
        sample.rows, sample.image_bytes[image], views * (sample.view_layout + codec.bytes_per_view(classes))
    )
    return BudgetRow(
        image=image, views=views, codec=codec.name, bytes=float(round(shared + stored.shards + stored.image_tars)),
        label_bytes=float(label_bytes), error=round(error, 4),
        loss=round(expected_loss(error, classes, sample.reuse(views) - sample.reuse(sample.views), image), 3),
    )  # fmt: skip


@dataclass(frozen=True)
class TarBytes:
    """The estimated bytes of the tars of a set.

    Attributes:
        shards: Bytes of the shards.
        image_tars: Bytes of the `images/` tars; 0: the set has none.
    """

    shards: float
    image_tars: float

    @classmethod
    def of(cls, rows: int, image: float, tensors: float) -> TarBytes:
        """Return the bytes of the tars of a set.

        Args:
            rows: Rows of the set.
            image: Mean bytes of an encoded image.
            tensors: Bytes of the views and labels of a row.
        """
        alone = rows * (2 * BLOCK + _padded(image))
        beside = labels_outweigh(tensors, image)
        return cls(shards=alone + rows * _padded(tensors + HEADER), image_tars=alone if beside else 0.0)


def _padded(size: float) -> float:
    """The bytes that a member of this size takes in a tar."""
    return BLOCK + -(-size // BLOCK) * BLOCK


def _view_counts(views: int) -> Sequence[int]:
    """The view counts to consider: all, and parts of them down to 5."""
    return sorted({max(round(views / part), min(views, 5)) for part in (1, 1.5, 2, 3, 4, 6, 10, 15, 30)}, reverse=True)
