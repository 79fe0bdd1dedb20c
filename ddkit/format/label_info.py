"""The manifest's `labels`: codec, shared file, measured fidelity and how the codec was chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from ddkit.core.serialization import Extensible, later
from ddkit.format.entries import LabelFile
from ddkit.format.fields import NOT_EMPTY, CodecName, Count, ImageCodec, Line, Number, Share, ViewCount


@dataclass(frozen=True, kw_only=True)
class Fidelity(Extensible):
    """Decoded labels against the teacher's logits, over all views (codec `teacher`: over the first views of each row).

    Attributes:
        kl_t1, kl_t4, kl_t20: Mean KL divergence in nats at temperature 1, 4, 20; None: no labels for that temperature.
        top1_agreement: Share of views with equal top-1.
    """

    kl_t1: Number
    kl_t4: Number | None
    kl_t20: Number | None
    top1_agreement: Share

    def sums(self, views: int) -> tuple[float | None, float | None, float | None, float, float]:
        """Return what these are the means of: the sums that `codecs.fidelity` computes, and the number of views.

        Args:
            views: Number of views.
        """
        at_1, at_4, at_20 = (None if kl is None else kl * views for kl in (self.kl_t1, self.kl_t4, self.kl_t20))
        return at_1, at_4, at_20, self.top1_agreement * views, float(views)


@dataclass(frozen=True, kw_only=True)
class BudgetRow(Extensible):
    """One way to spend a budget, as estimated from a sample of the set's own views.

    Attributes:
        image: Image format.
        views: Views per image.
        codec: Codec of the labels.
        bytes: Estimated bytes of the set.
        label_bytes: Bytes of views and labels among them.
        error: Mean relative error of the decoded labels' pull on a student, at the protocol's temperature.
        loss: Expected loss of accuracy in points, by the rule of docs/labels.md.
    """

    image: ImageCodec
    views: ViewCount
    codec: CodecName
    bytes: Number
    label_bytes: Number
    error: Number
    loss: Number


@dataclass(frozen=True, kw_only=True)
class Budget(Extensible):
    """How image format, view count and codec were chosen.

    Attributes:
        asked: The budget as given: "40x" or "300MB".
        views: View count that the budget starts from: the protocol's.
        table: The considered ways, the chosen one first.
    """

    asked: Line
    views: ViewCount
    table: Annotated[tuple[BudgetRow, ...], NOT_EMPTY]


@dataclass(frozen=True, kw_only=True)
class LabelInfo(Extensible):
    """The soft labels.

    Attributes:
        codec: Name of the codec.
        fidelity: Error of the codec.
        temperature: Temperature at which the recommended protocol trains students.
        group: Rows that one forward pass of the teacher saw together in batch mode; always 1.
        file: The file that all rows share; None: the codec has none.
        precision: Arithmetic of the teacher.
        precision_fidelity: Labels in this precision against float32, over the first views of each row; None: float32.
        budget: How the codec was chosen; None: it was given.
    """

    codec: CodecName
    fidelity: Fidelity
    temperature: Number
    group: Count = 1
    file: LabelFile | None = later(None)
    precision: Literal["float32", "bfloat16"] = later("float32")
    precision_fidelity: Fidelity | None = later(None)
    budget: Budget | None = later(None)
