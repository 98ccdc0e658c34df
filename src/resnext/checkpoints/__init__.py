"""Checkpoints of any kind: a document, and tensors in our names."""
