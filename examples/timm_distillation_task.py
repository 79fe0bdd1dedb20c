"""timm's own distillation task and training parts; stored logits take the place of a teacher network.
Run: python examples/timm_distillation_task.py SET [--epochs 300]    (a directory or a Hub id)"""
import argparse

import timm
import torch
from safetensors.torch import save_file
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.task import LogitDistillationTask
from timm.utils import AverageMeter, accuracy

import ddkit
from ddkit.timm import StoredLogits

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("set", help="a directory or a Hub id")
parser.add_argument("--epochs", type=int, default=300), parser.add_argument("--model", default="resnet10t")
args = parser.parse_args()

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
stored = StoredLogits(ddkit.ReplayLoader(args.set, batch_size=32, device=device))
model = timm.create_model(args.model, num_classes=stored.loader.num_classes).to(device)
task = LogitDistillationTask(model, stored, temperature=20, distill_loss_weight=1.0, task_loss_weight=0.0, device=device)
optimiser = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.01)
schedule, epochs = create_scheduler_v2(optimiser, sched="cosine", num_epochs=args.epochs)

for epoch in range(epochs):
    task.train()
    losses, top1 = AverageMeter(), AverageMeter()
    for images, labels in stored:
        found = task(images, labels)
        optimiser.zero_grad()
        found["loss"].backward()
        optimiser.step()
        losses.update(found["loss"].item(), len(images))
        top1.update(accuracy(found["output"], labels)[0].item(), len(images))
    schedule.step(epoch + 1)
    print(f"epoch {epoch + 1}: loss {losses.avg:.4f}, {top1.avg:.1f} % of the labels")
save_file(model.state_dict(), "student.safetensors")
