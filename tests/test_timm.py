"""timm's distillation task with stored logits instead of a teacher."""

import pytest
import torch

import ddkit
from ddkit.errors import OptionError
from ddkit.timm import StoredLogits


def test_timms_task_learns_from_stored_logits(random_set):
    import timm
    from timm.task import LogitDistillationTask

    stored = StoredLogits(ddkit.ReplayLoader(random_set.root, batch_size=8, device="cpu"))
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=10)
    task = LogitDistillationTask(
        model, stored, temperature=2.0, distill_loss_weight=1.0, task_loss_weight=0.0, verbose=False
    )
    assert len(stored) == 3 and not list(stored.parameters())
    batches = iter(ddkit.ReplayLoader(random_set.root, batch_size=8, device="cpu"))
    for images, labels in stored:
        expected_images, logits, expected_labels = next(batches)
        assert torch.equal(images, expected_images) and torch.equal(labels, expected_labels)
        assert torch.equal(stored(images), logits)
        found = task(images, labels)
        student = found["output"]
        kl = 4 * ddkit.soft_label_loss(student, logits, temperature=2.0)  # timm multiplies by the squared temperature
        assert found["kd_loss"].item() == pytest.approx(kl.item(), rel=1e-4)
        found["loss"].backward()
    with pytest.raises(OptionError, match="called with 3 images"):
        stored(torch.zeros(3, 3, 32, 32))
    with pytest.raises(OptionError, match="batch tuple|batch=.tuple"):
        StoredLogits(ddkit.ReplayLoader(random_set.root, batch_size=8, device="cpu", batch="dict"))
