"""Codecs for soft labels, one per file. A codec turns logits [V,C] into named tensors and back."""
