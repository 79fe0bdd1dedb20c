"""Train a student with Lightning's Trainer: ReplayLoader shards itself, so no sampler is wrapped around it.
Run: python examples/lightning_student.py SET [--epochs 300]    (a directory or a Hub id)"""
import argparse

import lightning
import timm
import torch

import ddkit

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("set", help="a directory or a Hub id")
parser.add_argument("--epochs", type=int, default=300)
args = parser.parse_args()


class Student(lightning.LightningModule):
    def __init__(self, num_classes):
        super().__init__()
        self.save_hyperparameters()
        self.network = timm.create_model("resnet10t", num_classes=num_classes)

    def training_step(self, batch, index):
        images, teacher_logits, labels = batch
        loss = ddkit.soft_label_loss(self.network(images), teacher_logits, temperature=20)
        self.log("loss", loss, prog_bar=True, batch_size=len(images))
        return loss

    def configure_optimizers(self):
        optimiser = torch.optim.AdamW(self.parameters(), lr=1e-3, weight_decay=0.01)
        return [optimiser], [torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self.trainer.max_epochs)]


trainer = lightning.Trainer(max_epochs=args.epochs, logger=False, enable_checkpointing=False)
# Lightning does not set RANK for its processes, so rank and world_size are passed. batch_size is over all processes.
loader = ddkit.ReplayLoader(args.set, batch_size=32, rank=trainer.global_rank, world_size=trainer.world_size)
trainer.fit(Student(loader.num_classes), loader)
trainer.save_checkpoint("student.ckpt")  # Student.load_from_checkpoint("student.ckpt")
