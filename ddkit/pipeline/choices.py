"""The options of a run with defaults applied, before its source and teacher are checked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ddkit.distillers import make_config
from ddkit.format.codecs.interface import layout_bytes
from ddkit.format.label_info import Budget
from ddkit.format.row_format import views_layout
from ddkit.labelling.budget import BudgetGoal, check_reachable, is_reachable
from ddkit.pipeline.options import DistillOptions
from ddkit.pipeline.run import increment_plan
from ddkit.sources.images import Source
from ddkit.sources.outlines import Outline
from ddkit.specs import Protocol, ViewSpec
from ddkit.synthesis.interface import Distiller, Plan
from ddkit.teachers.teacher import Precision

BUDGET_ABOVE, DEFAULT_BUDGET = 100, "40x"  # classes above which labels get a budget, where a codec reaches it


@dataclass(frozen=True, kw_only=True)
class Choices:
    """The options of a run with defaults applied, from the command or from an earlier run's record.

    The fields are those of RunRecord, with `distiller` and the loaded `protocol`. None: not decided yet.
    """

    data: str
    method: str
    distiller: Distiller
    ipc: int
    prefixes: tuple[int, ...]
    seed: int
    recipe: str | None
    config: dict[str, Any]
    protocol: Protocol
    views: int | None
    size: int | None
    teacher: str
    codec: str
    image_format: str
    image_column: str | None
    label_column: str | None
    classes: str | None
    holdout: float | None
    skip_bad: bool
    dataset: str | None
    budget: str | None
    spent: Budget | None
    precision: Precision

    def plans(self, source: Source | Outline, size: int) -> list[Plan]:
        """Return the plans of all increments.

        Args:
            source: The source, or its outline.
            size: Side of the images, pixels.
        """
        stages = range(1, len(self.prefixes) + 1)
        return [
            increment_plan(self.distiller, self.config, source, self.prefixes[:stage], size, self.seed)
            for stage in stages
        ]

    @property
    def patches(self) -> int:
        """N of the patch grid that the images are stitched from; 1: none."""
        return self.distiller.patches(make_config(self.distiller, self.config))

    @property
    def policy(self) -> ViewSpec:
        """Augmentation policy of the views."""
        return self.protocol.view_spec(patches=self.patches, dataset=self.dataset, count=self.views)

    def check_budget(self, classes: int, size: int) -> None:
        """Check that a budget that is not spent yet can be kept.

        Args:
            classes: Number of classes.
            size: Side of the images, pixels.

        Raises:
            OptionError: The views alone exceed it.
        """
        if self.budget is not None and self.spent is None:
            goal, views = BudgetGoal.parse(self.budget), self.policy.count
            check_reachable(goal, views=views, view_layout=self._view_bytes(size), classes=classes)

    def with_default_budget(self, asked: DistillOptions, source: Source | Outline) -> Choices:
        """Return the choices with a budget, by default, where half-precision labels would outweigh all else.

        Args:
            asked: The given options.
            source: The source, or its outline.
        """
        classes = len(source.classes)
        if any((asked.budget, asked.codec, asked.image_format)) or classes <= BUDGET_ABOVE:
            return self
        reachable = is_reachable(
            BudgetGoal.parse(DEFAULT_BUDGET), rows=self.ipc * classes, views=self.policy.count,
            view_layout=self._view_bytes(self.size or source.default_size()), classes=classes,
        )  # fmt: skip
        return replace(self, budget=DEFAULT_BUDGET) if reachable else self

    def _view_bytes(self, size: int) -> int:
        """Bytes of the integers of a view."""
        return layout_bytes(views_layout(self.policy, size, self.patches)) // self.policy.count
