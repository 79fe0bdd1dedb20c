"""A plain PyTorch loop over a distilled set: python examples/plain_pytorch.py DIR [EPOCHS]"""
import sys

import timm
import torch

import ddkit

directory, epochs = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 300
loader = ddkit.ReplayLoader(directory, batch_size=32)
model = timm.create_model("resnet10t", num_classes=loader.num_classes)
optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)

for epoch in range(epochs):
    for images, teacher_logits, labels in loader:  # each pass replays the next stored view of every image
        loss = ddkit.soft_label_loss(model(images), teacher_logits, temperature=20)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    schedule.step()
    print(f"epoch {epoch + 1}: loss {loss.item():.4f}")
torch.save(model.state_dict(), "student.pt")
