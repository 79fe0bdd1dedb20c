"""A batch of images is optimised in pixels against frozen networks, under a list of loss terms.

SRe2L, CDA and CUDD are settings of it. Each step: one crop, flip and roll for the whole batch (crops.py), the teacher
(and the last stage's student) forward, the terms of objectives.py, Adam on the pixels, clamp to what images can be.
Sources: SRe2L, arXiv 2306.13092; CDA, arXiv 2311.18838; CUDD, arXiv 2405.09150; docs/methods.md.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ddkit.core.device import has_bfloat16, threads
from ddkit.core.seeds import rng, torch_seed
from ddkit.engine.cuda_graphs import Captured, Compiled, recordable, set_learning_rate
from ddkit.engine.interleaving import Interleaved
from ddkit.errors import Diverged, OptionError
from ddkit.format.view_pixels import normalise
from ddkit.synthesis import objectives
from ddkit.synthesis.crops import Crops, augment
from ddkit.synthesis.moments import Measured
from ddkit.synthesis.objectives import Moments
from ddkit.synthesis.settings import Inversion
from ddkit.synthesis.unit_progress import UnitProgress
from ddkit.teachers.teacher import Teacher, penultimate

TERMS = ("ce", "bn", "reg", "adv")
CHECK = 20  # steps between looks at the losses: looking makes a GPU wait


@dataclass(frozen=True, kw_only=True)
class PixelBatch:
    """What is optimised together. labels: int64 [B], sorted, as many of each class; anchors: the real images, uint8
    [B,3,S,S] or None; moments: (class targets of each BatchNorm layer, [classes of the batch, C]) or None."""

    labels: Tensor
    anchors: Tensor | None
    size: int
    seed: int
    name: str
    moments: list[Moments] | None = None


class PixelOptimiser:
    """One batch under optimisation. `step()` does one step; `pixels()` is the result so far, uint8 [B,3,S,S]."""

    def __init__(
        self, batch: PixelBatch, settings: Inversion, teacher: Teacher, student: Teacher | None = None
    ) -> None:
        self.batch, self.settings, self.teacher = batch, settings, teacher
        self.device = teacher.device
        self.student = student if settings.adv.weight else None
        self.measured = Measured(teacher.network) if settings.bn.weight else None
        self.network = teacher.network if self.measured is None else self.measured.network
        callable_of = Compiled if settings.compile else lambda network: network
        self._forward: Callable[[Tensor], Tensor] = callable_of(self.network)
        self._against: Callable[[Tensor], Tensor] | None = callable_of(self.student.network) if self.student else None
        self.labels = batch.labels.to(self.device)
        self.groups = len(batch.labels.unique())
        shape = (1, 3, 1, 1)
        mean = torch.tensor(teacher.spec.mean, device=self.device).view(shape)
        std = torch.tensor(teacher.spec.std, device=self.device).view(shape)
        self.mean, self.std, self.low, self.high = mean, std, -mean / std, (1 - mean) / std
        self.anchors = self._anchors()

        self.crops = Crops.draw(settings.crop, settings.steps, batch.size, rng(batch.seed, "inversion", batch.name))
        self.x = self._start().requires_grad_()
        self.optimiser = recordable(
            torch.optim.Adam, [{"params": [self.x]}], self.device, lr=settings.lr, betas=(0.5, 0.9),
            weight_decay=settings.weight_decay,
        )  # fmt: skip
        self.done = 0
        self.losses = torch.zeros(settings.steps, len(TERMS), device=self.device)
        self._last = torch.zeros(len(TERMS), device=self.device)  # of the last step
        self._half = settings.precision == "bfloat16" and has_bfloat16(self.device)
        me = weakref.proxy(self)  # no cycle: what a GPU has recorded goes when the optimiser goes
        self.captured = Captured(lambda rows, columns: me._descend(rows, columns), self.device)
        self._ahead: dict[int, tuple[Tensor, Tensor]] = {}

    def _anchors(self) -> Tensor | None:
        if self.batch.anchors is None:
            if self.settings.needs_real:
                raise OptionError("init=real and reg.weight need real images; this method gives none")
            return None
        if self.settings.legacy_init_space:
            return self.batch.anchors.to(self.device).float() / 255
        return normalise(self.batch.anchors.to(self.device), self.teacher.spec.mean, self.teacher.spec.std)

    def _start(self) -> Tensor:
        if self.settings.init != "noise":
            assert self.anchors is not None
            return self.anchors.clone()
        generator = torch.Generator().manual_seed(torch_seed(self.batch.seed, "inversion-noise", self.batch.name))
        size = self.batch.size
        return torch.randn(len(self.batch.labels), 3, size, size, generator=generator).to(self.device)

    # -------------------------------------------------------------- one step

    def view(self, t: int) -> tuple[Tensor, Tensor]:
        """The augmentation of step t (Crops.matrices). Made for a few steps at once: on a GPU each copy waits."""
        if t not in self._ahead:
            steps = slice(t, t + CHECK)
            made = self.crops.matrices(steps, self.batch.size, self.settings.crop, self.device)
            self._ahead = dict(enumerate(zip(*made), t))
        return self._ahead[t]

    def terms(self, rows: Tensor, columns: Tensor) -> dict[str, Tensor]:
        """The weighted loss terms of the batch under one augmentation, scalars float32."""
        settings = self.settings
        seen: dict[int, Moments] = {}
        view = augment(self.x, rows, columns)
        inputs = view.contiguous(memory_format=torch.channels_last)
        by_class = settings.bn.targets != "global" and self.measured is not None
        anchor_view = None
        if settings.reg.weight:
            assert self.anchors is not None
            anchor_view = augment(self.anchors, rows, columns)
        by_feature = anchor_view is not None and settings.reg.space == "feature"
        reading: AbstractContextManager[list[Tensor]] = penultimate(self.network) if by_feature else nullcontext([])
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._half), reading as read:
            if self.measured is None:
                out = self._forward(inputs)
            else:
                with self.measured.watch(self.groups if by_class else 1) as seen:
                    out = self._forward(inputs)
            against = self._against(inputs) if self._against else None
            wanted = None
            if by_feature and anchor_view is not None:
                with torch.no_grad(), penultimate(self.teacher.network) as theirs:
                    self.teacher.network(anchor_view.contiguous(memory_format=torch.channels_last))
                wanted = theirs[-1]
        logits = self.teacher.in_order(out.float())
        terms = {"ce": objectives.classification(logits, self.labels)}
        if self.measured is not None:
            terms["bn"] = settings.bn.weight * self._batch_norm(seen, self.measured)
        if anchor_view is not None:
            pair = (view, anchor_view) if wanted is None else (read[-1], wanted)
            terms["reg"] = settings.reg.weight * objectives.regulariser(*pair)
        if against is not None:
            adv = settings.adv
            term = objectives.adversarial(against, logits.detach(), self.labels, mask=adv.mask, form=adv.form)
            terms["adv"] = adv.weight * term
        return terms

    def _batch_norm(self, seen: dict[int, Moments], measured: Measured) -> Tensor:
        bn, layers = self.settings.bn, sorted(seen)
        found, trained = [seen[i] for i in layers], [measured.trained[i] for i in layers]

        def distance(found: Sequence[Moments], targets: Sequence[Moments]) -> Tensor:
            return objectives.batch_norm(found, targets, first=bn.first, norm=bn.norm, moment=bn.moment)

        if bn.targets == "global":
            return distance(found, trained)
        assert self.batch.moments is not None
        of_class = distance(found, [self.batch.moments[i] for i in layers])
        if bn.targets == "class":
            return of_class
        pooled = []
        for mean, var in found:  # of the whole batch, from those of its equal parts
            whole = mean.mean(0, keepdim=True)
            pooled.append((whole, (var + mean**2).mean(0, keepdim=True) - whole**2))
        return (of_class + distance(pooled, trained)) / 2

    def step(self) -> None:
        """One step. The learning rate falls along a cosine to 0."""
        settings, t = self.settings, self.done
        for group in self.optimiser.param_groups:
            set_learning_rate(group, settings.lr * (1 + math.cos(math.pi * t / settings.steps)) / 2)
        self.captured(*self.view(t))
        self.losses[t] = self._last
        self.done += 1

    def _descend(self, rows: Tensor, columns: Tensor) -> None:
        terms = self.terms(rows, columns)
        self.optimiser.zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward()
        self.optimiser.step()
        with torch.no_grad():
            self.x.clamp_(self.low, self.high)
            for name, value in terms.items():
                self._last[TERMS.index(name)] = value.detach()

    # -------------------------------------------------------------- the whole

    def run(self, progress: UnitProgress) -> Interleaved[None]:
        """All steps that are left, a turn after every few. Raises Diverged naming the step, the term and its value."""
        self.restore(progress.load())
        while self.done < self.settings.steps:
            with threads(self.settings.threads):
                for _ in range(min(CHECK, self.settings.steps - self.done)):
                    self.step()
                    progress.report(self.done)
            yield
            self.check()
            progress.save(self.state)
        used = {name: i for i, name in enumerate(TERMS) if bool(self.losses[:, i].any())}
        progress.losses.update({name: self.losses[:, i].cpu().numpy() for name, i in used.items()})

    def check(self) -> None:
        """Raises Diverged where a term is not finite, or the sum of the last steps is ten times the first's."""
        found = self.losses[: self.done].cpu()
        advice = f"lower lr (now {self.settings.lr:g}) or the term's weight, and run the same command again"
        if (bad := ~found.isfinite()).any():
            step, term = (int(v) for v in bad.nonzero()[0])
            raise Diverged(
                f"{self.batch.name}: {TERMS[term]} became {float(found[step, term])} at step {step + 1}; {advice}"
            )
        total = found.sum(1)
        if float(total[-CHECK:].mean()) > 10 * float(total[:CHECK].mean()) + 10:
            term = int(found[-CHECK:].mean(0).argmax())
            raise Diverged(
                f"{self.batch.name}: the loss grew tenfold, {TERMS[term]} is {float(found[-1, term]):.4g} at step "
                f"{self.done}; {advice}"
            )

    def state(self) -> dict[str, Tensor]:
        """What `restore` needs."""
        adam = self.optimiser.state[self.x]
        moments = {f"adam.{name}": value for name, value in adam.items()}
        return {"x": self.x, "losses": self.losses, "done": torch.tensor(self.done), **moments}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from `state()`; nothing where it is empty."""
        if not state:
            return
        with torch.no_grad():
            self.x.copy_(state["x"])
        self.losses.copy_(state["losses"])
        self.done = int(state["done"])
        adam = {name.removeprefix("adam."): value for name, value in state.items() if name.startswith("adam.")}
        self.optimiser.load_state_dict(self.optimiser.state_dict() | {"state": {0: adam}})

    def pixels(self) -> np.ndarray:
        """uint8 [B,3,S,S], rounded."""
        return ((self.x.detach() * self.std + self.mean) * 255).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
