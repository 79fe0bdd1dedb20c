"""Networks by name, checkpoints, pretrained weights and the shared training loop."""
