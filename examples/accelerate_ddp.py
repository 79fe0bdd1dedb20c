"""Train in several processes with Accelerate: ReplayLoader shards itself, so only model and optimiser are prepared.
Run: accelerate launch --num_processes 2 examples/accelerate_ddp.py SET [--epochs 300]    (or plain python)"""
# On CPUs: ACCELERATE_USE_CPU=true torchrun --nproc-per-node 2 …; `accelerate launch --cpu` starts only one process.
import argparse

import timm
import torch
from accelerate import Accelerator

import ddkit

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("set", help="a directory or a Hub id")
parser.add_argument("--epochs", type=int, default=300)
args = parser.parse_args()

accelerator = Accelerator()
loader = ddkit.ReplayLoader(  # batch_size counts all processes: each one gets its share of the same 32 rows
    args.set, batch_size=32, device=accelerator.device,
    rank=accelerator.process_index, world_size=accelerator.num_processes,
)
model = timm.create_model("resnet10t", num_classes=loader.num_classes)
optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
model, optimiser = accelerator.prepare(model, optimiser)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, args.epochs)

for epoch in range(args.epochs):
    for images, teacher_logits, labels in loader:
        loss = ddkit.soft_label_loss(model(images), teacher_logits, temperature=20)
        optimiser.zero_grad()
        accelerator.backward(loss)
        optimiser.step()
    schedule.step()
    accelerator.print(f"epoch {epoch + 1}: loss {accelerator.reduce(loss.detach(), 'mean').item():.4f}")
accelerator.save_model(model, "student")  # student/model.safetensors
accelerator.end_training()
