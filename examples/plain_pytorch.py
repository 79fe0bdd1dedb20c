"""A plain PyTorch loop over a distilled set: its stored views and soft labels, nothing else.
Run: python examples/plain_pytorch.py SET [--epochs 300]    (a directory or a Hub id)"""
import argparse

import timm
import torch

import ddkit

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("set", help="a directory or a Hub id")
parser.add_argument("--epochs", type=int, default=300)
args = parser.parse_args()

loader = ddkit.ReplayLoader(args.set, batch_size=32)
model = timm.create_model("resnet10t", num_classes=loader.num_classes).to(loader.device)
optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, args.epochs)

for epoch in range(args.epochs):
    for images, teacher_logits, labels in loader:  # each pass replays the next stored view of every image
        loss = ddkit.soft_label_loss(model(images), teacher_logits, temperature=20)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    schedule.step()
    print(f"epoch {epoch + 1}: loss {loss.item():.4f}")
torch.save(model.state_dict(), "student.pt")
