"""Train a small ViT with transformers' Trainer on dict batches: pixel_values, teacher_logits, labels, rows.
Run: python examples/transformers_vit.py SET [--epochs 300]    (a directory or a Hub id)"""
import argparse

from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification

import ddkit

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("set", help="a directory or a Hub id")
parser.add_argument("--epochs", type=int, default=300)
args = parser.parse_args()


class ReplayTrainer(Trainer):
    def get_train_dataloader(self):
        return loader  # shards itself by torchrun's rank, so it is not prepared

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outputs = model(pixel_values=inputs["pixel_values"])
        loss = ddkit.soft_label_loss(outputs.logits, inputs["teacher_logits"], temperature=20)
        return (loss, outputs) if return_outputs else loss


loader = ddkit.ReplayLoader(args.set, batch_size=32, batch="dict")
config = ViTConfig(
    image_size=loader.image_size, patch_size=loader.image_size // 8, num_labels=loader.num_classes,
    hidden_size=96, intermediate_size=192, num_hidden_layers=2, num_attention_heads=3,
    id2label=dict(enumerate(loader.classes)), label2id={name: i for i, name in enumerate(loader.classes)},
)
settings = TrainingArguments(
    output_dir="student", num_train_epochs=args.epochs, learning_rate=1e-3, weight_decay=0.01,
    lr_scheduler_type="cosine", logging_strategy="epoch", save_strategy="no", report_to="none",
)
trainer = ReplayTrainer(ViTForImageClassification(config), settings)
trainer.train()
trainer.save_model()  # ViTForImageClassification.from_pretrained("student")
