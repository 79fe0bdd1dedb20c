"""Optimises the pixels of a batch of images against frozen networks, under a sum of loss terms.

SRe2L, CDA and CUDD are settings of it. Each step: one crop, flip and roll for the batch (crops.py), a forward pass
of the teacher (and of the stage's student), the terms of objectives.py, a step of Adam on the pixels, and clamping to
the range of valid pixels.
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
CHECK = 20  # steps between checks of the losses; reading them synchronises with the GPU


@dataclass(frozen=True, kw_only=True)
class PixelBatch:
    """Images that are optimised together.

    Attributes:
        labels: Classes, int64 [B], sorted, the same number of each.
        anchors: Real images for initialisation and regulariser, uint8 [B,3,S,S]; None if there are none.
        size: Side of the images S, pixels.
        seed: Seed of the run.
        name: Name of the batch: part of the seed, and used in messages.
        moments: Mean and variance of each class for each BatchNorm layer, [classes of the batch, C] each; None if only
            the running statistics are matched.
    """

    labels: Tensor
    anchors: Tensor | None
    size: int
    seed: int
    name: str
    moments: list[Moments] | None = None


class PixelOptimiser:
    """Optimisation of one batch.

    Args:
        batch: The images.
        settings: Settings of the inversion.
        teacher: The teacher.
        student: The stage's student; used if the adversarial term has a weight.
    """

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
        self._last = torch.zeros(len(TERMS), device=self.device)  # terms of the last step
        self._half = settings.precision == "bfloat16" and has_bfloat16(self.device)
        me = weakref.proxy(self)  # no reference cycle: CUDA graphs are freed with the optimiser
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
        """Return the augmentation matrices of step `t` (`Crops.matrices`).

        They are computed for several steps at once, since each copy to a GPU waits.
        """
        if t not in self._ahead:
            steps = slice(t, t + CHECK)
            made = self.crops.matrices(steps, self.batch.size, self.settings.crop, self.device)
            self._ahead = dict(enumerate(zip(*made), t))
        return self._ahead[t]

    def terms(self, rows: Tensor, columns: Tensor) -> dict[str, Tensor]:
        """Return the weighted loss terms of the batch under one augmentation, by name, float32 scalars.

        Args:
            rows: The matrix R of the step, [S,S].
            columns: The matrix C of the step, [S,S].
        """
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
        for mean, var in found:  # statistics of the whole batch, from those of its equal parts
            whole = mean.mean(0, keepdim=True)
            pooled.append((whole, (var + mean**2).mean(0, keepdim=True) - whole**2))
        return (of_class + distance(pooled, trained)) / 2

    def step(self) -> None:
        """Run one step. The learning rate follows a cosine to 0."""
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

    # -------------------------------------------------------------- all steps

    def run(self, progress: UnitProgress) -> Interleaved[None]:
        """Run all remaining steps, yielding after every 20.

        Args:
            progress: Progress of the unit; the optimisation resumes from its checkpoint.

        Raises:
            Diverged: Names the step, the term and its value.
        """
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
        """Raise Diverged if a term is not finite or the loss grew tenfold.

        The loss grew tenfold if its mean over the last 20 steps is above 10 times its mean over the first 20, plus 10.
        """
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
        """Return the tensors that `restore` takes."""
        adam = self.optimiser.state[self.x]
        moments = {f"adam.{name}": value for name, value in adam.items()}
        return {"x": self.x, "losses": self.losses, "done": torch.tensor(self.done), **moments}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Resume from the tensors of `state`; does nothing if there are none."""
        if not state:
            return
        with torch.no_grad():
            self.x.copy_(state["x"])
        self.losses.copy_(state["losses"])
        self.done = int(state["done"])
        adam = {name.removeprefix("adam."): value for name, value in state.items() if name.startswith("adam.")}
        self.optimiser.load_state_dict(self.optimiser.state_dict() | {"state": {0: adam}})

    def pixels(self) -> np.ndarray:
        """Return the present images, rounded, uint8 [B,3,S,S]."""
        return ((self.x.detach() * self.std + self.mean) * 255).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
