"""Stored soft labels as the teacher of timm's distillation tasks."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from ddkit.errors import OptionError
from ddkit.replay.loader import ReplayLoader


class StoredLogits(nn.Module):
    """A replay loader that is also the teacher of timm's `LogitDistillationTask`.

    Iterating it yields (images, labels), as timm's training loop expects. Called with the images of the batch that it
    yielded last, it returns the teacher's stored logits for them, so no teacher runs during the training.

        stored = StoredLogits(ddkit.ReplayLoader("org/name", batch_size=64))
        task = timm.task.LogitDistillationTask(model, stored, temperature=20, distill_loss_weight=1, task_loss_weight=0)
        for images, labels in stored:
            task(images, labels)["loss"].backward()

    Args:
        loader: Yields batches as tuples.

    Raises:
        OptionError: The loader yields dicts.
    """

    def __init__(self, loader: ReplayLoader) -> None:
        super().__init__()
        if loader._as_dict:
            raise OptionError('StoredLogits needs a ReplayLoader with batch="tuple"')
        self.loader = loader
        self._logits: Tensor | None = None

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for images, logits, labels in self.loader:
            self._logits = logits
            yield images, labels

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of the batch that was yielded last, float32 [B,C].

        Args:
            images: The images of that batch, [B,3,S,S]; timm may have normalised them again.

        Raises:
            OptionError: They are not as many as in that batch.
        """
        if self._logits is None or len(self._logits) != len(images):
            raise OptionError(
                f"StoredLogits was called with {len(images)} images, not with those of the batch it yielded last; "
                "pass every batch to the task before the next one is taken"
            )
        return self._logits
