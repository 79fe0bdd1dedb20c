"""A short loop with a timm model and timm's optimiser and scheduler factories; saves safetensors.
Run: python examples/timm_short_loop.py SET [--epochs 300]    (a directory or a Hub id)"""
import argparse

import timm
import torch
from safetensors.torch import save_file
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2

import ddkit

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("set", help="a directory or a Hub id")
parser.add_argument("--epochs", type=int, default=300)
parser.add_argument("--model", default="resnet10t")
args = parser.parse_args()

device = "cuda" if torch.cuda.is_available() else "cpu"
loader = ddkit.ReplayLoader(args.set, batch_size=32, device=device)
model = timm.create_model(args.model, num_classes=loader.num_classes).to(device)
optimiser = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.01)
schedule, epochs = create_scheduler_v2(optimiser, sched="cosine", num_epochs=args.epochs)

for epoch in range(epochs):
    for images, teacher_logits, labels in loader:
        loss = ddkit.soft_label_loss(model(images), teacher_logits, temperature=20)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    schedule.step(epoch + 1)
    print(f"epoch {epoch + 1}: loss {loss.item():.4f}")
save_file(model.state_dict(), "student.safetensors")
print(f'timm.create_model("{args.model}", num_classes={loader.num_classes}, checkpoint_path="student.safetensors")')
