"""Networks by name, their checkpoints, and the one training loop."""
