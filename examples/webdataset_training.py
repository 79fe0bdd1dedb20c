"""Train from a distilled set in a pipeline of webdataset, with its own shuffling, batching and worker processes.
Run: python examples/webdataset_training.py SET [--epochs 300]    (a directory or a Hub id)"""
import argparse

import timm
import torch
import webdataset

import ddkit

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("set", help="a directory or a Hub id")
parser.add_argument("--epochs", type=int, default=300)
args = parser.parse_args()

_, logits, _ = next(iter(ddkit.as_webdataset(args.set)))
model = timm.create_model("resnet10t", num_classes=len(logits))
optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)

for epoch in range(args.epochs):
    rows = ddkit.as_webdataset(args.set, epoch)  # (image, teacher's logits, label) of the next stored view of every row
    loader = webdataset.WebLoader(rows.shuffle(1000).batched(32), batch_size=None, num_workers=2)
    for images, teacher_logits, labels in loader:
        loss = ddkit.soft_label_loss(model(images), teacher_logits, temperature=20)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    print(f"epoch {epoch + 1}: loss {loss.item():.4f}")
torch.save(model.state_dict(), "student.pt")
